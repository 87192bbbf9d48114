public import AttentionTensors

/// The options of a call of attention, besides its operands, its mask and its context.
///
///     let output = try scaledDotProductAttention(
///       query: query, key: key, value: value, options: AttentionOptions(softcap: 50, layout: .lengthFirst))
///
/// `Element` is the type that attention computes in: Double for operands of Double, Float for all others. It follows
/// from the operands, so you need not write it.
public struct AttentionOptions<Element: AttentionElement>: Sendable {
  /// The factor by which scores are multiplied before anything else is done to them. Nil: 1/√E, where E is the head
  /// dimension. With 0, every score is 0 before the mask, whatever the query and the key hold.
  public var scale: Double?
  /// The bound c of the scores: after the scale and before the mask they become c·tanh(score / c). Nil: no bound.
  public var softcap: Double?
  /// `[H]`: one more logit for each head. It takes a share of the weights and has no value. Nil: none.
  public var sinks: Tensor<Element>?
  /// The order of the operands' and the output's axes.
  public var layout: AttentionLayout

  /// Dropout of the weights, for training. Nil: none.
  public var dropout: AttentionDropout?

  /// Options with the given values, and defaults for all others.
  public init(
    scale: Double? = nil, softcap: Double? = nil, sinks: Tensor<Element>? = nil,
    layout: AttentionLayout = .headsFirst, dropout: AttentionDropout? = nil
  ) {
    self.scale = scale
    self.softcap = softcap
    self.sinks = sinks
    self.layout = layout
    self.dropout = dropout
  }
}
