import Attention
import AttentionProblems
import AttentionTestSupport
import CLibrary
import Testing

@Suite("Scaled dot-product attention agrees with the reference")
struct ScaledDotProductTests {
  static let masks = Scenario.Mask.allCases.flatMap { mask in
    [(3, 5), (17, 90), (33, 33), (90, 17)].map { Scenario(H: 4, L: $0.0, S: $0.1, mask: mask) }
  }

  @Test("every mask", arguments: masks)
  func everyMask(scenario: Scenario) throws { try scenario.check() }

  static let edges = [
    (0, 5), (5, 0), (0, 0), (1, 1), (1, 511), (1, 512), (1, 513), (1, 1300), (3, 1025), (63, 64), (64, 63), (65, 129),
    (127, 128), (128, 257), (129, 31), (255, 256), (256, 255), (257, 515), (300, 2),
  ]

  @Test("lengths around the tiles' edges, with several masks", arguments: edges)
  func lengths(L: Int, S: Int) throws {
    for mask in [Scenario.Mask.none, .causal, .causalTopLeft, .everything] {
      try Scenario(B: 1, H: 2, Hk: 2, L: L, S: S, E: 16, Ev: 16, mask: mask).check()
    }
  }

  @Test(
    "widths, also E ≠ Ev",
    arguments: [(1, 1), (1, 40), (7, 5), (16, 72), (64, 64), (80, 24), (128, 128), (257, 3), (300, 300)])
  func widths(E: Int, Ev: Int) throws {
    for (L, S) in [(4, 9), (70, 130)] {
      try Scenario(B: 1, H: 2, Hk: 1, L: L, S: S, E: E, Ev: Ev, mask: .causal).check()
    }
  }

  @Test("widths of 0: scores are 0, outputs are empty")
  func zeroWidths() throws {
    try Scenario(L: 3, S: 4, E: 0, Ev: 2).check()
    try Scenario(L: 3, S: 4, E: 2, Ev: 0).check()
  }

  @Test("grouped heads", arguments: [(4, 4), (4, 2), (4, 1), (6, 3), (12, 2), (32, 4)], [1, 3, 40, 200])
  func groupedHeads(heads: (Int, Int), L: Int) throws {
    for mask in [Scenario.Mask.none, .causal, .booleanPerHead, .everything] {
      try Scenario(B: 2, H: heads.0, Hk: heads.1, L: L, S: L + 30, E: 8, Ev: 8, mask: mask).check()
    }
  }

  @Test("few queries over many keys: splits are merged", arguments: Scenario.Mask.allCases)
  func splits(mask: Scenario.Mask) throws {
    try Scenario(B: 1, H: 2, Hk: 1, L: 2, S: 3000, E: 16, Ev: 16, mask: mask).check()
  }

  @Test("scales: negative, tiny, zero", arguments: [-0.5, 1e-6, 0, 3])
  func scales(scale: Double) throws {
    try Scenario(L: 20, S: 30, mask: .causal, scale: scale).check()
  }

  @Test(
    // Float cannot represent 0.7: a softcap that is narrowed to Float on the way gives wrong results.
    "softcap and sinks", arguments: [nil, 0.7, 20] as [Double?],
    [Scenario.Mask.none, .causal, .everything, .everythingElse])
  func softcapAndSinks(softcap: Double?, mask: Scenario.Mask) throws {
    for (L, S) in [(20, 90), (1, 40), (2, 3000), (9, 4)] {
      try Scenario(B: 1, H: 4, Hk: 2, L: L, S: S, E: 16, Ev: 16, mask: mask, softcap: softcap, hasSinks: true).check()
    }
    try Scenario(L: 70, S: 70, mask: mask, softcap: softcap).check()
  }

  @Test("sinks with every mask", arguments: Scenario.Mask.allCases)
  func sinks(mask: Scenario.Mask) throws {
    for (L, S) in [(20, 90), (2, 3000)] {
      try Scenario(B: 2, H: 4, Hk: 2, L: L, S: S, E: 16, Ev: 16, mask: mask, hasSinks: true).check()
    }
  }

  static let counts = [(1, 1), (1, 2), (1, 700), (3, 40), (5, 2600), (40, 3), (130, 300)]

