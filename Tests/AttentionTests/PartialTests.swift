import Attention
import AttentionProblems
import AttentionTestSupport
import Testing

@Suite("Partial results")
struct PartialTests {
  @Test("the results of the parts of any split of the keys merge to the result of all keys", arguments: 0..<8)
  func anySplit(seed: Int) throws {
    for context in AttentionContext.everyPath {
      try anySplit(seed, Float.self, context)
      try anySplit(seed, Double.self, context)
    }
  }

  private func anySplit<Element: AttentionElement>(_ seed: Int, _: Element.Type, _ context: AttentionContext) throws {
    var generator = TestGenerator(seed: UInt64(seed))
    let S = Int.random(in: 1...200, using: &generator)
    let layout: AttentionLayout = seed % 2 == 0 ? .headsFirst : .lengthFirst
    let scenario = Scenario(B: 2, H: 4, Hk: 2, L: 5, S: S, mask: .boolean)
    let inputs = try Inputs<Element>(scenario.reference())
    func ordered(_ x: Tensor<Element>) throws -> Tensor<Element> {
      layout == .headsFirst ? x : try x.permuted([0, 2, 1, 3])
    }
    let flags = try scenario.libraryMask(Element.self).attendance(
      queryCount: 5, keyCount: S, batchCount: 2, headCount: 4)
    func part(_ keys: Range<Int>) throws -> AttentionPartial<Element> {
      try AttentionPartial(
        query: ordered(inputs.query), key: ordered(inputs.key.slice(keys, axis: 2)),
        value: ordered(inputs.value.slice(keys, axis: 2)), mask: .attending(flags.slice(keys, axis: 3)),
        options: AttentionOptions(layout: layout), context: context)
    }
    let whole = try part(0..<S)
    var cuts = [0, S] + (0..<4).map { _ in Int.random(in: 0...S, using: &generator) }
    cuts.sort()
    let parts = try zip(cuts, cuts.dropFirst()).map { try part($0..<$1) }
    for merged in [
      try AttentionPartial.merged(parts, context: context),
      try AttentionPartial.merged(parts.reversed(), context: context),
      try part(0..<S / 2).merged(with: part(S / 2..<S), context: context),
    ] {
      #expect(merged.output.shape == whole.output.shape)
      func compare(_ got: Tensor<Element>, _ want: Tensor<Element>, _ bound: Double) {
        let difference = mismatch(
          got.array, want.array.map { Double($0) }, tolerance: tolerance(ofFloat: bound, as: Element.self),
          "\(Element.self), \(context.path), seed \(seed)")
        #expect(difference == nil)
      }
      compare(merged.output, whole.output, 2e-6)
      compare(try merged.logSumExp, try whole.logSumExp, 5e-6)
    }
  }

  @Test("merging with a part without keys changes no bit; two such parts merge to a part without keys")
  func empty() throws {
    let x = try Tensor<Float>(uniform: -1..<1, shape: [2, 3, 4, 8], seed: 1)
    let none = try x.slice(0..<0, axis: 2)
    let part = try AttentionPartial(scaledDotProductAttention(query: x, key: x, value: x, returning: .logSumExp))
    let empty = try AttentionPartial(scaledDotProductAttention(query: x, key: none, value: none, returning: .logSumExp))
    #expect(sameBits(try part.merged(with: empty).output.array, part.output.array))
    #expect(sameBits(try empty.merged(with: part).output.array, part.output.array))
    let both = try empty.merged(with: empty)
    #expect(both.output.array.allSatisfy { $0 == 0 })
    #expect(try both.logSumExp.array.allSatisfy { $0 == -.infinity })
  }

