import Attention
import AttentionProblems
import AttentionTestSupport
import CLibrary
import Testing

@Suite("Masks")
struct MaskTests {
  static let structural: [Scenario.Mask] = [
    .causal, .causalTopLeft, .window, .windowTopLeft, .oneSidedWindow, .keyLengths, .leftPadding, .queryLengths,
    .offsets,
    .keepingFirst, .prefix, .chunks, .documents, .causalDocuments, .blocks, .twoPaddings,
  ]

  @Test(
    "a structural mask gives the same results as its boolean tensor",
    arguments: structural, [(40, 70), (70, 40), (1, 90)])
  func attendance(mask: Scenario.Mask, lengths: (Int, Int)) throws {
    let scenario = Scenario(B: 2, H: 2, Hk: 2, L: lengths.0, S: lengths.1, mask: mask)
    let problem = scenario.reference()
    let flags = try scenario.libraryMask(Float.self).attendance(
      queryCount: scenario.L, keyCount: scenario.S, batchCount: 2, headCount: 2)
    for b in 0..<2 {
      for h in 0..<2 {
        for i in 0..<scenario.L {
          #expect((0..<scenario.S).allSatisfy { flags[b, h, i, $0] == problem.attends(b, h, i, $0) })
        }
      }
    }
    let inputs = try Inputs<Float>(problem)
    let structural = try scenario.result(inputs, returning: .weights, context: .default)
    let boolean = try scaledDotProductAttention(
      query: inputs.query, key: inputs.key, value: inputs.value, mask: .attending(flags), returning: .weights)
    #expect(mismatch(structural.output.array, boolean.output.array.map(Double.init), tolerance: 2e-6) == nil)
    #expect(try mismatch(structural.weights.array, boolean.weights.array.map(Double.init), tolerance: 2e-6) == nil)
  }

  @Test("packed documents give the same results as their sequences in separate calls", arguments: [nil, 0] as [Int?])
  func documents(right: Int?) throws {
    var generator = TestGenerator(seed: 3)
    let lengths = (0..<9).map { _ in Int.random(in: 0...70, using: &generator) }
    let offsets = lengths.reduce(into: [0]) { $0.append($0.last! + $1) }
    let total = offsets.last!
    let x = try (0..<3).map { try Tensor<Float>(uniform: -1..<1, shape: [1, 3, total, 16], seed: $0) }
    for context in AttentionContext.everyPath {
      let packed = try scaledDotProductAttention(
        query: x[0], key: x[1], value: x[2], mask: .documents(offsets, right: right), context: context)
      for (low, high) in zip(offsets, offsets.dropFirst()) where low < high {
        let own = try x.map { try $0.slice(low..<high, axis: 2) }
        let alone = try scaledDotProductAttention(
          query: own[0], key: own[1], value: own[2], mask: right == nil ? .none : .causal, context: context)
        let part = try packed.slice(low..<high, axis: 2)
        #expect(mismatch(part.array, alone.array.map(Double.init), tolerance: 2e-6) == nil)
      }
    }
  }

  @Test(
    "a rule that is combined with packed documents applies to each document as in a call of its own",
    arguments: AttentionContext.everyPath,
    [
      AttentionMask.causal, .causal(.topLeft), .window(left: 1, right: 2), .chunks(length: 2),
      .alibi(slopes: [1, 0.25]), .alibi(slopes: [1, 0.25], alignment: .topLeft),
      .causal.combined(with: .alibi(slopes: [1, 0.25])), .window(left: 1, keepingFirst: 0),
    ])
  func besideDocuments(context: AttentionContext, rule: AttentionMask) throws {
    // Documents with fewer queries than keys, with more queries than keys, and without queries.
    let (queryOffsets, keyOffsets) = ([0, 2, 3, 8, 8], [0, 3, 6, 10, 12])
    let query = try Tensor<Float>(uniform: -1..<1, shape: [1, 2, 9, 8], seed: 1)
    let key = try Tensor<Float>(uniform: -1..<1, shape: [1, 2, 14, 8], seed: 2)
    let value = try Tensor<Float>(uniform: -1..<1, shape: [1, 2, 14, 8], seed: 3)
    let packed = try scaledDotProductAttention(
      query: query, key: key, value: value, mask: .documents(queryOffsets, keyOffsets: keyOffsets).combined(with: rule),
      context: context)
    for document in 0..<4 {
      let queries = queryOffsets[document]..<queryOffsets[document + 1]
      let keys = keyOffsets[document]..<keyOffsets[document + 1]
      let alone = try scaledDotProductAttention(
        query: query.slice(queries, axis: 2), key: key.slice(keys, axis: 2), value: value.slice(keys, axis: 2),
        mask: rule, context: context)
      let own = try packed.slice(queries, axis: 2).array
      let difference = mismatch(own, alone.array.map(Double.init), tolerance: 1e-6, "document \(document)")
      #expect(difference == nil)
    }
    #expect(try packed.slice(8..<9, axis: 2).array.allSatisfy { $0 == 0 })
  }

