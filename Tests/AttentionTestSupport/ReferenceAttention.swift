import CLibrary

/// A problem of scaled dot-product attention. The plain formula computes its answer, in code that is easy to read.
///
/// B is the batch size, H the number of query heads, Hk the number of key and value heads, L the number of queries, S
/// the number of keys, E the width of queries and keys, and Ev the width of values.
///
/// Arrays are row-major: query `[B, H, L, E]`, key `[B, Hk, S, E]`, value `[B, Hk, S, Ev]`.
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
  /// Whether query i of head h may attend to key j. The arguments are (b, h, i, j); b is the element of the batch.
  public var attends: (Int, Int, Int, Int) -> Bool = { _, _, _, _ in true }
  /// The bound of scores: each score becomes softcap·tanh(score / softcap). It is nil if scores are not capped.
  public var softcap: Double?
  /// The score that replaces the given score after the softcap. The arguments are (score, b, h, i, j).
  public var score: (Double, Int, Int, Int, Int) -> Double = { score, _, _, _, _ in score }
  /// The derivative of ``score`` with respect to the score. The arguments are (score, b, h, i, j).
  public var scoreDerivative: (Double, Int, Int, Int, Int) -> Double = { _, _, _, _, _ in 1 }
  /// The derivatives of ``score`` with respect to its parameters. The arguments are (score, b, h, i, j).
  public var parameterDerivatives: (Double, Int, Int, Int, Int) -> [Double] = { _, _, _, _, _ in [] }
  /// The factor by which the weight of query i of head h for key j is multiplied after the softmax. The arguments are
  /// (b, h, i, j).
  public var dropout: (Int, Int, Int, Int) -> Double = { _, _, _, _ in 1 }
  /// One more logit for each head.
  public var sinks: [Double]?
  /// The number that is added to the score; −inf forbids the key. The arguments are (b, h, i, j).
  public var bias: (Int, Int, Int, Int) -> Double = { _, _, _, _ in 0 }

  public init() {}

  public struct Answer<Number> {
    public var output: [Number] = []
    public var weights: [Number] = []
    public var logSumExp: [Number] = []
  }

  /// (dropout ∘ softmax(score(softcap(scale · Q Kᵀ)) + bias)) V, one number after another. Products and sums are
  /// computed in `Number`; tanh, exp and log in Double, and then rounded. The answer in Double is the reference; the
  /// answer in Float shows how large the error of the plain formula is.
  ///
  /// Masked keys are left out, not multiplied by 0. For a query that attends to nothing, output and weights are 0, and
  /// the log-sum-exp is the head's sink, or −inf without sinks.
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
              weights[j] = weights[j] / sum * Number(dropout(b, h, i, j))
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

/// Twice the largest error of the plain formula in `Number`, plus 1e-6 (for Double 1e-14) times the largest magnitude
/// of the exact numbers, which counts as at least 1e-3.
@_specialize(where Number == Float)
@_specialize(where Number == Double)
public func tolerance<Number: BinaryFloatingPoint>(plain: [Number], exact: [Double]) -> Double {
  var error = 0.0
  var size = 0.0
  for index in 0..<min(plain.count, exact.count) where exact[index].isFinite {
    let (a, b) = (plain[index], exact[index])
    precondition(a.isFinite, "the plain formula overflows, so the tolerance would allow any error")
    error = max(error, abs(Double(a) - b))
    size = max(size, abs(b))
  }
  return 2 * error + (Number.significandBitCount > 30 ? 1e-14 : 1e-6) * max(size, 1e-3)
}

/// The product α·A·B + C in Double, row-major, for A of `m × k` and B of `k × n`. If `c` is nil, C is 0.
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
