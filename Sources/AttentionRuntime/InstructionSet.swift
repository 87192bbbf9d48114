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
}
