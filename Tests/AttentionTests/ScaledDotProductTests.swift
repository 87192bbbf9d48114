import Attention
import AttentionProblems
import AttentionTestSupport
import Testing

@Suite("Scaled dot-product attention agrees with the reference")
struct ScaledDotProductTests {
  /// Output, weights and log-sum-exp of both element types on every path, against the reference in Double.
  private func check(_ scenario: Scenario) throws {
    let problem = scenario.reference()
    let exact = problem.answer()
    try check(scenario, problem, exact, Float.self)
    try check(scenario, problem, exact, Double.self)
  }

  private func check<Element: AttentionElement>(
    _ scenario: Scenario, _ problem: ReferenceAttention, _ exact: ReferenceAttention.Answer<Double>, _: Element.Type
  ) throws {
    let plain = problem.answer(in: Element.self)
    let inputs = try Inputs<Element>(problem)
    for context in AttentionContext.everyPath {
      let result = try scenario.result(inputs, returning: [.logSumExp, .weights], context: context)
      func compare(_ name: String, _ got: [Element], _ plain: [Element], _ exact: [Double]) {
        let difference = mismatch(
          got, exact, tolerance: tolerance(plain: plain, exact: exact),
          "\(name) \(Element.self) of \(scenario), \(context.path)")
        #expect(difference == nil)
      }
      compare("output", result.output.array, plain.output, exact.output)
      compare("weights", result.weights!.array, plain.weights, exact.weights)
      compare("log-sum-exp", result.logSumExp!.array, plain.logSumExp, exact.logSumExp)
    }
  }

  static let masks = Scenario.Mask.allCases.flatMap { mask in
    [(3, 5), (17, 90), (33, 33), (90, 17)].map { Scenario(H: 4, L: $0.0, S: $0.1, mask: mask) }
  }

  @Test("every mask", arguments: masks)
  func everyMask(scenario: Scenario) throws { try check(scenario) }

  static let edges = [
    (0, 5), (5, 0), (0, 0), (1, 1), (1, 511), (1, 512), (1, 513), (1, 1300), (3, 1025), (63, 64), (64, 63), (65, 129),
    (127, 128), (128, 257), (129, 31), (255, 256), (256, 255), (257, 515), (300, 2),
  ]

  @Test("lengths around the tiles' edges, plain and causal", arguments: edges)
  func lengths(L: Int, S: Int) throws {
    for mask in [Scenario.Mask.none, .causal, .causalTopLeft, .everything] {
      try check(Scenario(B: 1, H: 2, Hk: 2, L: L, S: S, E: 16, Ev: 16, mask: mask))
    }
  }

  @Test(
    "widths, E ≠ Ev",
    arguments: [(1, 1), (1, 40), (7, 5), (16, 72), (64, 64), (80, 24), (128, 128), (257, 3), (300, 300)])
  func widths(E: Int, Ev: Int) throws {
    for (L, S) in [(4, 9), (70, 130)] {
      try check(Scenario(B: 1, H: 2, Hk: 1, L: L, S: S, E: E, Ev: Ev, mask: .causal))
    }
  }

  @Test("widths of 0: scores are 0, outputs are empty")
  func zeroWidths() throws {
    try check(Scenario(L: 3, S: 4, E: 0, Ev: 2))
    try check(Scenario(L: 3, S: 4, E: 2, Ev: 0))
  }

  @Test("grouped heads", arguments: [(4, 4), (4, 2), (4, 1), (6, 3), (12, 2), (32, 4)], [1, 3, 40, 200])
  func groupedHeads(heads: (Int, Int), L: Int) throws {
    for mask in [Scenario.Mask.none, .causal, .booleanPerHead, .everything] {
      try check(Scenario(B: 2, H: heads.0, Hk: heads.1, L: L, S: L + 30, E: 8, Ev: 8, mask: mask))
    }
  }

