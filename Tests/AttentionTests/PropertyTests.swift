import Attention
import AttentionProblems
import AttentionTestSupport
import Dispatch
import Testing

@Suite("Properties of attention")
struct PropertyTests {
  private let scenario = Scenario(B: 2, H: 3, Hk: 3, L: 40, S: 70, E: 16, Ev: 16)

  private func inputs(_ shape: Scenario? = nil) throws -> Inputs<Float> { try Inputs((shape ?? scenario).reference()) }

  @Test("rows of weights sum to 1, and the output is weights times values")
  func weightsSumToOne() throws {
    let inputs = try inputs()
    let result = try scaledDotProductAttention(
      query: inputs.query, key: inputs.key, value: inputs.value, mask: .causal, returning: .weights)
    let weights = try result.weights
    for b in 0..<2 {
      for h in 0..<3 {
        for i in 0..<40 {
          let row = (0..<70).map { weights[b, h, i, $0] }
          #expect(abs(row.reduce(0, +) - 1) < 1e-5)
          let first = zip(row, (0..<70).map { inputs.value[b, h, $0, 0] }).reduce(Float(0)) { $0 + $1.0 * $1.1 }
          #expect(abs(first - result.output[b, h, i, 0]) < 1e-5)
        }
      }
    }
  }

  @Test("permuting keys together with values changes nothing but rounding")
  func permutation() throws {
    let inputs = try inputs()
    var generator = TestGenerator(seed: 5)
    let order = (0..<70).shuffled(using: &generator)
    func permuted(_ x: Tensor<Float>) throws -> Tensor<Float> {
      var y = x
      try y.withMutableView { view in
        for (to, from) in order.enumerated() {
          let row = try x.slice(from..<from + 1, axis: 2)
          try view.withSlice(to..<to + 1, axis: 2) { try $0.copy(from: row) }
        }
      }
      return y
    }
    let plain = try scaledDotProductAttention(query: inputs.query, key: inputs.key, value: inputs.value)
    let other = try scaledDotProductAttention(
      query: inputs.query, key: permuted(inputs.key), value: permuted(inputs.value))
    #expect(mismatch(other.array, plain.array.map(Double.init), tolerance: 2e-6) == nil)
  }

  @Test("adding a constant to every score changes only the log-sum-exp", arguments: [-50, 3, 80])
  func shift(constant: Float) throws {
    let inputs = try inputs()
    let bias = try Tensor<Float>(repeating: constant, shape: [1])
    let plain = try scaledDotProductAttention(
      query: inputs.query, key: inputs.key, value: inputs.value, returning: .logSumExp)
    let shifted = try scaledDotProductAttention(
      query: inputs.query, key: inputs.key, value: inputs.value, mask: .bias(bias), returning: .logSumExp)
    #expect(mismatch(shifted.output.array, plain.output.array.map(Double.init), tolerance: 2e-5) == nil)
    let lse = try plain.logSumExp.array.map { Double($0) + Double(constant) }
    #expect(try mismatch(shifted.logSumExp.array, lse, tolerance: 2e-5) == nil)
  }

  @Test("scores at which exp overflows, but exp(x − max) does not")
  func overflow() throws {
    let query = try Tensor<Float>(repeating: 10, shape: [1, 1, 3, 4])
    let key = try Tensor<Float>([9, 9, 9, 9, 10, 10, 10, 10], shape: [1, 1, 2, 4])
    let value: Tensor<Float> = [[[[1], [2]]]]
    // Scores 180 and 200: exp(200) is beyond Float.
    let output = try scaledDotProductAttention(query: query, key: key, value: value)
    #expect(output.array.allSatisfy { abs($0 - 2) < 1e-6 })
  }

  @Test("scores near the end of Float's range give no NaN", arguments: [1e18, 1e19] as [Float])
  func hugeScores(size: Float) throws {
    let query = try Tensor<Float>(repeating: size, shape: [1, 1, 2, 1])
    let key = try Tensor<Float>([-size, size, 0], shape: [1, 1, 3, 1])
    let value: Tensor<Float> = [[[[1], [2], [3]]]]
    let output = try scaledDotProductAttention(
      query: query, key: key, value: value, options: AttentionOptions(scale: 0.5))
    #expect(output.array == [2, 2])
  }

  static let masks: [Scenario.Mask] = [
    .causal, .causalTopLeft, .window, .keyLengths, .leftPadding, .boolean, .booleanPerKey, .biasWithInfinities,
    .everything, .queryLengths, .offsets, .keepingFirst, .prefix, .chunks, .causalDocuments, .blocks, .function,
    .everythingElse,
  ]

