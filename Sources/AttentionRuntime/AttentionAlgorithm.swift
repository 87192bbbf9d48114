/// Who computes the products inside attention, and those of layers and `matmul`.
public enum AttentionAlgorithm: String, Sendable, Hashable, CaseIterable {
  /// This package's own kernels, for which one operand is packed into the layout of vectors. The default.
  case packed
  /// OpenBLAS, one thread per call.
  case openBLAS = "openblas"
}