  @Test("few queries over many keys: splits are merged", arguments: Scenario.Mask.allCases)
  func splits(mask: Scenario.Mask) throws {
    try check(Scenario(B: 1, H: 2, Hk: 1, L: 2, S: 3000, E: 16, Ev: 16, mask: mask))
  }

  @Test("scales: negative, tiny, zero", arguments: [-0.5, 1e-6, 0, 3])
  func scales(scale: Double) throws {
    try check(Scenario(L: 20, S: 30, mask: .causal, scale: scale))
  }

  @Test(
    "softcap and sinks", arguments: [nil, 0.5, 20] as [Double?],
    [Scenario.Mask.none, .causal, .everything, .everythingElse])
  func softcapAndSinks(softcap: Double?, mask: Scenario.Mask) throws {
    for (L, S) in [(20, 90), (1, 40), (2, 3000), (9, 4)] {
      try check(
        Scenario(B: 1, H: 4, Hk: 2, L: L, S: S, E: 16, Ev: 16, mask: mask, softcap: softcap, hasSinks: true))
    }
    try check(Scenario(L: 70, S: 70, mask: mask, softcap: softcap))
  }

  @Test("no batch, no heads, no queries", arguments: [[0, 2, 3, 4], [2, 0, 3, 4], [2, 2, 0, 4]])
  func emptyExtents(shape: [Int]) throws {
    let query = try Tensor<Float>(repeating: 1, shape: shape)
    let key = try Tensor<Float>(repeating: 1, shape: [shape[0], shape[1], 3, 4])
    #expect(try scaledDotProductAttention(query: query, key: key, value: key).shape == shape)
    for path in AttentionContext.everyPath {
      // A plan is asked for by itself too.
      let plan = try AttentionProblem(query: query, key: key, value: key).plan(context: path)
      #expect(plan.width(threadCount: 2) <= 1, "\(plan)")
    }
  }

  @Test(
    "same inputs give the same bits, whatever the threads and the executor",
    arguments: [Scenario.Mask.none, .causal, .everything])
  func bitsDoNotDependOnThreads(mask: Scenario.Mask) throws {
    for (scenario, isSplit) in [
      (Scenario(B: 2, H: 4, Hk: 2, L: 300, S: 300, E: 64, Ev: 64, mask: mask), false),
      (Scenario(B: 1, H: 4, Hk: 1, L: 4, S: 20_000, E: 64, Ev: 64, mask: mask), mask != .everything),
    ] {
      let inputs = try Inputs<Float>(scenario.reference())
      func run(_ context: AttentionContext) throws -> AttentionResult<Float> {
        try scaledDotProductAttention(
          query: inputs.query, key: inputs.key, value: inputs.value, mask: scenario.libraryMask(Float.self),
          returning: [.logSumExp, .weights], context: context)
      }
      let problem = try AttentionProblem(
        query: inputs.query, key: inputs.key, value: inputs.value, mask: scenario.libraryMask(Float.self))
      for path in AttentionContext.everyPath {
        let plan = try problem.plan(context: path)
        #expect(
          plan.width(threadCount: 2) == (isSplit || scenario.L > 4 ? 2 : 1), "or this test shows nothing: \(plan)")
        #expect((plan.splitCount > 1) == isSplit, "\(plan)")
        func context(_ threadCount: Int, _ executor: any ParallelExecutor) -> AttentionContext {
          var context = path
          context.threadCount = threadCount
          context.executor = executor
          return context
        }
        let one = try run(context(1, path.executor))
        for context in [2, 3, 7, 16].map({ context($0, path.executor) }) + [context(2, DispatchExecutor())] {
          let many = try run(context)
          #expect(sameBits(one.output.array, many.output.array))
          #expect(sameBits(one.weights!.array, many.weights!.array))
          #expect(sameBits(one.logSumExp!.array, many.logSumExp!.array))
        }
      }
    }
  }
}