  @Test("ALiBi combined with documents: the first of two queries weighs its keys as in a call of its own")
  func distancesBesideDocuments() throws {
    let zeros = try Tensor<Float>(repeating: 0, shape: [1, 1, 6, 1])
    let output = try scaledDotProductAttention(
      query: zeros.slice(0..<3, axis: 2), key: zeros, value: Tensor<Float>([0, 1, 0, 0, 1, 0], shape: [1, 1, 6, 1]),
      mask: .documents([0, 2, 3], keyOffsets: [0, 3, 6]).combined(with: .alibi(slopes: [1])))
    #expect(abs(output.array[0] - 0.576117) < 1e-5)
  }

  @Test("chunks begin at the first token of each sample, after its left padding")
  func chunksAfterPadding() throws {
    let mask = AttentionMask.causal.combined(with: .chunks(length: 4)).combined(with: .leftPadding([2, 0, 7]))
    #expect(
      try mask.drawing(queryCount: 8, keyCount: 8, batchCount: 3) == """
        · · · · · · · ·
        · · · · · · · ·
        · · ● · · · · ·
        · · ● ● · · · ·
        · · ● ● ● · · ·
        · · ● ● ● ● · ·
        · · · · · · ● ·
        · · · · · · ● ●

        ● · · · · · · ·
        ● ● · · · · · ·
        ● ● ● · · · · ·
        ● ● ● ● · · · ·
        · · · · ● · · ·
        · · · · ● ● · ·
        · · · · ● ● ● ·
        · · · · ● ● ● ●

        · · · · · · · ·
        · · · · · · · ·
        · · · · · · · ·
        · · · · · · · ·
        · · · · · · · ·
        · · · · · · · ·
        · · · · · · · ·
        · · · · · · · ●
        """)
  }

  @Test("a function of scores gives the same results as the built-in mask that it imitates", arguments: [1, 3, 90])
  func functions(queryCount: Int) throws {
    let scenario = Scenario(B: 2, H: 4, Hk: 2, L: queryCount, S: 130, mask: .alibi)
    let inputs = try Inputs<Float>(scenario.reference())
    let slopes = AttentionMask.alibiSlopes(headCount: 4).map { Float($0) }
    let offset = 130 - queryCount
    let alibi = AttentionMask.scores(Float.self) { tile in
      tile.update { score, at in score - slopes[at.head] * Float(abs(at.query + offset - at.key)) }
    }
    let causal = AttentionMask.scores(Float.self) { tile in
      for row in 0..<tile.rowCount {
        for key in tile.keys where key > tile.position(row: row, key: key).query + offset {
          tile[row, key] = -.infinity
        }
      }
    }
    for context in AttentionContext.everyPath {
      func run(_ mask: AttentionMask) throws -> [Float] {
        try scaledDotProductAttention(
          query: inputs.query, key: inputs.key, value: inputs.value, mask: mask, context: context
        ).array
      }
      let expected = try run(.alibi(headCount: 4).combined(with: .causal)).map(Double.init)
      #expect(mismatch(try run(alibi.combined(with: causal)), expected, tolerance: 2e-6) == nil)
      #expect(mismatch(try run(alibi.combined(with: .causal)), expected, tolerance: 2e-6) == nil)
    }
  }

  @Test(
    "keys that a function forbids stay forbidden, and keys that it allows are attended to, even if there is NaN",
    arguments: [1, 2, 40])
  func functionsAndNaN(queryCount: Int) throws {
    let query = try Tensor<Float>(repeating: 1, shape: [queryCount, 1])
    let key = try Tensor<Float>([300, 0, 300, 300], shape: [4, 1])
    func forbidding(_ forbidden: Int) -> AttentionMask {
      .scores(Float.self) { $0.update { score, at in at.key == forbidden ? -.infinity : score } }
    }
    let allowing = AttentionMask.scores(Float.self) {
      $0.update { score, at in at.key == 0 ? score + .infinity : score }
    }
    for context in AttentionContext.everyPath {
      func run(_ value: [Float], _ key: Tensor<Float>, _ mask: AttentionMask) throws -> AttentionResult<Float> {
        try scaledDotProductAttention(
          query: query, key: key, value: Tensor(value, shape: [4, 1]), mask: mask, options: AttentionOptions(scale: 1),
          returning: .weights,
          context: context)
      }
      // The weight of key 1 underflows to 0. But the queries attend to key 1, so its NaN reaches the output.
      #expect(try run([1, .nan, 1, 1], key, forbidding(9)).output.array.allSatisfy(\.isNaN))
      #expect(try run([1, .nan, 1, 1], key, forbidding(1)).output.array.allSatisfy { $0 == 1 })
      // A key that one function forbids cannot be allowed again by another function.
      for mask in [forbidding(0).combined(with: allowing), allowing.combined(with: forbidding(0))] {
        #expect(try run([5, 1, 1, 1], key, mask).output.array.allSatisfy { $0 == 1 }, "\(context.path)")
      }
      // If a score of a row is NaN, all weights of the row are NaN, except those of forbidden keys.
      let bad = try Tensor<Float>([1, .nan, 1, 1], shape: [4, 1])
      let weights = try run([1, 1, 1, 1], bad, forbidding(0)).weights
      for i in 0..<queryCount {
        #expect((0..<4).allSatisfy { weights[i, $0].isNaN == ($0 != 0) } && weights[i, 0] == 0, "\(context.path)")
      }
    }
  }

  @Test("bounds of nil and Int.max forbid no key, wherever the diagonal lies")
  func farDiagonals() throws {
    let x = try Tensor<Float>(uniform: -1..<1, shape: [1, 1, 5, 4], seed: 1)
    let far = Int(Int32.max)
    let plain = try scaledDotProductAttention(query: x, key: x, value: x)
    for mask in [
      AttentionMask.window(left: .max, right: nil, alignment: .offsets([far])),
      .window(left: nil, right: .max, alignment: .offsets([-far])),
      .window(left: .max, keepingFirst: 1, alignment: .offsets([far])),
    ] { #expect(sameBits(try scaledDotProductAttention(query: x, key: x, value: x, mask: mask).array, plain.array)) }
  }

  @Test("ALiBi's slopes match the paper for any number of heads")
  func slopes() {
    #expect(AttentionMask.alibiSlopes(headCount: 8) == (1...8).map { 1 / Double(1 << $0) })
    let twelve = AttentionMask.alibiSlopes(headCount: 12)
    #expect(twelve.prefix(8) == (1...8).map { 1 / Double(1 << $0) }[...])
    #expect(zip(twelve.suffix(4), [0.5, 1.5, 2.5, 3.5]).allSatisfy { abs($0 - exp2(-$1)) < 1e-15 })
    #expect(AttentionMask.alibiSlopes(headCount: 0).isEmpty)
    #expect(AttentionMask.alibiSlopes(headCount: .max).isEmpty)
  }

  @Test(
    "raw, capped and masked scores are returned if they are requested",
    arguments: [Scenario.Mask.none, .causal, .everythingElse], [1, 3, 70])
  func scores(mask: Scenario.Mask, queryCount: Int) throws {
    let scenario = Scenario(B: 2, H: 4, Hk: 2, L: queryCount, S: 90, mask: mask, softcap: 2, hasSinks: true)
    let p = scenario.reference()
    let inputs = try Inputs<Float>(p)
    for context in AttentionContext.everyPath {
      let result = try scenario.result(
        inputs, returning: [.rawScores, .cappedScores, .maskedScores, .weights, .logSumExp], context: context)
      var worst = 0.0
      for b in 0..<p.B {
        for h in 0..<p.H {
          for i in 0..<p.L {
            for j in 0..<p.S {
              let (q, k) = (((b * p.H + h) * p.L + i) * p.E, ((b * p.Hk + h / 2) * p.S + j) * p.E)
              let dot = (0..<p.E).reduce(0.0) { $0 + p.query[q + $1] * p.key[k + $1] }
              let raw = dot / Double(p.E).squareRoot()
              let capped = 2 * tanhOf(raw / 2)
              let allowed = p.attends(b, h, i, j) && p.bias(b, h, i, j) != -.infinity
              let masked = allowed ? p.score(capped, b, h, i, j) + p.bias(b, h, i, j) : -.infinity
              for (got, want) in [
                (try result.rawScores[b, h, i, j], raw), (try result.cappedScores[b, h, i, j], capped),
                (try result.maskedScores[b, h, i, j], masked),
              ] where Double(got) != want {
                worst = max(worst, abs(Double(got) - want))
              }
            }
          }
        }
      }
      #expect(worst < 1e-5, "\(scenario) \(context.path)")
      // Requesting scores does not change the other results.
      let plain = try scenario.result(inputs, returning: [.weights, .logSumExp], context: context)
      #expect(sameBits(plain.output.array, result.output.array))
      #expect(try sameBits(plain.weights.array, result.weights.array))
    }
  }

  private func tanhOf(_ x: Double) -> Double {
    let e = exp(-2 * abs(x))
    return (x < 0 ? -1 : 1) * (1 - e) / (1 + e)
  }

  @Test("block masks skip empty blocks: a NaN in their keys and values does not reach the result")
  func emptyBlocks() throws {
    let x = try Tensor<Float>(uniform: -1..<1, shape: [1, 1, 256, 8], seed: 1)
    let blocks = try BlockMask(queryCount: 256, keyCount: 256) { $0.key / 64 == $0.query / 64 }
    #expect(blocks.emptyShare == 0.75)
    #expect(blocks.description == "█···\n·█··\n··█·\n···█")
    // No query of the first three blocks attends to key 200. So no bit of their output may change if that key is NaN.
    var poisoned = x
    for e in 0..<8 { poisoned[0, 0, 200, e] = .nan }
    let clean = try scaledDotProductAttention(query: x, key: x, value: x, mask: .attending(blocks))
    let beside = try scaledDotProductAttention(query: x, key: poisoned, value: poisoned, mask: .attending(blocks))
    #expect(sameBits(Array(beside.array.prefix(192 * 8)), Array(clean.array.prefix(192 * 8))))
    let expected = try scaledDotProductAttention(query: x, key: x, value: x, mask: .documents([0, 64, 128, 192, 256]))
    #expect(mismatch(clean.array, expected.array.map(Double.init), tolerance: 1e-6) == nil)
  }

  @Test("wrong masks are errors that name the values that were passed")
  func errors() throws {
    let x = try Tensor<Float>(uniform: -1..<1, shape: [2, 2, 6, 8], seed: 1)
    func message(_ mask: AttentionMask) -> String {
      do {
        _ = try scaledDotProductAttention(query: x, key: x, value: x, mask: mask)
        return ""
      } catch { return "\(error)" }
    }
    let wrong: [(AttentionMask, String)] = [
      (.queryLengths([1]), "one query length for each of 2 elements of the batch expected; got 1"),
      (.queryLengths([1, 7]), "a query length from 0 to the 6 queries expected; got [1, 7]"),
      (.causal(.offsets([0])), "one offset of the diagonal for each of 2"),
      (.causal(.offsets([0, .max])), "offsets of the diagonal up to"),
      (.causal(.offsets([0, .min])), "offsets of the diagonal up to"),
      (.window(left: -1, keepingFirst: 2), "must not be negative; got -1, 2"),
      (.prefix([1, 9]), "a prefix from 0 to the 6 keys expected"),
      (.chunks(length: 0), "chunks of a length from 1 expected; got 0"),
      (.documents([]), "offsets of documents that rise from 0"),
      (.documents([0, 3, 2]), "offsets of documents that rise from 0"),
      (.documents([0, 3, 7]), "at most the 6 queries expected; got [0, 3, 7]"),
      (.documents([0, 3], keyOffsets: [0]), "as many documents of queries as of keys"),
      (.alibi(slopes: [1]), "one slope for each of 2 heads expected; got 1"),
      (.alibi(slopes: [1, .infinity]), "slopes that are finite as Float expected"),
      (.scores(Double.self) { _ in }, "a function of scores of F32"),
      (
        .attending(try BlockMask(queryCount: 6, keyCount: 5) { _ in true }),
        "a block mask that broadcasts to [B, H, L, S] = [2, 2, 6, 6] expected; got [1, 1, 6, 5]"
      ),
    ]
    for (mask, text) in wrong { #expect(message(mask).contains(text), "\(message(mask))") }
    #expect(throws: AttentionError.self) { try BlockMask(queryCount: 6, keyCount: 5, blockLength: 8) { _ in true } }
    #expect(throws: AttentionError.self) { try BlockMask(queryCount: -1, keyCount: 5) { _ in true } }
    #expect(throws: AttentionError.self) { try BlockMask(queryCount: .max, keyCount: 1) { _ in true } }
    for (queries, keys, batch) in [(Int.max, 0, 1), (0, Int.max, 1), (1 << 40, 0, 1), (1 << 30, 1, 1 << 20)] {
      #expect(throws: AttentionError.self) {
        try BlockMask(queryCount: queries, keyCount: keys, batchCount: batch) { _ in true }
      }
    }
    #expect(try BlockMask(queryCount: 1 << 30, keyCount: 0) { _ in true }.emptyShare == 0)
    #expect(message(.chunks(length: .max)) == "")
    let short = try x.slice(0..<2, axis: 2)
    #expect(
      try scaledDotProductAttention(query: x, key: short, value: short, mask: .chunks(length: .max)).count == x.count)
    for softcap in [0, -1, .nan, .infinity, 1e-40, 1e300] as [Double] {
      #expect(throws: AttentionError.self) {
        try scaledDotProductAttention(query: x, key: x, value: x, options: AttentionOptions(softcap: softcap))
      }
    }
    #expect(throws: AttentionError.self) {
      try scaledDotProductAttention(
        query: x, key: x, value: x, options: AttentionOptions(sinks: Tensor(repeating: 0, shape: [3])))
    }
  }
}
