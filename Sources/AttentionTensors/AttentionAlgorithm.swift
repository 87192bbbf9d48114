/// Which tile kernels compute the products inside attention.
public enum AttentionAlgorithm: String, Sendable, Hashable, CaseIterable {
  /// This package's own kernels, with the queries of a tile packed into registers' layout. The default.
  case packed
  /// OpenBLAS, one thread per call.
  case openBLAS = "openblas"
}
