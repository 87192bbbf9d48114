import CLibrary

/// A problem of scaled dot-product attention with its answer by the plain formula, written for reading.
///
/// B batch, H query heads, Hk key/value heads, L queries, S keys, E width, Ev width of values. Arrays are
/// row-major: query `[B, H, L, E]`, key `[B, Hk, S, E]`, value `[B, Hk, S, Ev]`.
public struct ReferenceAttention {
  public var B = 1
  public var H = 1
  public var Hk = 1
  public var L = 1
  public var S = 1
  public var E = 1
  public var Ev = 1
  public var query: [Double] = []
  public var key: [Double] = []
  public var value: [Double] = []
  public var scale: Double?
  /// Whether query i of head h may attend to key j; (b, h, i, j).
  public var attends: (Int, Int, Int, Int) -> Bool = { _, _, _, _ in true }
  /// cap·tanh(score / cap).
  public var softcap: Double?
  /// Replaces the score after softcap; (score, b, h, i, j).
  public var score: (Double, Int, Int, Int, Int) -> Double = { score, _, _, _, _ in score }
  /// One more logit for each head.
  public var sinks: [Double]?
  /// Added to the score; −inf forbids.
  public var bias: (Int, Int, Int, Int) -> Double = { _, _, _, _ in 0 }

  public init() {}

  public struct Answer<Number> {
    public var output: [Number] = []
    public var weights: [Number] = []
    public var logSumExp: [Number] = []
  }

  /// softmax(softcap(scale · Q Kᵀ) + bias) V, one number after another, all in `Number`. In Double it is the
  /// definition; in Float it tells how far the plain formula may be off.
  ///
  /// Masked keys are left out, not multiplied by 0. A query that attends to nothing gives 0, 0 and −inf.
  @_specialize(where Number == Float)
  @_specialize(where Number == Double)
  public func answer<Number: BinaryFloatingPoint>(in _: Number.Type = Double.self) -> Answer<Number> {
    let scale = Number(self.scale ?? 1 / Double(max(E, 1)).squareRoot())
    let (query, key, value) = (query.map { Number($0) }, key.map { Number($0) }, value.map { Number($0) })
    var answer = Answer<Number>()
    for b in 0..<B {
      for h in 0..<H {
        let g = h / (H / Hk)
        for i in 0..<L {
          let q = ((b * H + h) * L + i) * E
          var scores = [Number](repeating: -.infinity, count: S)
          for j in 0..<S where attends(b, h, i, j) && bias(b, h, i, j) != -.infinity {
            let k = ((b * Hk + g) * S + j) * E
            var dot: Number = 0
            for e in 0..<E { dot += query[q + e] * key[k + e] }
            var score = scale * dot
            if let softcap { score = Number(softcap) * Number(tanh(Double(score / Number(softcap)))) }
            scores[j] = Number(self.score(Double(score), b, h, i, j)) + Number(bias(b, h, i, j))
          }
          let attended = scores.indices.filter { scores[$0] != -.infinity }
          var weights = [Number](repeating: 0, count: S)
          var output = [Number](repeating: 0, count: Ev)
          let sink = sinks.map { Number($0[h]) }
          var logSumExp = sink ?? -Number.infinity
          if !attended.isEmpty {
            let most = (attended.map { scores[$0] } + (sink.map { [$0] } ?? [])).max { $0 < $1 }!
            var sum = sink.map { Number(exp(Double($0 - most))) } ?? 0
            for j in attended {
              weights[j] = Number(exp(Double(scores[j] - most)))
              sum += weights[j]
            }
            for j in attended {
              weights[j] /= sum
              let v = ((b * Hk + g) * S + j) * Ev
              for e in 0..<Ev { output[e] += weights[j] * value[v + e] }
            }
            logSumExp = most + Number(log(Double(sum)))
          }
          answer.output += output
          answer.weights += weights
          answer.logSumExp.append(logSumExp)
        }
      }
    }
    return answer
  }
}

/// Twice the error that the plain formula makes in `Number`, plus 1e-6 (for Double 1e-14) of the size.
public func tolerance<Number: BinaryFloatingPoint>(plain: [Number], exact: [Double]) -> Double {
  var error = 0.0
  var size = 0.0
  for (a, b) in zip(plain, exact) where b.isFinite {
    precondition(a.isFinite, "the plain formula overflows: it allows any error")
    error = max(error, abs(Double(a) - b))
    size = max(size, abs(b))
  }
  return 2 * error + (Number.significandBitCount > 30 ? 1e-14 : 1e-6) * max(size, 1e-3)
}

/// C = α·A·B + (accumulating ? C : 0) for row-major `m × k` and `k × n`, in Double.
public func referenceProduct(
  m: Int, n: Int, k: Int, alpha: Double, _ a: (Int, Int) -> Double, _ b: (Int, Int) -> Double, adding c: [Double]?
) -> [Double] {
  var result = [Double](repeating: 0, count: m * n)
  for i in 0..<m {
    for j in 0..<n {
      var dot = 0.0
      for p in 0..<k { dot += a(i, p) * b(p, j) }
      result[i * n + j] = alpha * dot + (c?[i * n + j] ?? 0)
    }
  }
  return result
}