  @Test(
    "NaN and infinities in masked keys and values change no bit", arguments: masks, [(40, 70), (1, 1300), (200, 90)])
  func maskedNaN(mask: Scenario.Mask, lengths: (Int, Int)) throws {
    for context in AttentionContext.everyPath { try checkMaskedNaN(mask, lengths, context) }
  }

  /// The masks with which every key has a query that attends to it, each with the numbers of queries for which this is
  /// true.
  private static let fullMasks: [Scenario.Mask: Set<Int>] = [
    .biasWithInfinities: [40, 200], .blocks: [200], .boolean: [40, 200], .causal: [1, 40, 200], .causalTopLeft: [200],
    .chunks: [200], .function: [40, 200], .keepingFirst: [200], .prefix: [1, 40, 200], .queryLengths: [40, 200],
    .window: [200],
  ]

  private func checkMaskedNaN(_ mask: Scenario.Mask, _ lengths: (Int, Int), _ context: AttentionContext) throws {
    // One head and one element of the batch, so that a key can be masked for all queries, or for all queries of a tile.
    let scenario = Scenario(B: 1, H: 1, Hk: 1, L: lengths.0, S: lengths.1, E: 16, Ev: 16, mask: mask)
    let problem = scenario.reference()
    let clean = try Inputs<Float>(problem)
    let libraryMask = try scenario.libraryMask(Float.self)
    func run(_ inputs: Inputs<Float>) throws -> AttentionResult<Float> {
      try scaledDotProductAttention(
        query: inputs.query, key: inputs.key, value: inputs.value, mask: libraryMask,
        returning: [.logSumExp, .weights],
        context: context)
    }
    let expected = try run(clean)
    func attends(_ i: Int, _ j: Int) -> Bool { problem.attends(0, 0, i, j) && problem.bias(0, 0, i, j) != -.infinity }
    for bad in [Float.nan, .infinity] {
      // Keys that no query attends to.
      var poisoned = clean
      let masked = (0..<scenario.S).filter { j in !(0..<scenario.L).contains { attends($0, j) } }
      // Only the masks in `fullMasks` have no such key. If another mask has none, this test shows nothing.
      #expect(
        masked.isEmpty == (Self.fullMasks[mask]?.contains(lengths.0) ?? false),
        "\(mask), \(lengths.0) queries: \(masked.count) masked keys")
      for j in masked {
        for e in 0..<16 {
          poisoned.key[0, 0, j, e] = bad
          poisoned.value[0, 0, j, e] = bad
        }
      }
      let result = try run(poisoned)
      #expect(sameBits(result.output.array, expected.output.array))
      #expect(try sameBits(result.logSumExp.array, expected.logSumExp.array))
      #expect(try sameBits(result.weights.array, expected.weights.array))

      // The value of a key that some queries attend to becomes `bad`: these queries get no finite number, and the
      // others keep their bits. This part shows something only if the mask hides some key from some query. A single
      // query may attend to every key.
      let isMaskedForSome = (0..<scenario.S).contains { j in (0..<scenario.L).contains { !attends($0, j) } }
      #expect(isMaskedForSome || scenario.L == 1, "\(mask) masks nothing")
      guard let j = (0..<scenario.S).last(where: { j in (0..<scenario.L).contains { attends($0, j) } }) else {
        continue
      }
      var partly = clean
      for e in 0..<16 { partly.value[0, 0, j, e] = bad }
      let output = try run(partly).output
      for i in 0..<scenario.L {
        let row = (0..<16).map { output[0, 0, i, $0] }
        if attends(i, j) {
          #expect(row.allSatisfy { !$0.isFinite })
        } else {
          #expect(sameBits(row, (0..<16).map { expected.output[0, 0, i, $0] }))
        }
      }
      // The same for the key: only the rows that attend to it get a score that is NaN or infinite.
      var partlyKey = clean
      for e in 0..<16 { partlyKey.key[0, 0, j, e] = bad }
      let others = try run(partlyKey)
      for i in 0..<scenario.L where !attends(i, j) {
        #expect(sameBits((0..<16).map { others.output[0, 0, i, $0] }, (0..<16).map { expected.output[0, 0, i, $0] }))
        #expect(try sameBits([others.logSumExp[0, 0, i]], [expected.logSumExp[0, 0, i]]))
      }
    }
  }

  @Test("a masked NaN in values of width 1, whose elements have gaps between them")
  func maskedNaNInStridedColumn() throws {
    let x = try Tensor<Float>(uniform: -1..<1, shape: [1, 1, 8, 4], seed: 1)
    var pairs = try Tensor<Float>(uniform: -1..<1, shape: [1, 1, 8, 1, 2], seed: 2)
    let expected = try scaledDotProductAttention(query: x, key: x, value: pairs.select(0, axis: 4), mask: .causal)
    pairs[0, 0, 7, 0, 0] = .nan
    let output = try scaledDotProductAttention(query: x, key: x, value: pairs.select(0, axis: 4), mask: .causal)
    #expect(sameBits(Array(output.array.dropLast()), Array(expected.array.dropLast())))
    #expect(output[0, 0, 7, 0].isNaN)
  }

  @Test("a masked NaN in values stored column by column")
  func maskedNaNInColumns() throws {
    let x = try Tensor<Float>(uniform: -1..<1, shape: [1, 1, 40, 16], seed: 1)
    let key = try Tensor<Float>(uniform: -1..<1, shape: [1, 1, 70, 16], seed: 2)
    var columns = try Tensor<Float>(uniform: -1..<1, shape: [1, 1, 16, 70], seed: 3)
    let mask = AttentionMask.attending(try Tensor((0..<70).map { $0 != 69 }, shape: [70]))
    let expected = try scaledDotProductAttention(query: x, key: key, value: columns.transposed(), mask: mask)
    for e in 0..<16 { columns[0, 0, e, 69] = .nan }
    let output = try scaledDotProductAttention(query: x, key: key, value: columns.transposed(), mask: mask)
    #expect(sameBits(output.array, expected.array))
  }

  @Test("where one bias forbids a key, another changes nothing, in either order", arguments: [Float.infinity, .nan, 5])
  func forbiddenByBias(other: Float) throws {
    let x = try Tensor<Float>(uniform: -1..<1, shape: [1, 1, 3, 4], seed: 1)
    let forbids = AttentionMask.bias(try Tensor<Float>([-.infinity, 0, 0], shape: [3]))
    let adds = AttentionMask.bias(try Tensor<Float>([other, 0, 0], shape: [3]))
    let expected = try scaledDotProductAttention(query: x, key: x, value: x, mask: forbids)
    for mask in [forbids.combined(with: adds), adds.combined(with: forbids)] {
      #expect(sameBits(try scaledDotProductAttention(query: x, key: x, value: x, mask: mask).array, expected.array))
    }
  }

  @Test("a NaN that a row attends to gives NaN, in that row only")
  func attendedNaN() throws {
    var inputs = try inputs()
    inputs.query[0, 1, 7, 3] = .nan
    let output = try scaledDotProductAttention(query: inputs.query, key: inputs.key, value: inputs.value)
    for i in 0..<40 {
      #expect((0..<16).allSatisfy { output[0, 1, i, $0].isNaN == (i == 7) })
    }
    inputs = try self.inputs()
    for e in 0..<16 { inputs.key[1, 0, 69, e] = .nan }
    let causal = try scaledDotProductAttention(query: inputs.query, key: inputs.key, value: inputs.value, mask: .causal)
    for i in 0..<40 { #expect(causal[1, 0, i, 0].isNaN == (i == 39)) }
    // If every input is NaN, the result is NaN, not the 0 of a row that attends to nothing.
    let nan = try Tensor<Float>(repeating: .nan, shape: [1, 1, 5, 4])
    let result = try scaledDotProductAttention(query: nan, key: nan, value: nan, returning: [.logSumExp, .weights])
    #expect(result.output.array.allSatisfy { $0.isNaN })
    #expect(try result.logSumExp.array.allSatisfy { $0.isNaN })
    #expect(try result.weights.array.allSatisfy { $0.isNaN })
  }

  @Test("a scale of 0 makes every score 0, even if queries and keys hold NaN or infinity", arguments: [1, 3, 40])
  func scaleZero(queryCount: Int) throws {
    var query = try Tensor<Float>(uniform: -1..<1, shape: [1, 2, queryCount, 8], seed: 1)
    var key = try Tensor<Float>(uniform: -1..<1, shape: [1, 2, 20, 8], seed: 2)
    let value = try Tensor<Float>(uniform: -1..<1, shape: [1, 2, 20, 5], seed: 3)
    query[0, 0, 0, 0] = .nan
    key[0, 1, 7, 3] = .infinity
    for context in AttentionContext.everyPath {
      let result = try scaledDotProductAttention(
        query: query, key: key, value: value, options: AttentionOptions(scale: 0), returning: .weights, context: context
      )
      #expect(try result.weights.array.allSatisfy { abs($0 - 0.05) < 1e-7 }, "\(context.path)")
      let mean = (0..<20).reduce(Float(0)) { $0 + value[0, 1, $1, 4] } / 20
      #expect((0..<queryCount).allSatisfy { abs(result.output[0, 1, $0, 4] - mean) < 1e-6 }, "\(context.path)")
    }
  }

  @Test("an infinite value that is attended to gives infinity, in the window and among the first keys that are kept")
  func attendedInfinity() throws {
    let x = try Tensor<Float>(uniform: -1..<1, shape: [1, 1, 20, 8], seed: 1)
    var value = x
    for e in 0..<8 { value[0, 0, 0, e] = .infinity }
    for context in AttentionContext.everyPath {
      let output = try scaledDotProductAttention(
        query: x, key: x, value: value, mask: .window(left: 1, keepingFirst: 1), context: context)
      #expect(output.array.allSatisfy { $0 == .infinity }, "\(context.path)")
    }
  }

  @Test("a sink of +inf takes all the weight, whether keys are split or not", arguments: [64, 8192])
  func infiniteSink(keyCount: Int) throws {
    let x = try Tensor<Float>(uniform: -1..<1, shape: [1, 1, keyCount, 8], seed: 1)
    for context in AttentionContext.everyPath {
      let result = try scaledDotProductAttention(
        query: x.slice(0..<1, axis: 2), key: x, value: x,
        options: AttentionOptions(sinks: Tensor(repeating: .infinity, shape: [1])),
        returning: .logSumExp, context: context)
      #expect(result.output.array.allSatisfy { $0 == 0 })
      #expect(try result.logSumExp.array == [Float.infinity])
    }
  }

  @Test("a sink of −inf has no effect", arguments: [1, 3, 40], [64, 8192])
  func sinkOfMinusInfinity(queryCount: Int, keyCount: Int) throws {
    let query = try Tensor<Float>(uniform: -1..<1, shape: [1, 2, queryCount, 8], seed: 1)
    let x = try Tensor<Float>(uniform: -1..<1, shape: [1, 2, keyCount, 8], seed: 2)
    for context in AttentionContext.everyPath {
      // The first head's sink is −inf, the second head's is not. Even in a row that attends to nothing, a sink of −inf
      // must not count as a key.
      let sinks = try Tensor<Float>([-.infinity, 0.5], shape: [2])
      for mask in [AttentionMask.none, .keyLengths([0])] {
        func attend(_ sinks: Tensor<Float>?) throws -> AttentionResult<Float> {
          try scaledDotProductAttention(
            query: query, key: x, value: x, mask: mask, options: AttentionOptions(sinks: sinks), returning: .logSumExp,
            context: context)
        }
        let (with, without) = (try attend(sinks), try attend(nil))
        for (a, b) in [(with.output, without.output), (try with.logSumExp, try without.logSumExp)] {
          let difference = mismatch(
            try a.select(0, axis: 1).array, try b.select(0, axis: 1).array.map(Double.init), tolerance: 1e-6,
            context.path)
          #expect(difference == nil)
        }
      }
    }
  }

  @Test("rows that attend to nothing have the output 0, the weights 0 and the log-sum-exp −inf")
  func emptyRows() throws {
    let scenario = Scenario(B: 1, H: 2, Hk: 2, L: 9, S: 4, mask: .causal)
    let inputs = try inputs(scenario)
    let result = try scaledDotProductAttention(
      query: inputs.query, key: inputs.key, value: inputs.value, mask: .causal, returning: [.logSumExp, .weights])
    for h in 0..<2 {
      for i in 0..<5 {
        #expect((0..<8).allSatisfy { result.output[0, h, i, $0] == 0 })
        #expect(try (0..<4).allSatisfy { try result.weights[0, h, i, $0] == 0 })
        #expect(try result.logSumExp[0, h, i] == -.infinity)
      }
      #expect(try result.logSumExp[0, h, 5].isFinite)
    }
  }

  @Test("concurrent calls get the same bits as a single call")
  func concurrentCallers() throws {
    let scenarios = [Scenario.Mask.none, .causal, .boolean, .everything].map {
      Scenario(B: 1, H: 4, Hk: 2, L: 130, S: 150, E: 32, Ev: 32, mask: $0)
    }
    let inputs = try scenarios.map { try Inputs<Float>($0.reference()) }
    let masks = try scenarios.map { try $0.libraryMask(Float.self) }
    @Sendable func run(_ k: Int) throws -> [Float] {
      try scaledDotProductAttention(query: inputs[k].query, key: inputs[k].key, value: inputs[k].value, mask: masks[k])
        .array
    }
    let expected = try (0..<4).map(run)
    let outcomes = UncheckedSendable(UnsafeMutableBufferPointer<Bool>.allocate(capacity: 48))
    defer { outcomes.value.deallocate() }
    outcomes.value.initialize(repeating: false)
    DispatchQueue.concurrentPerform(iterations: 48) { i in
      if let got = try? run(i % 4) { outcomes.value[i] = sameBits(got, expected[i % 4]) }
    }
    #expect(outcomes.value.allSatisfy { $0 })
  }
}
