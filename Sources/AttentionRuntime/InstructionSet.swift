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
  /// ``avx512`` and AVX512-BF16, which has products of pairs of BFloat16 numbers. These products serve
  /// ``AttentionAlgorithm/matrix`` only.
  case avx512BF16 = "avx512-bf16"
  /// x86-64 with AVX-512 and AMX, a matrix unit for BFloat16. The unit serves ``AttentionAlgorithm/matrix`` only. Linux
  /// lets a process use the unit only after the process has asked for permission, which this package does once. If
  /// Linux refuses, `amx` is not present.
  case amx
}
