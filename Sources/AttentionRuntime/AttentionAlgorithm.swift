/// What computes the products of attention, of layers and of `matmul`.
public enum AttentionAlgorithm: String, Sendable, Hashable, CaseIterable {
  /// This package's own kernels. They pack an operand into the layout of vectors where that is faster. The default with
  /// every instruction set but ``InstructionSet/portable``.
  case packed
  /// OpenBLAS, one thread per call. The default with portable kernels.
  case openBLAS = "openblas"
  /// Products of operands that are split into BFloat16 parts. The matrix unit of ``InstructionSet/amx`` or the
  /// instructions of ``InstructionSet/avx512BF16`` compute them. Other instruction sets compute what AMX would, which
  /// is slow.
  ///
  /// This algorithm serves scaled dot product attention in Float, Float16 and `BFloat16`. In gradients, it computes
  /// only the scores. The other products of gradients, calls in Double, decoding of a few queries, and the products of
  /// layers and of `matmul` are computed as with `packed`. ``AttentionPrecision`` says how accurate this algorithm is.
  case matrix
}
