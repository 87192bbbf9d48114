/// What computes the products of attention, of layers and of `matmul`.
public enum AttentionAlgorithm: String, Sendable, Hashable, CaseIterable {
  /// This package's own kernels, for which one operand is packed into the layout of vectors. The default with every
  /// instruction set but `portable`.
  case packed
  /// OpenBLAS, one thread per call. The default with portable kernels.
  case openBLAS = "openblas"
  /// Products of operands that are split into BFloat16 parts, by the matrix unit of ``InstructionSet/amx``, by the
  /// products of ``InstructionSet/avx512BF16``, or by other vectors with the results of AMX, which is slow.
  ///
  /// It serves scaled dot product attention in Float, Float16 and `BFloat16`; calls in Double, gradients, decoding of a
  /// few queries, and all other products are as with `packed`. ``AttentionPrecision`` says how accurate it is.
  case matrix
}
