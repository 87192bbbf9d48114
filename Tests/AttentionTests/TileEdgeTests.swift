import Attention
import AttentionProblems
import AttentionTestSupport
import Testing

/// The tested lengths are computed from plans, so they follow the constants of plans.
@Suite("The edges of tiles")
struct TileEdgeTests {
  /// The problem whose plans give the sizes of tiles. The sizes depend neither on the mask nor on E and Ev.
  private static let longest = Scenario(B: 1, H: 8, Hk: 8, L: 4096, S: 8192, E: 64, Ev: 64)

  /// Lengths around the first two edges between tiles of queries, for both element types and every path.
  private static let queryEdges: [Int] = union { plan in
    var lengths: [Int] = []
    var count = 1
    for length in 1...longest.L where lengths.count < 6 {
      var shorter = longest
      (shorter.L, shorter.S) = (length, 70)
      let tileCount = try plan(shorter).queryTileCount
      if tileCount > count { lengths += [length - 1, length, length + 1] }
      count = tileCount
    }
    return lengths
  }

  /// Lengths around one tile of keys, and a length of three tiles and one key.
  private static let keyEdges: [Int] = union { plan in
    let tile = try plan(longest).keyTileLength
    return [tile - 1, tile, tile + 1, 3 * tile + 1]
  }

  private static func union(_ edges: ((Scenario) throws -> AttentionPlan) throws -> [Int]) -> [Int] {
    let all = try? AttentionContext.everyPath.flatMap { context in
      try edges { try $0.plan(Float.self, context) } + edges { try $0.plan(Double.self, context) }
    }
    return Set(all ?? []).sorted()
  }

  private static let widths = [64, 128]

  @Test("results are right at the edges of tiles of keys", arguments: widths, [Scenario.Mask.causal, .everything])
  func keys(width: Int, mask: Scenario.Mask) throws {
    var scenario = Scenario(B: 1, H: 8, Hk: 8, L: 10, S: 8192, E: width, Ev: width, mask: mask)
    #expect(Self.keyEdges.count >= 4)
    for S in Self.keyEdges {
      scenario.S = S
      try scenario.check()
    }
  }

  @Test("results are right at the edges of tiles of queries", arguments: widths, [Scenario.Mask.causal, .everything])
  func queries(width: Int, mask: Scenario.Mask) throws {
    var scenario = Scenario(B: 1, H: 8, Hk: 8, L: 1, S: 19, E: width, Ev: width, mask: mask)
    #expect(Self.queryEdges.count >= 6)
    for L in Self.queryEdges {
      scenario.L = L
      try scenario.check()
    }
  }

  @Test("results are right at edges of queries and keys at once", arguments: [Scenario.Mask.causal, .everything])
  func both(mask: Scenario.Mask) throws {
    try Scenario(
      B: 1, H: 1, Hk: 1, L: Self.queryEdges.last!, S: Self.keyEdges.last!, E: 64, Ev: 64, mask: mask
    ).check()
  }

  @Test(
    "results are right if keys are split, with sinks, with softcap, and with maxima that differ between splits",
    arguments: [1, 2, 5])
  func splits(L: Int) throws {
    for mask in [Scenario.Mask.none, .causal, .everything] {
      for softcap in [nil, 20] as [Double?] {
        var scenario = Scenario(
          B: 1, H: 4, Hk: 2, L: L, S: 4500, E: 32, Ev: 32, mask: mask, softcap: softcap, hasSinks: true)
        if softcap == nil { scenario.swell = .waves(peak: 60) }
        for context in AttentionContext.everyPath where mask != .everything {
          let plan = try scenario.plan(Float.self, context)
          #expect(plan.splitsPerTile >= 2, "the plan must split keys; otherwise this test shows nothing: \(plan)")
        }
        try scenario.check()
      }
    }
  }

  @Test(
    "results are right if the maximum of the scores rises, falls, or does both across tiles",
    arguments: [50, 1000] as [Double], [(1, 1), (3, 2), (20, 1), (70, 1)])
  func swelling(peak: Double, rows: (L: Int, H: Int)) throws {
    let swells = [Scenario.Swell.rising(peak: peak), .falling(peak: peak), .waves(peak: peak)]
    for swell in swells {
      for mask in [Scenario.Mask.none, .causal] {
        var scenario = Scenario(
          B: 1, H: rows.H, Hk: rows.H, L: rows.L, S: Self.keyEdges.last!, E: 16, Ev: 16, mask: mask)
        scenario.swell = swell
        try scenario.check()
      }
    }
  }

  // MARK: Branches of plans

  /// A problem, and a change to the context in which it is computed.
  private struct Case: Sendable {
    var scenario: Scenario
    var tune: @Sendable (inout AttentionContext) -> Void = { _ in }
  }