  @Test(
    "parts of equal weight are averaged, however large their log-sum-exps",
    arguments: [0, 30, 1e6, 1e12, 1e17, 1e30, -1e17])
  func largeLogSumExp(size: Double) throws {
    func average<Element: AttentionElement>(_: Element.Type, _ values: [Element]) throws -> Element {
      let parts = try values.map {
        try AttentionPartial(
          output: Tensor<Element>([$0], shape: [1, 1]), logSumExp: Tensor<Element>([Element(size)], shape: [1]))
      }
      let merged = try AttentionPartial.merged(parts)
      #expect(try merged.logSumExp.array[0].isFinite)
      return merged.output.array[0]
    }
    #expect(try average(Double.self, [1, 3]) == 2)
    #expect(try average(Float.self, [1, 3]) == 2)
    #expect(abs(try average(Double.self, [1, 2, 6]) - 3) < 1e-14)
    // Outputs at the greatest number: their sum overflows, but their mean does not.
    let most = Float.greatestFiniteMagnitude
    for count in 2...9 { #expect(try average(Float.self, [Float](repeating: most, count: count)) > 0.99999 * most) }
  }

  @Test(
    "two parts whose scores are all the lowest finite number merge to the result of all keys",
    arguments: AttentionContext.everyPath)
  func leastScores(context: AttentionContext) throws {
    let x = try Tensor<Float>(repeating: 0, shape: [1, 1, 3, 4])
    let value = try Tensor<Float>(uniform: -1..<1, shape: [1, 1, 40, 4], seed: 3)
    let key = try Tensor<Float>(repeating: 0, shape: [1, 1, 40, 4])
    let bias = try Tensor<Float>(repeating: -.greatestFiniteMagnitude, shape: [1, 40])
    func part(_ keys: Range<Int>) throws -> AttentionPartial<Float> {
      try AttentionPartial(
        scaledDotProductAttention(
          query: x, key: key.slice(keys, axis: 2), value: value.slice(keys, axis: 2),
          mask: .bias(bias.slice(keys, axis: 1)), returning: .logSumExp, context: context))
    }
    let merged = try part(0..<20).merged(with: part(20..<40))
    #expect(mismatch(merged.output.array, try part(0..<40).output.array.map(Double.init), tolerance: 1e-6) == nil)
  }

  @Test("a result stores its layout: with as many heads as queries, shapes do not show the layout")
  func layoutOfResults() throws {
    let x = try Tensor<Float>(uniform: -1..<1, shape: [1, 3, 3, 4], seed: 1)
    func result(_ keys: Range<Int>) throws -> AttentionResult<Float> {
      try scaledDotProductAttention(
        query: x, key: x.slice(keys, axis: 1), value: x.slice(keys, axis: 1),
        options: AttentionOptions(layout: .lengthFirst),
        returning: .logSumExp)
    }
    let merged = try AttentionPartial(result(0..<1)).merged(with: AttentionPartial(result(1..<3)))
    #expect(mismatch(merged.output.array, try result(0..<3).output.array.map(Double.init), tolerance: 1e-6) == nil)
    #expect(merged.layout == .lengthFirst)
    #expect(try merged.logSumExp.shape == [1, 3, 3])
    let whole = try result(0..<3).logSumExp.array.map(Double.init)
    #expect(mismatch(try merged.logSumExp.array, whole, tolerance: 1e-6) == nil)
  }

  @Test("a NaN stays NaN, and only in its row")
  func nan() throws {
    var x = try Tensor<Float>(uniform: -1..<1, shape: [1, 1, 4, 8], seed: 1)
    let clean = try AttentionPartial(scaledDotProductAttention(query: x, key: x, value: x, returning: .logSumExp))
    x[0, 0, 2, 0] = .nan
    let bad = try AttentionPartial(
      scaledDotProductAttention(
        query: x, key: x.slice(0..<2, axis: 2), value: x.slice(0..<2, axis: 2), returning: .logSumExp))
    let merged = try clean.merged(with: bad)
    for row in 0..<4 { #expect((0..<8).allSatisfy { merged.output[0, 0, row, $0].isNaN == (row == 2) }) }
  }

  @Test("a partial of two-byte operands is kept as Float, before and after a merge")
  func twoBytes() throws {
    func tensor(_ length: Int, _ seed: UInt64) throws -> Tensor<BFloat16> {
      try Tensor(converting: Tensor<Float>(uniform: -1..<1, shape: [1, 2, length, 16], seed: seed))
    }
    let (query, key, value) = (try tensor(5, 1), try tensor(300, 2), try tensor(300, 3))
    func wide(_ x: Tensor<BFloat16>) throws -> Tensor<Float> { try Tensor(converting: x) }
    let whole = try scaledDotProductAttention(query: wide(query), key: wide(key), value: wide(value))
    var merged = try AttentionPartial(
      query: query, key: key.slice(0..<100, axis: 2), value: value.slice(0..<100, axis: 2))
    try merged.merge(
      AttentionPartial(query: query, key: key.slice(100..<300, axis: 2), value: value.slice(100..<300, axis: 2)))
    #expect(mismatch(merged.output.array, whole.array.map(Double.init), tolerance: 1e-6) == nil)
  }

  @Test("merging gives the same bits on any number of threads, and does not change the merged partials")
  func threads() throws {
    func partial(_ seed: UInt64) throws -> AttentionPartial<Float> {
      try AttentionPartial(
        output: Tensor(uniform: -1..<1, shape: [2, 8, 500, 64], seed: seed),
        logSumExp: Tensor(uniform: -9..<9, shape: [2, 8, 500], seed: seed + 10))
    }
    let (first, second) = (try partial(1), try partial(2))
    let before = (first.output.array, second.output.array)
    let one = try first.merged(with: second, context: AttentionContext(threadCount: 1))
    let four = try first.merged(with: second, context: AttentionContext(threadCount: 4))
    #expect(sameBits(one.output.array, four.output.array))
    #expect(sameBits(try one.logSumExp.array, try four.logSumExp.array))
    #expect(sameBits(first.output.array, before.0) && sameBits(second.output.array, before.1))
  }

  @Test("a missing or misshapen log-sum-exp, no parts, and parts of different layouts are errors")
  func errors() throws {
    let x = try Tensor<Float>(repeating: 0, shape: [2, 3, 4, 8])
    #expect(throws: AttentionError.self) {
      try AttentionPartial(scaledDotProductAttention(query: x, key: x, value: x, returning: []))
    }
    #expect(throws: AttentionError.self) {
      try AttentionPartial(output: x, logSumExp: Tensor<Float>(repeating: 0, shape: [2, 4, 3]))
    }
    #expect(throws: AttentionError.self) { try AttentionPartial<Float>.merged([]) }
    let part = try AttentionPartial(output: x, logSumExp: Tensor<Float>(repeating: 0, shape: [2, 3, 4]))
    let other = try AttentionPartial(
      output: Tensor<Float>(repeating: 0, shape: [2, 4, 3, 8]),
      logSumExp: Tensor<Float>(repeating: 0, shape: [2, 3, 4]),
      layout: .lengthFirst)
    #expect(throws: AttentionError.self) { try part.merged(with: other) }
  }
}
