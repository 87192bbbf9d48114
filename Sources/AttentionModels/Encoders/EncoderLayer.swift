internal import Attention
internal import AttentionTensors

/// A layer of an encoder whose norms follow the residual sums, as in Vaswani et al. 2017 and BERT:
///
///     x ← norm(x + attention(x)),   x ← norm(x + W₂·f(W₁·x + b₁) + b₂)
struct EncoderLayer: Sendable {
  let attention: MultiHeadAttention<Float>
  let attentionNorm: LayerNorm<Float>
  let feedForward: FeedForward<Float>
  let outputNorm: LayerNorm<Float>

  /// The output of the layer for `x` `[T, d]`, which holds sequences one after another.
  func forward(_ x: Tensor<Float>, lengths: [Int], context: AttentionContext) throws -> Tensor<Float> {
    try finish(attention.forward(packed: x, lengths: lengths, context: context), x, context: context)
  }

  /// The output of the layer, from its input `x` and the output of its attention.
  func finish(_ attended: Tensor<Float>, _ x: Tensor<Float>, context: AttentionContext) throws -> Tensor<Float> {
    var attended = attended
    try attentionNorm.apply(to: &attended, adding: x, context: context)
    var result = try feedForward(attended, context: context)
    try outputNorm.apply(to: &result, adding: attended, context: context)
    return result
  }

  /// Packs all weights.
  func pack(context: AttentionContext) throws {
    try attention.pack(context: context)
    try feedForward.pack(context: context)
  }
}