  private static let cases: [Case] = [
    // 77 tiles: each task has several tiles, and the last task has fewer than the others.
    Case(scenario: Scenario(B: 7, H: 11, Hk: 11, L: 16, S: 16, E: 64, Ev: 64)),
    Case(scenario: Scenario(B: 2, H: 32, Hk: 32, L: 33, S: 33, E: 32, Ev: 32, mask: .causal)),
    Case(scenario: Scenario(B: 64, H: 12, Hk: 12, L: 16, S: 16, E: 64, Ev: 64, mask: .keyLengths)),
    Case(scenario: Scenario(B: 1, H: 2, Hk: 2, L: 450, S: 70, E: 16, Ev: 16, mask: .boolean)),
    Case(scenario: Scenario(B: 1, H: 9, Hk: 3, L: 150, S: 60, E: 16, Ev: 16, mask: .everything)),
    Case(scenario: Scenario(B: 1, H: 8, Hk: 2, L: 1, S: 4500, E: 64, Ev: 64, mask: .causal)),
    Case(scenario: Scenario(B: 1, H: 3, Hk: 3, L: 1, S: 130, E: 32, Ev: 32)),
    Case(scenario: Scenario(B: 2, H: 4, Hk: 4, L: 40, S: 1600, E: 8, Ev: 8, mask: .bias)),
    Case(scenario: Scenario(B: 2, H: 8, Hk: 8, L: 20, S: 4200, E: 8, Ev: 8, mask: .causal)),
    Case(
      scenario: Scenario(B: 2, H: 6, Hk: 6, L: 700, S: 64, E: 16, Ev: 16, mask: .boolean),
      tune: { $0.tuning.headTurnByteCount = 2 * 64 * 32 * 4 }),
    Case(
      scenario: Scenario(B: 1, H: 16, Hk: 16, L: 210, S: 150, E: 16, Ev: 16, mask: .causal),
      tune: { $0.tuning.farRowByteCount = 1 }),
  ]

  /// The branches of a plan, apart from the choice of the algorithm.
  private static let branches: [(name: String, isTaken: @Sendable (AttentionPlan, Scenario) -> Bool)] = [
    ("one tile of queries", { plan, _ in plan.queryTileCount == 1 }),
    ("several tiles of queries, the last one shorter", { $0.queryTileCount > 1 && $1.L % $0.queryTileLength != 0 }),
    ("tiles made smaller, so that there are enough", { $0.queryTileLength < 190 && $1.L > 384 }),
    ("several heads in a tile", { plan, _ in plan.headsPerTile > 1 }),
    ("a last task of fewer tiles", { plan, _ in plan.tileCount % plan.tilesPerTask != 0 }),
    ("keys of the next tile prefetched", { plan, _ in plan.expectsNextTile }),
    (
      "several tiles of heads, the last one smaller",
      {
        $0.headTileCount > 1 && ($1.H / $1.Hk) % $0.headsPerTile != 0
      }
    ),
    ("several tiles of keys", { $1.S > 2 * $0.keyTileLength }),
    ("splits of keys as tasks", { plan, _ in plan.splitsPerTile > 1 }),
    ("splits of keys one after the other", { plan, scenario in plan.needsStates && !scenario.hasSinks }),
    ("several tiles in a task", { plan, _ in plan.tilesPerTask > 1 }),
    ("some heads that take turns", { $0.headTurnCount > 1 && $0.headTurnCount < $1.Hk }),
    (
      "rows that are copied because they lie far apart",
      {
        $0.farRowByteCount <= 16 * 4 && $0.headsPerTile * $0.queryTileLength >= 192 && $1.L > 0
      }
    ),
  ]

  @Test("each branch of a plan is taken by one of the cases, on every path")
  func everyBranch() throws {
    for path in AttentionContext.everyPath {
      var taken: Set<String> = []
      var styles: Set<TileStyle> = []
      for one in Self.cases {
        var context = path
        one.tune(&context)
        for plan in [try one.scenario.plan(Float.self, context), try one.scenario.plan(Double.self, context)] {
          styles.insert(plan.tiles)
          for branch in Self.branches where branch.isTaken(plan, one.scenario) { taken.insert(branch.name) }
        }
      }
      let missing = Self.branches.map(\.name).filter { !taken.contains($0) }
      #expect(missing.isEmpty, "\(path.path)")
      // The portable kernels have short vectors, so the test does not check which cases have few rows for them.
      // With the matrix algorithm, calls in Double are computed in lanes.
      let expected: Set<TileStyle> =
        switch (path.resolvedAlgorithm, path.instructionSet) {
        case (.openBLAS, _): [.openBLAS]
        case (_, .portable): styles
        case (.packed, _): [.lanes, .fewRows]
        case (.matrix, _): [.matrix, .lanes, .fewRows]
        }
      #expect(styles == expected, "\(path.path)")
    }
  }

  @Test("the results of the cases agree with the reference", arguments: cases.indices)
  func agree(index: Int) throws {
    let one = Self.cases[index]
    let contexts = AttentionContext.everyPath.map { path in
      var context = path
      one.tune(&context)
      return context
    }
    try one.scenario.check(contexts)
    // New memory may hold the results of an earlier call, which would hide elements that are not written. So the output
    // holds NaN before this call.
    let (inputs, mask) = (try Inputs<Float>(one.scenario.reference()), try one.scenario.libraryMask(Float.self))
    for context in contexts {
      var output = try Tensor<Float>(
        repeating: .nan, shape: [one.scenario.B, one.scenario.H, one.scenario.L, one.scenario.Ev])
      try scaledDotProductAttention(
        query: inputs.query, key: inputs.key, value: inputs.value, mask: mask, into: &output, context: context)
      #expect(output.array.allSatisfy { !$0.isNaN }, "\(one.scenario), \(context.path)")
    }
  }
}