  @Test("the mean of values near the greatest number is finite", arguments: AttentionContext.everyPath, counts)
  func largeValues(context: AttentionContext, counts: (L: Int, S: Int)) throws {
    try largeValues(Float.self, Float.self, size: 2e38, context, counts)
    try largeValues(Float.self, BFloat16.self, size: 2e38, context, counts)
    try largeValues(Double.self, Double.self, size: 1.5e308, context, counts)
  }

  private func largeValues<Element: AttentionStorage, Value: AttentionStorage>(
    _: Element.Type, _: Value.Type, size: Double, _ context: AttentionContext, _ counts: (L: Int, S: Int)
  ) throws where Value.Arithmetic == Element.Arithmetic {
    let (L, S) = counts
    let query = try Tensor<Element>(repeating: Element(_nearest: 0), shape: [1, 2, L, 5])
    let key = try Tensor<Value>(repeating: Value(_nearest: 0), shape: [1, 2, S, 5])
    // Three columns: large values, large values of both signs, small values.
    let values = (0..<2 * S).flatMap { (j: Int) -> [Double] in [size, j % 2 == 0 ? size : -size, Double(j % 5) / 8] }
    let value = try Tensor<Value>(values.map { Value(_nearest: $0) }, shape: [1, 2, S, 3])
    let stored: [Double] = value.array.map { $0._double }
    for isCausal in [false, true] {
      let result = try scaledDotProductAttention(
        query: query, key: key, value: value, mask: isCausal ? .causal : .none, returning: [.logSumExp, .weights],
        context: context)
      let output: [Double] = result.output.array.map { $0._double }
      for head in 0..<2 {
        for i in 0..<L {
          let attended = isCausal ? max(0, min(S, i + S - L + 1)) : S
          for column in 0..<3 {
            // Each value is divided by the count first, because the sum of the values would overflow.
            let attendedValues = (0..<attended).map { stored[(head * S + $0) * 3 + column] }
            let mean = attendedValues.reduce(0.0) { $0 + $1 / Double(attended) }
            let got = output[(head * L + i) * 3 + column]
            // Equal terms have equal rounding errors, which add up to some 35 units in the last place for 290 terms.
            let bound = (column < 2 ? size : 1) * 70 * Double(Element.Arithmetic.ulpOfOne)
            if !(abs(got - mean) <= bound) {
              Issue.record(
                "\(Value.self) L\(L) S\(S) causal \(isCausal) [\(head), \(i), \(column)]: \(mean) expected; got \(got)")
              return
            }
          }
          let sum = try result.logSumExp.array[head * L + i]._double
          #expect(attended == 0 ? sum == -.infinity : abs(sum - log(Double(attended))) < 1e-5)
        }
      }
    }
  }

  @Test("the mean of values that are all the greatest number is finite", arguments: AttentionContext.everyPath)
  func greatestValues(context: AttentionContext) throws {
    for (L, S) in [(1, 50), (3, 5000), (8, 50), (64, 300), (150, 700)] {
      let most = Float.greatestFiniteMagnitude
      let query = try Tensor<Float>(uniform: -1..<1, shape: [1, 2, L, 8], seed: 1)
      let key = try Tensor<Float>(uniform: -1..<1, shape: [1, 2, S, 8], seed: 2)
      let value = try Tensor<Float>((0..<2 * S * 2).map { $0 % 2 == 0 ? most : -most }, shape: [1, 2, S, 2])
      for mask in [AttentionMask.none, .causal] {
        let output = try scaledDotProductAttention(query: query, key: key, value: value, mask: mask, context: context)
        let isRight = output.array.enumerated().allSatisfy { index, x in
          let sign: Float = index % 2 == 0 ? 1 : -1
          return (x == 0 && L > S) || (x * sign).isFinite && x * sign > 0.9999 * most
        }
        #expect(isRight, "L\(L) S\(S)")
      }
    }
  }

