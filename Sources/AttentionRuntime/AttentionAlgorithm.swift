/// What computes the products of attention, of layers and of `matmul`.
public enum AttentionAlgorithm: String, Sendable, Hashable, CaseIterable {
  /// This package's own kernels, for which one operand is packed into the layout of vectors. The default with every
  /// instruction set but `portable`.
  case packed
  /// OpenBLAS, one thread per call. The default with portable kernels.
  case openBLAS = "openblas"
}
