import CLibrary

extension ReferenceAttention {
  /// The gradients of a problem, in row-major order. The gradients of the operands have the operands' shapes.
  public struct Gradients<Number> {
    public var query: [Number] = []
    public var key: [Number] = []
    public var value: [Number] = []
    /// The gradients of the scores that the softmax takes, `[B, H, L, S]`. The gradient of a bias is their sum over the
    /// axes along which the bias is broadcast.
    public var scores: [Number] = []
    /// The gradients of the sinks, `[H]`; zeros if there are no sinks.
    public var sinks: [Number] = []
    /// The gradients of the parameters of the function of scores.
    public var scoreParameters: [Number] = []
  }

  /// The gradients of a loss with respect to the operands, by the plain formula, one number after another.
  ///
  /// `outputGradient`, dO, has the shape `[B, H, L, Ev]` and is the gradient of the loss with respect to the output.
  /// With the weights P, the formula is dP = dO Vᵀ and dS = P ∘ (dP − Σ P ∘ dP). The derivatives of the functions that
  /// are applied to scores follow in reverse order. Products and sums are computed in `Number`. The gradients in Double
  /// are the reference; those in Float show how large the error of the plain formula is. Masked keys are left out, not
  /// multiplied by 0.
  @_specialize(where Number == Float)
  @_specialize(where Number == Double)
  public func gradients<Number: BinaryFloatingPoint>(
    of outputGradient: [Double], in _: Number.Type = Double.self
  ) -> Gradients<Number> {
    let scale = Number(self.scale ?? 1 / Double(max(E, 1)).squareRoot())
    let (query, key, value) = (query.map { Number($0) }, key.map { Number($0) }, value.map { Number($0) })
    let outputGradient = outputGradient.map { Number($0) }
    // The weights before dropout.
    var undropped = self
    undropped.dropout = { _, _, _, _ in 1 }
    let forward = undropped.answer(in: Number.self)
    var result = Gradients<Number>()
    result.query = [Number](repeating: 0, count: query.count)
    result.key = [Number](repeating: 0, count: key.count)
    result.value = [Number](repeating: 0, count: value.count)
    result.scores = [Number](repeating: 0, count: forward.weights.count)
    result.sinks = [Number](repeating: 0, count: H)
    result.scoreParameters = parameterDerivatives(0, 0, 0, 0, 0).map { _ in 0 }
    for b in 0..<B {
      for h in 0..<H {
        let g = h / (H / Hk)
        for i in 0..<L {
          let row = (b * H + h) * L + i
          let attended = (0..<S).filter { attends(b, h, i, $0) && bias(b, h, i, $0) != -.infinity }
          if attended.isEmpty { continue }
          let (q, o) = (row * E, row * Ev)
          var weightGradients = [Number](repeating: 0, count: S)
          var delta: Number = 0
          for j in attended {
            let v = ((b * Hk + g) * S + j) * Ev
            let weight = forward.weights[row * S + j]
            let factor = Number(dropout(b, h, i, j))
            for e in 0..<Ev {
              weightGradients[j] += outputGradient[o + e] * value[v + e]
              result.value[v + e] += weight * factor * outputGradient[o + e]
            }
            weightGradients[j] *= factor
            delta += weight * weightGradients[j]
          }
          if let sink = sinks?[h] {
            result.sinks[h] -= Number(exp(sink - Double(forward.logSumExp[row]))) * delta
          }
          for j in attended {
            let k = ((b * Hk + g) * S + j) * E
            var gradient = forward.weights[row * S + j] * (weightGradients[j] - delta)
            result.scores[row * S + j] = gradient
            var dot: Number = 0
            for e in 0..<E { dot += query[q + e] * key[k + e] }
            var score = scale * dot
            var capDerivative: Number = 1
            if let softcap {
              let t = Number(tanh(Double(score / Number(softcap))))
              score = Number(softcap) * t
              capDerivative = 1 - t * t
            }
            for (index, derivative) in parameterDerivatives(Double(score), b, h, i, j).enumerated() {
              result.scoreParameters[index] += gradient * Number(derivative)
            }
            gradient *= Number(scoreDerivative(Double(score), b, h, i, j)) * capDerivative
            for e in 0..<E {
              result.query[q + e] += scale * gradient * key[k + e]
              result.key[k + e] += scale * gradient * query[q + e]
            }
          }
        }
      }
    }
    return result
  }
}
