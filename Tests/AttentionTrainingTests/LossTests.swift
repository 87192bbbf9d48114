import Attention
import AttentionTestSupport
import AttentionTraining
import Testing

@Suite("Losses")
struct LossTests {
  /// The cross entropy of a row x of logits: ln Σ exp(xⱼ) − x[target].
  private func crossEntropy(_ row: [Double], _ target: Int) -> Double {
    let maximum = row.max() ?? 0
    return maximum + row.reduce(0) { $0 + ($1 - maximum).exponential }.logarithm - row[target]
  }

  private func random<Element: AttentionElement>(_ shape: [Int], _ seed: UInt64, _: Element.Type) throws -> Tensor<
    Element
  > {
    try Tensor(uniform: -8..<8, shape: shape, seed: seed)
  }

  @Test("cross entropy and its gradient agree with the formula", arguments: [1, 2, 17, 1000])
  func formula(classCount: Int) throws {
    func check<Element: AttentionElement>(_: Element.Type) throws {
      let logits = try random([3, 4, classCount], 1, Element.self)
      let classes = (0..<12).map { $0 % 5 == 3 ? -100 : ($0 * 7) % classCount }
      let targets = try Tensor(classes.map { Int32($0) }, shape: [3, 4])
      // Transposed in memory: any strides are allowed.
      let strided = try logits.permuted([2, 0, 1]).contiguous().permuted([1, 2, 0])
      let kept = classes.indices.filter { classes[$0] != -100 }
      let numbers = logits.array.map { Double($0) }
      let rows = (0..<12).map { Array(numbers[$0 * classCount..<($0 + 1) * classCount]) }
      let expected = kept.reduce(0) { $0 + crossEntropy(rows[$1], classes[$1]) } / Double(kept.count)
      for threadCount in [1, 3] {
        let loss = try AttentionTraining.crossEntropy(
          strided, targets: targets, context: AttentionContext(threadCount: threadCount))
        #expect(abs(loss.value - expected) <= 40 * Double(Element.ulpOfOne) * max(1, expected))
        let gradient = rows.indices.flatMap { row -> [Double] in
          guard classes[row] != -100 else { return rows[row].map { _ in 0 } }
          let total = rows[row].reduce(0) { $0 + $1.exponential }
          return rows[row].indices.map {
            (rows[row][$0].exponential / total - ($0 == classes[row] ? 1 : 0)) / Double(kept.count)
          }
        }
        #expect(mismatch(loss.gradient.array, gradient, tolerance: 20 * Double(Element.ulpOfOne)) == nil)
      }
    }
    try check(Float.self)
    try check(Double.self)
  }

  @Test("if every row is ignored, loss and gradient are 0")
  func everythingIgnored() throws {
    let loss = try AttentionTraining.crossEntropy(
      random([2, 3], 1, Float.self), targets: [-100, -100])
    #expect(loss.value == 0 && loss.gradient.array.allSatisfy { $0 == 0 })
  }

  @Test("wrong targets, shapes and losses that are not finite are refused, with a message that names them")
  func refusals() throws {
    func expect(_ code: AttentionError.Code, _ text: String, _ body: () throws -> Void) {
      let error = #expect(throws: AttentionError.self) { try body() }
      #expect(error?.code == code && error?.description.contains(text) == true, "\(error?.description ?? "none")")
    }
    let logits = try random([2, 3], 1, Float.self)
    expect(.invalidArgument, "targets from 0 to 2 expected, or -100; row 1 has 3") {
      _ = try AttentionTraining.crossEntropy(logits, targets: [0, 3])
    }
    expect(.shapeMismatch, "got [2, 3] and [3]") { _ = try AttentionTraining.crossEntropy(logits, targets: [0, 1, 2]) }
    for value in [Float.nan, .infinity] {
      var broken = logits
      broken[1, 2] = value
      expect(.notFinite, "the loss of row 1 is") { _ = try AttentionTraining.crossEntropy(broken, targets: [0, 1]) }
    }
    expect(.shapeMismatch, "M from N expected; got [3, 2] and [2, 2]") {
      _ = try multipleNegativesRankingLoss(
        queries: Tensor<Float>(repeating: 1, shape: [3, 2]), candidates: Tensor(repeating: 1, shape: [2, 2]))
    }
    expect(.invalidArgument, "a scale above 0 expected; got 0.0") {
      _ = try multipleNegativesRankingLoss(
        queries: Tensor<Float>(repeating: 1, shape: [2, 2]), candidates: Tensor(repeating: 1, shape: [2, 2]), scale: 0)
    }
    var broken = try Tensor<Float>(repeating: 1, shape: [2, 2])
    broken[0, 0] = .nan
    expect(.notFinite, "a finite loss expected") {
      _ = try multipleNegativesRankingLoss(queries: broken, candidates: Tensor(repeating: 1, shape: [2, 2]))
    }
  }

  @Test("the ranking loss agrees with its formula and its central differences", arguments: VectorSimilarity.allCases)
  func ranking(similarity: VectorSimilarity) throws {
    let queries = try Tensor<Double>(uniform: -1..<1, shape: [3, 5], seed: 1)
    let candidates = try Tensor<Double>(uniform: -1..<1, shape: [5, 5], seed: 2)
    func formula(_ q: [Double], _ c: [Double]) -> Double {
      func dot(_ a: ArraySlice<Double>, _ b: ArraySlice<Double>) -> Double { zip(a, b).reduce(0) { $0 + $1.0 * $1.1 } }
      func compare(_ a: ArraySlice<Double>, _ b: ArraySlice<Double>) -> Double {
        similarity == .dot ? dot(a, b) : dot(a, b) / (dot(a, a) * dot(b, b)).squareRoot()
      }
      return (0..<3).reduce(0) { sum, i in
        sum + crossEntropy((0..<5).map { 7 * compare(q[i * 5..<i * 5 + 5], c[$0 * 5..<$0 * 5 + 5]) }, i)
      } / 3
    }
    let loss = try multipleNegativesRankingLoss(
      queries: queries, candidates: candidates, similarity: similarity, scale: 7)
    #expect(abs(loss.value - formula(queries.array, candidates.array)) < 1e-12)
    func differences(_ x: [Double], _ loss: ([Double]) -> Double) -> [Double] {
      x.indices.map { i in
        var (more, less) = (x, x)
        more[i] += 1e-5
        less[i] -= 1e-5
        return (loss(more) - loss(less)) / 2e-5
      }
    }
    let queryGradient = differences(queries.array) { formula($0, candidates.array) }
    let candidateGradient = differences(candidates.array) { formula(queries.array, $0) }
    #expect(mismatch(loss.queryGradient.array, queryGradient, tolerance: 1e-8) == nil)
    #expect(mismatch(loss.candidateGradient.array, candidateGradient, tolerance: 1e-8) == nil)
  }

  @Test("a query that equals its own candidate counts as correct, but not if all candidates are equal")
  func correctCount() throws {
    let vectors = try Tensor<Float>(uniform: -1..<1, shape: [4, 6], seed: 3)
    #expect(try multipleNegativesRankingLoss(queries: vectors, candidates: vectors).correctCount == 4)
    let same = try Tensor<Float>(repeating: 1, shape: [4, 6])
    #expect(try multipleNegativesRankingLoss(queries: vectors, candidates: same).correctCount == 0)
  }
}
