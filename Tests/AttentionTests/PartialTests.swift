import Attention
import AttentionProblems
import AttentionTestSupport
import Testing

@Suite("Partial results")
struct PartialTests {
  @Test("merged over any split of the keys are the whole", arguments: 0..<8)
  func anySplit(seed: Int) throws {
    var generator = TestGenerator(seed: UInt64(seed))
    let S = Int.random(in: 1...200, using: &generator)
    let layout: AttentionLayout = seed % 2 == 0 ? .headsFirst : .lengthFirst
    let scenario = Scenario(B: 2, H: 4, Hk: 2, L: 5, S: S, mask: .boolean)
    let inputs = try Inputs<Float>(scenario.reference())
    func ordered(_ x: Tensor<Float>) throws -> Tensor<Float> {
      layout == .headsFirst ? x : try x.permuted([0, 2, 1, 3])
    }
    let flags = try scenario.libraryMask(Float.self).attendance(
      queryCount: 5, keyCount: S, batchCount: 2, headCount: 4)
    func part(_ keys: Range<Int>) throws -> AttentionPartial<Float> {
      try AttentionPartial(
        scaledDotProductAttention(
          query: ordered(inputs.query), key: ordered(inputs.key.slice(keys, axis: 2)),
          value: ordered(inputs.value.slice(keys, axis: 2)), mask: .attending(flags.slice(keys, axis: 3)),
          layout: layout,
          returning: .logSumExp), layout: layout)
    }
    let whole = try part(0..<S)
    var cuts = [0, S] + (0..<4).map { _ in Int.random(in: 0...S, using: &generator) }
    cuts.sort()
    let parts = try zip(cuts, cuts.dropFirst()).map { try part($0..<$1) }
    for merged in [
      try AttentionPartial.merged(parts), try AttentionPartial.merged(parts.reversed()),
      try parts.dropFirst().reduce(parts[0]) { try $0.merged(with: $1) },
    ] {
      #expect(merged.output.shape == whole.output.shape)
      #expect(mismatch(merged.output.array, whole.output.array.map(Double.init), tolerance: 2e-6) == nil)
      #expect(mismatch(merged.logSumExp.array, whole.logSumExp.array.map(Double.init), tolerance: 5e-6) == nil)
    }
  }

  @Test("a part without keys changes no bit, and two of them are none")
  func empty() throws {
    let x = try Tensor<Float>(uniform: -1..<1, shape: [2, 3, 4, 8], seed: 1)
    let none = try x.slice(0..<0, axis: 2)
    let part = try AttentionPartial(scaledDotProductAttention(query: x, key: x, value: x, returning: .logSumExp))
    let empty = try AttentionPartial(scaledDotProductAttention(query: x, key: none, value: none, returning: .logSumExp))
    #expect(sameBits(try part.merged(with: empty).output.array, part.output.array))
    #expect(sameBits(try empty.merged(with: part).output.array, part.output.array))
    let both = try empty.merged(with: empty)
    #expect(both.output.array.allSatisfy { $0 == 0 })
    #expect(both.logSumExp.array.allSatisfy { $0 == -.infinity })
  }

  @Test("NaN stays NaN, in its row alone")
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

  @Test("what does not fit is an error")
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
