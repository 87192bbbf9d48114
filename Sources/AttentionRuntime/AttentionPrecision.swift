/// How accurate products are at least. Faster products are used only if they are as accurate.
public enum AttentionPrecision: String, Sendable, Hashable, CaseIterable {
  /// The accuracy of Float's arithmetic, also for operands of two bytes, whose numbers are exact.
  case full
  /// The accuracy of operands and weights that are rounded to BFloat16, which has 8 significant bits, and summed in Float.
  ///
  /// Only ``AttentionAlgorithm/matrix`` makes use of it. With it, each product is computed once instead of up to six
  /// times. Rounding changes a number by up to 2⁻⁸ of it. So a score has an error of up to 2⁻⁷·scale·Σ|qᵢ·kᵢ|, and
  /// rounded weights and values change an element of the output by up to 2⁻⁷ of the largest attended value. Operands
  /// that are stored as BFloat16 are not changed.
  case bfloat16
}
