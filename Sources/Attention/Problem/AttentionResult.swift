public import AttentionTensors

/// What ``scaledDotProductAttention(query:key:value:mask:scale:softcap:sinks:layout:returning:context:)`` gives beside
/// the output.
public struct AttentionExtras: OptionSet, Sendable {
  public let rawValue: Int
  public init(rawValue: Int) { self.rawValue = rawValue }

  /// The natural logarithm of every softmax's denominator. Costs nothing.
  public static let logSumExp = AttentionExtras(rawValue: 1)
  /// The softmax itself. Costs `L × S` memory, and the time to compute the scores once more.
  public static let weights = AttentionExtras(rawValue: 2)
  /// `scale · Q Kᵀ`, also of masked keys. Costs `L × S` memory and another product.
  public static let rawScores = AttentionExtras(rawValue: 4)
  /// The same after softcap. Costs the same.
  public static let cappedScores = AttentionExtras(rawValue: 8)
  /// Scores as the softmax takes them: after softcap, functions, biases and masks, −inf where masked. Costs the same.
  public static let maskedScores = AttentionExtras(rawValue: 16)
}

/// The results of one call of attention.
public struct AttentionResult<Element: AttentionStorage>: Sendable {
  /// `[B, H, L, Ev]`, in the query's layout, rank and type.
  public let output: Tensor<Element>
  /// The order of the output's axes. What else there is has its heads first in either layout.
  public let layout: AttentionLayout
  /// `[B, H, L]`; −inf for a query that attends to nothing, the sink where there is one. Nil unless asked for.
  public let logSumExp: Tensor<Element.Arithmetic>?
  /// `[B, H, L, S]`; rows sum to 1, less a sink's share, or are 0 for a query that attends to nothing. Nil unless
  /// asked for.
  public let weights: Tensor<Element.Arithmetic>?
  /// `[B, H, L, S]`. Nil unless asked for.
  public let rawScores: Tensor<Element.Arithmetic>?
  /// `[B, H, L, S]`. Nil unless asked for.
  public let cappedScores: Tensor<Element.Arithmetic>?
  /// `[B, H, L, S]`. Nil unless asked for.
  public let maskedScores: Tensor<Element.Arithmetic>?
}
