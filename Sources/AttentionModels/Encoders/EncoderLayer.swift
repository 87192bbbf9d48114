internal import Attention
internal import AttentionBLAS
internal import AttentionTensors

/// A layer norm: `(x − mean) / √(variance + ε) · weight + bias` of every row.
struct LayerNorm: Sendable {
  /// `[d]`, contiguous.
  let weight: Tensor<Float>
  /// `[d]`, contiguous.
  let bias: Tensor<Float>
  let epsilon: Double

  /// x ← norm(x + residual), both `[T, d]` and contiguous.
  func apply(to x: inout Tensor<Float>, residual: Tensor<Float>, context: AttentionContext) throws {
    let kernels = try context.kernels(for: Float.self)
    let (rowCount, width) = (x.shape[0], x.shape[1])
    try x.withMutableView { view in
      let base = UncheckedSendable(view.base)
      // Blocks of some 45 µs.
      let block = max(1, Self.blockCount / width)
      let isShared = rowCount >= 2 * block
      context.execute(
        pieceCount: (rowCount + block - 1) / block, width: isShared ? context.threadCount : 1
      ) { piece, _ in
        let rows = piece * block..<min((piece + 1) * block, rowCount)
        apply(
          rowCount: rows.count, width, base.value + rows.lowerBound * width,
          residual: residual.base + rows.lowerBound * width, into: base.value + rows.lowerBound * width, kernels)
      }
    }
  }

  private static let blockCount = 1 << 17

  /// y ← norm(x + residual) for contiguous rows.
  func apply(
    rowCount: Int, _ width: Int, _ x: UnsafePointer<Float>, residual: UnsafePointer<Float>,
    into y: UnsafeMutablePointer<Float>, _ kernels: Kernels<Float>
  ) {
    kernels.layerNorm(
      rowCount: rowCount, width: width, x, stride: width, residual: residual, residualStride: width,
      weight: weight.base, bias: bias.base, epsilon: epsilon, into: y, stride: width)
  }
}

/// A layer of an encoder whose norms follow the residual sums, as in Vaswani et al. 2017 and BERT:
///
///     x ← norm(x + attention(x)),   x ← norm(x + W₂·f(W₁·x + b₁) + b₂)
struct EncoderLayer: Sendable {
  let attention: MultiHeadAttention<Float>
  let attentionNorm: LayerNorm
  let intermediate: Linear<Float>
  let output: Linear<Float>
  let outputNorm: LayerNorm

  /// What the layer makes of `x` `[T, d]`, sequences one after another.
  func forward(_ x: Tensor<Float>, lengths: [Int], context: AttentionContext) throws -> Tensor<Float> {
    try finish(attention.forward(packed: x, lengths: lengths, context: context), x, context: context)
  }

  /// What the layer makes of `x` and what attention has made of it.
  func finish(_ attended: Tensor<Float>, _ x: Tensor<Float>, context: AttentionContext) throws -> Tensor<Float> {
    var attended = attended
    try attentionNorm.apply(to: &attended, residual: x, context: context)
    var result = try output(intermediate(attended, context: context), context: context)
    try outputNorm.apply(to: &result, residual: attended, context: context)
    return result
  }

  /// Packs all weights.
  func pack(context: AttentionContext) throws {
    try attention.pack(context: context)
    try intermediate.pack(context: context)
    try output.pack(context: context)
  }
}
