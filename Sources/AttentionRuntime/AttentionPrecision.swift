/// How accurate products are at least. Faster products are used only if they are as accurate.
public enum AttentionPrecision: String, Sendable, Hashable, CaseIterable {
  /// The accuracy of Float's arithmetic, also for operands of two bytes, whose numbers are exact.
  case full
  /// The accuracy of operands and weights that are rounded to BFloat16, which has 8 significant bits, and summed in Float.
  ///
  /// Only ``AttentionAlgorithm/matrix`` makes use of it. With it, each product is computed once instead of up to six
  /// times. An element of the output then has an error of up to 2⁻⁸ times the largest attended value, and scores have
  /// errors of up to 2⁻⁸·scale·Σ|qᵢ·kᵢ|; operands that are stored as BFloat16 make no error in scores.
  case bfloat16
}
