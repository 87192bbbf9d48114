import Attention
import DifferentiableAttention
import Testing
import _Differentiation

@Suite("Swift's automatic differentiation over attention")
struct DifferentiableAttentionTests {
  private func random(_ shape: [Int], _ seed: UInt64) throws -> DifferentiableTensor {
    DifferentiableTensor(try Tensor(uniform: -1..<1, shape: shape, seed: seed))
  }

  /// (f(x + step) − f(x − step)) / (2·step), where x is one element of the tensor.
  private func centralDifference(
    _ x: DifferentiableTensor, _ index: Int, _ f: (DifferentiableTensor) -> Float
  ) throws -> Float {
    func value(_ step: Float) throws -> Float {
      var elements = x.tensor.array
      elements[index] += step
      return f(DifferentiableTensor(try Tensor(elements, shape: x.tensor.shape)))
    }
    return try (value(0.01) - value(-0.01)) / 0.02
  }

  @Test("the gradient of a function that calls attention twice agrees with central differences")
  func functions() throws {
    let (query, key, value) = (try random([1, 2, 5, 4], 1), try random([1, 2, 5, 4], 2), try random([1, 2, 5, 4], 3))
    @differentiable(reverse)
    func loss(_ query: DifferentiableTensor) -> Float {
      let inner = attention(query, key, value, mask: .causal)
      return attention(inner, query, inner).sumOfSquares()
    }
    let gradient = gradient(at: query, of: loss).tensor!
    #expect(gradient.shape == [1, 2, 5, 4])
    for index in stride(from: 0, to: 40, by: 3) {
      let expected = try centralDifference(query, index, loss)
      #expect(abs(gradient.array[index] - expected) < 2e-3, "element \(index)")
    }
  }

  @Test("steps along the gradient of a layer's parameters make the loss smaller")
  func layer() throws {
    var layer = DifferentiableLayer(try MultiHeadAttention<Float>(embeddingDimension: 8, headCount: 2, seed: 1))
    let x = try random([2, 4, 8], 2)
    var losses: [Float] = []
    for _ in 0..<20 {
      let (loss, gradients) = valueWithGradient(at: layer, x) { layer, x in layer(x).sumOfSquares() }
      #expect(gradients.1.tensor!.shape == [2, 4, 8])
      losses.append(loss)
      layer.move(by: gradients.0.scaled(by: -0.02))
    }
    #expect(losses.last! < 0.3 * losses[0])
  }
}
