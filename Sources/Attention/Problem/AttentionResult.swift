public import AttentionTensors

/// What ``scaledDotProductAttention(query:key:value:mask:options:returning:context:)`` returns besides the output.
public struct AttentionExtras: OptionSet, Sendable {
  public let rawValue: Int
  public init(rawValue: Int) { self.rawValue = rawValue }

  /// The natural logarithm of every softmax's denominator. It costs next to nothing.
  public static let logSumExp = AttentionExtras(rawValue: 1)
  /// The softmax itself, after dropout. Costs memory for L × S elements for each head, where L is the number of queries
  /// and S the number of keys, and the time to compute the scores once more.
  public static let weights = AttentionExtras(rawValue: 2)
  /// `scale · Q Kᵀ`, including masked keys. Costs memory for L × S elements for each head, and another product.
  public static let rawScores = AttentionExtras(rawValue: 4)
  /// The raw scores after softcap. Costs as much as ``rawScores``.
  public static let cappedScores = AttentionExtras(rawValue: 8)
  /// The scores that the softmax takes: after softcap, functions, biases and masks; −inf where masked. Costs as much as
  /// ``rawScores``.
  public static let maskedScores = AttentionExtras(rawValue: 16)
}

/// The results of one call of attention: the output, and the extras that the call asked for.
///
/// Reading an extra that the call did not ask for throws an `AttentionError`.
public struct AttentionResult<Element: AttentionStorage>: Sendable {
  /// `[B, H, L, Ev]`, in the query's layout, rank and type.
  public let output: Tensor<Element>
  /// The order of the output's axes. All other results have heads first in either layout.
  public let layout: AttentionLayout
  private let extras: Extras

  struct Extras: Sendable {
    var logSumExp: Tensor<Element.Arithmetic>?
    var weights: Tensor<Element.Arithmetic>?
    var rawScores: Tensor<Element.Arithmetic>?
    var cappedScores: Tensor<Element.Arithmetic>?
    var maskedScores: Tensor<Element.Arithmetic>?
  }

  init(output: Tensor<Element>, layout: AttentionLayout, extras: Extras) {
    self.output = output
    self.layout = layout
    self.extras = extras
  }

  /// Makes a result from the output and the log-sum-exp of an earlier call, so that the gradients of that call can be
  /// computed.
  /// - Parameters:
  ///   - output: The call's output.
  ///   - logSumExp: The call's log-sum-exp, `[B, H, L]`. It has no batch axis or head axis if the output has none.
  ///   - layout: The order of the output's axes.
  public init(output: Tensor<Element>, logSumExp: Tensor<Element.Arithmetic>, layout: AttentionLayout = .headsFirst) {
    self.init(output: output, layout: layout, extras: Extras(logSumExp: logSumExp))
  }

  /// `[B, H, L]`: ``AttentionExtras/logSumExp``. A query that attends to nothing has −inf, or the sink's logit if its
  /// head has a sink.
  public var logSumExp: Tensor<Element.Arithmetic> {
    get throws(AttentionError) { try requested(extras.logSumExp, "logSumExp") }
  }

  /// `[B, H, L, S]`: ``AttentionExtras/weights``. Without dropout, the weights of a query sum to 1, or to 1 minus the
  /// sink's share. The weights of a query that attends to nothing are 0.
  public var weights: Tensor<Element.Arithmetic> {
    get throws(AttentionError) { try requested(extras.weights, "weights") }
  }

  /// `[B, H, L, S]`: ``AttentionExtras/rawScores``.
  public var rawScores: Tensor<Element.Arithmetic> {
    get throws(AttentionError) { try requested(extras.rawScores, "rawScores") }
  }

  /// `[B, H, L, S]`: ``AttentionExtras/cappedScores``.
  public var cappedScores: Tensor<Element.Arithmetic> {
    get throws(AttentionError) { try requested(extras.cappedScores, "cappedScores") }
  }

  /// `[B, H, L, S]`: ``AttentionExtras/maskedScores``.
  public var maskedScores: Tensor<Element.Arithmetic> {
    get throws(AttentionError) { try requested(extras.maskedScores, "maskedScores") }
  }
}

/// Returns `result`. Throws an `AttentionError` if it is nil, because the call did not ask for it.
func requested<Result>(_ result: Result?, _ name: String) throws(AttentionError) -> Result {
  guard let result else {
    throw AttentionError(
      .invalidArgument, "AttentionResult.\(name)",
      "a call that returns \(name) expected; this one was not asked for them")
  }
  return result
}
