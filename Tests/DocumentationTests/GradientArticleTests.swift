import Attention
import AttentionTestSupport
import Testing

@Suite("Documentation: gradients")
struct GradientArticleTests {
  private func difference(_ a: Tensor<Float>, _ b: Tensor<Float>) throws -> Tensor<Float> {
    try Tensor(zip(a.array, b.array).map { $0 - $1 }, shape: a.shape)
  }

  private func loss(_ a: Tensor<Float>, _ b: Tensor<Float>) -> Float {
    zip(a.array, b.array).reduce(0) { $0 + ($1.0 - $1.1) * ($1.0 - $1.1) / 2 }
  }

  @Test("a step against the gradient makes the loss smaller; biases, functions and dropout as in the article")
  func article() throws {
    var query = try Tensor<Float>(uniform: -1..<1, shape: [1, 8, 16, 64], seed: 1)
    let key = try Tensor<Float>(uniform: -1..<1, shape: [1, 8, 16, 64], seed: 2)
    var value = try Tensor<Float>(uniform: -1..<1, shape: [1, 8, 16, 64], seed: 3)
    let target = try Tensor<Float>(uniform: -1..<1, shape: [1, 8, 16, 64], seed: 4)
    let step: UInt64 = 1

    // One step that brings the output nearer to `target`: loss = Σ (output − target)² / 2.
    let result = try scaledDotProductAttention(
      query: query, key: key, value: value, mask: .causal, returning: .logSumExp)
    let outputGradient = try difference(result.output, target)
    let gradients = try scaledDotProductAttentionGradients(
      query: query, key: key, value: value, mask: .causal, result: result, outputGradient: outputGradient)
    query = try difference(query, gradients.query)
    value = try difference(value, gradients.value)

    let after = try scaledDotProductAttention(query: query, key: key, value: value, mask: .causal)
    #expect(loss(after, target) < 0.9 * loss(result.output, target))

    let bias = try Tensor<Float>(repeating: 0, shape: [1, 1, 16, 16])  // one for all heads
    let mask = AttentionMask.causal.combined(with: .bias(bias))
    let biased = try scaledDotProductAttention(query: query, key: key, value: value, mask: mask, returning: .logSumExp)
    let more = try scaledDotProductAttentionGradients(
      query: query, key: key, value: value, mask: mask, result: biased, outputGradient: outputGradient,
      returning: .biases)
    print(try more.biases[0].shape)  // [1, 1, 16, 16]
    #expect(try more.biases[0].shape == [1, 1, 16, 16])

    let squashed = AttentionMask.scores(Float.self) { tile in
      tile.update { score, _ in score / (1 + abs(score)) }
    } derivative: { scores, gradient in
      for row in 0..<gradient.rowCount {
        for key in gradient.keys {
          let divisor = 1 + abs(scores[row, key])
          gradient[row, key] /= divisor * divisor
        }
      }
    }
    let slope: Float = 0.05
    let sloping = AttentionMask.scores(Float.self, parameterCount: 1) { tile in
      tile.update { score, at in score + slope * Float(at.key - at.query) }
    } derivative: { _, gradient, parameters in
      for row in 0..<gradient.rowCount {
        for key in gradient.keys {
          let at = gradient.position(row: row, key: key)
          parameters[0] += gradient[row, key] * Float(at.key - at.query)
        }
      }
    }
    let sloped = try scaledDotProductAttention(
      query: query, key: key, value: value, mask: sloping, returning: .logSumExp)
    let slopeGradients = try scaledDotProductAttentionGradients(
      query: query, key: key, value: value, mask: sloping, result: sloped, outputGradient: outputGradient,
      returning: .scoreParameters)
    print(try slopeGradients.scoreParameters.shape)  // [1]
    // Under a causal mask, this function is ALiBi with the same slope for all heads.
    func maskGradients(_ mask: AttentionMask, _ extras: AttentionGradientExtras) throws -> AttentionGradients<
      Float, Float
    > {
      let mask = AttentionMask.causal.combined(with: mask)
      let result = try scaledDotProductAttention(
        query: query, key: key, value: value, mask: mask, returning: .logSumExp)
      return try scaledDotProductAttentionGradients(
        query: query, key: key, value: value, mask: mask, result: result, outputGradient: outputGradient,
        returning: extras)
    }
    let ofFunction = try maskGradients(sloping, .scoreParameters).scoreParameters[0]
    let linear = AttentionMask.alibi(slopes: Array(repeating: Double(slope), count: 8))
    let ofSlopes = try maskGradients(linear, .alibiSlopes).alibiSlopes[0].array.reduce(0, +)
    #expect(ofSlopes != 0 && abs(ofFunction - ofSlopes) < 1e-5 * max(1, abs(ofSlopes)))

    let options = AttentionOptions<Float>(dropout: AttentionDropout(probability: 0.1, seed: step))
    let dropped = try scaledDotProductAttention(
      query: query, key: key, value: value, mask: squashed, options: options, returning: .logSumExp)
    let last = try scaledDotProductAttentionGradients(
      query: query, key: key, value: value, mask: squashed, options: options, result: dropped,
      outputGradient: outputGradient)

    // The gradient of one element of the query by a difference quotient, in Double.
    func exactLoss(_ change: Double) throws -> Double {
      func wide(_ x: Tensor<Float>) throws -> Tensor<Double> { try Tensor(converting: x) }
      var moved = try wide(query)
      moved[0, 3, 5, 7] += change
      let function = AttentionMask.scores(Double.self) { tile in
        tile.update { score, _ in score / (1 + abs(score)) }
      }
      let output = try scaledDotProductAttention(
        query: moved, key: wide(key), value: wide(value), mask: function,
        options: AttentionOptions(dropout: AttentionDropout(probability: 0.1, seed: step)))
      return zip(output.array, outputGradient.array).reduce(0) { $0 + $1.0 * Double($1.1) }
    }
    let quotient = try (exactLoss(1e-5) - exactLoss(-1e-5)) / 2e-5
    #expect(abs(Double(last.query[0, 3, 5, 7]) - quotient) < 1e-5)
  }
}
