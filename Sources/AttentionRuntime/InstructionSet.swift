/// A family of CPU instructions for which the kernels are compiled. The best one present is used,
/// unless ``AttentionContext`` or the environment variable `ATTENTION_ISA` names another.
public enum InstructionSet: String, Sendable, Hashable, CaseIterable {
  /// What every CPU of the architecture has.
  case portable
  /// AArch64's Advanced SIMD.
  case neon
  /// x86-64 with AVX2, FMA and F16C.
  case avx2
  /// x86-64 with AVX-512 F, BW, DQ and VL.
  case avx512
  /// The same with products of BFloat16 pairs, AVX512-BF16. They serve ``AttentionAlgorithm/matrix`` only.
  case avx512BF16 = "avx512-bf16"
  /// x86-64 with AVX-512 and AMX, a matrix unit for BFloat16. It serves ``AttentionAlgorithm/matrix`` only. A process
  /// needs the permission of Linux for the unit, which is asked for once; if Linux refuses, `amx` is not present.
  case amx
}
