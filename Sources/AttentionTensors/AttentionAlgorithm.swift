/// Which tile kernels compute the products inside attention.
public enum AttentionAlgorithm: String, Sendable, Hashable, CaseIterable {
  /// OpenBLAS, one thread per call: every element type, every machine.
  case openBLAS = "openblas"
}