  @Test(
    "large values: masked NaN, and an infinity that one query attends to, do not change the other rows",
    arguments: AttentionContext.everyPath)
  func largeValuesAndHazards(context: AttentionContext) throws {
    for (L, S) in [(1, 60), (2, 3000), (50, 60)] {
      let zeros = try Tensor<Float>(repeating: 0, shape: [1, 1, S, 4])
      let query = try Tensor<Float>(repeating: 0, shape: [1, 1, L, 4])
      var value = try Tensor<Float>(repeating: 3e38, shape: [1, 1, S, 2])
      // Values that are masked for all queries.
      value[0, 0, 7, 0] = .nan
      value[0, 0, 9, 1] = .infinity
      // A value that only the last query attends to.
      value[0, 0, S - 1, 1] = .infinity
      var flags = try Tensor<Bool>(repeating: true, shape: [L, S])
      for i in 0..<L {
        flags[i, 7] = false
        flags[i, 9] = false
      }
      let output = try scaledDotProductAttention(
        query: query, key: zeros, value: value, mask: .causal.combined(with: .attending(flags)), context: context)
      for i in 0..<L {
        #expect(abs(output[0, 0, i, 0] / 3e38 - 1) < 1e-5, "L\(L) S\(S) row \(i)")
        #expect(i == L - 1 ? output[0, 0, i, 1] == .infinity : abs(output[0, 0, i, 1] / 3e38 - 1) < 1e-5)
      }
    }
  }

  @Test(
    "a score is finite if only its unscaled product overflows", arguments: AttentionContext.everyPath,
    [1, 3, 70])
  func scaleFirst(context: AttentionContext, L: Int) throws {
    func attend<Element: AttentionStorage>(_: Element.Type, _ size: Double, keyCount: Int) throws -> [Double] {
      let query = try Tensor<Element>(repeating: Element(_nearest: size), shape: [1, 1, L, 128])
      let key = try Tensor<Element>(repeating: Element(_nearest: size), shape: [1, 1, keyCount, 128])
      let value = try Tensor<Element>(repeating: Element(_nearest: 7), shape: [1, 1, keyCount, 3])
      let result = try scaledDotProductAttention(
        query: query, key: key, value: value, returning: [.logSumExp, .rawScores], context: context)
      #expect(try result.rawScores.array.allSatisfy { $0.isFinite })
      #expect(try result.logSumExp.array.allSatisfy { $0.isFinite })
      return result.output.array.map(\._double)
    }
    for keyCount in [1, 50] {
      for output in [
        try attend(Float.self, 2e18, keyCount: keyCount), try attend(BFloat16.self, 2e18, keyCount: keyCount),
        try attend(Double.self, 1.2e153, keyCount: keyCount),
      ] {
        #expect(output.allSatisfy { abs($0 - 7) < 1e-5 })
      }
    }
  }

  @Test("a sink of −∞ changes nothing, not even if a query attends to nothing", arguments: AttentionContext.everyPath)
  func noSink(context: AttentionContext) throws {
    for (L, S) in [(1, 40), (20, 5), (70, 70)] {
      let query = try Tensor<Float>(uniform: -1..<1, shape: [1, 2, L, 8], seed: 1)
      let key = try Tensor<Float>(uniform: -1..<1, shape: [1, 2, S, 8], seed: 2)
      // Of 20 queries over 5 keys, the first 15 attend to nothing.
      let result = try scaledDotProductAttention(
        query: query, key: key, value: key, mask: .causal,
        options: AttentionOptions(sinks: try Tensor([-Float.infinity, -.infinity], shape: [2])),
        returning: [.weights, .logSumExp], context: context)
      let plain = try scaledDotProductAttention(
        query: query, key: key, value: key, mask: .causal, returning: [.weights, .logSumExp], context: context)
      #expect(sameBits(result.output.array, plain.output.array), "\(L) × \(S)")
      #expect(try sameBits(result.weights.array, plain.weights.array), "\(L) × \(S)")
      #expect(try sameBits(result.logSumExp.array, plain.logSumExp.array), "\(L) × \(S)")
    }
  }

  @Test("no batch, no heads, no queries", arguments: [[0, 2, 3, 4], [2, 0, 3, 4], [2, 2, 0, 4]])
  func emptyExtents(shape: [Int]) throws {
    let query = try Tensor<Float>(repeating: 1, shape: shape)
    let key = try Tensor<Float>(repeating: 1, shape: [shape[0], shape[1], 3, 4])
    #expect(try scaledDotProductAttention(query: query, key: key, value: key).shape == shape)
    for path in AttentionContext.everyPath {
      // The plan of an empty problem can be made without a call, too.
      let plan = try AttentionProblem(query: query, key: key, value: key).plans(context: path)[0]
      #expect(plan.workerCount(threadCount: 2) <= 1, "\(plan)")
    }
  }
}
