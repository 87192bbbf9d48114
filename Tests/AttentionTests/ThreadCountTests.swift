import Attention
import AttentionProblems
import AttentionTestSupport
import Testing

@Suite("The same inputs give the same bits with any number of threads and any executor")
struct ThreadCountTests {
  /// Checks that `run` gives the same bits on several threads, and on another executor, as on one thread.
  private func check(
    _ what: @autoclosure () -> String, on paths: [AttentionContext] = AttentionContext.everyPath,
    _ run: (AttentionContext) throws -> [Double]
  ) throws {
    for path in paths {
      func result(_ threadCount: Int, _ executor: any ParallelExecutor) throws -> [Double] {
        var context = path
        context.threadCount = threadCount
        context.executor = executor
        return try run(context)
      }
      let one = try result(1, path.executor)
      #expect(!one.isEmpty)
      for threadCount in [2, 7, 16] {
        let isSame = try sameBits(one, result(threadCount, path.executor))
        #expect(isSame, "\(what()), \(threadCount) threads, \(path.path)")
      }
      let isSame = try sameBits(one, result(2, DispatchExecutor()))
      #expect(isSame, "\(what()), Dispatch, \(path.path)")
    }
  }

  private func numbers<Stored: AttentionStorage>(_ x: Tensor<Stored>) -> [Double] { x.array.map(\._double) }

  @Test("attention", arguments: [Scenario.Mask.none, .causal, .everything, .everythingElse])
  func attention(mask: Scenario.Mask) throws {
    try attention(mask, Float.self)
    if mask == .causal { try attention(mask, Double.self) }
  }

  private func attention<Element: AttentionElement>(_ mask: Scenario.Mask, _: Element.Type) throws {
    let isWindow = mask == .everything || mask == .everythingElse
    for (scenario, isSplit) in [
      (Scenario(B: 2, H: 4, Hk: 2, L: 200, S: 300, E: 64, Ev: 64, mask: mask), false),
      (Scenario(B: 1, H: 4, Hk: 1, L: 4, S: 6000, E: 64, Ev: 64, mask: mask, softcap: 9, hasSinks: true), !isWindow),
      (Scenario(B: 24, H: 12, Hk: 12, L: 16, S: 16, E: 64, Ev: 64, mask: mask), false),
    ] {
      let inputs = try Inputs<Element>(scenario.reference())
      for path in AttentionContext.everyPath {
        let plan = try scenario.plan(Element.self, path)
        if !isWindow {
          #expect((plan.splitsPerTile > 1) == isSplit, "\(plan)")
          #expect(plan.workerCount(threadCount: 2) == 2, "two workers expected, or this test shows nothing: \(plan)")
        }
      }
      try check("\(scenario)") { context in
        let result = try scenario.result(inputs, returning: [.logSumExp, .weights], context: context)
        return try numbers(result.output) + numbers(result.weights) + numbers(result.logSumExp)
      }
    }
  }

  @Test("two-byte element types")
  func storage() throws {
    try storage(BFloat16.self)
    #if !(os(macOS) && arch(x86_64))
      try storage(Float16.self)
    #endif
  }

  private func storage<Stored: AttentionStorage>(_: Stored.Type) throws {
    for (L, S) in [(300, 300), (2, 9000)] {
      func operand(_ heads: Int, _ length: Int, _ seed: UInt64) throws -> Tensor<Stored> {
        try Tensor(converting: Tensor<Float>(uniform: -1..<1, shape: [2, heads, length, 32], seed: seed))
      }
      let (query, key, value) = (try operand(8, L, 1), try operand(2, S, 2), try operand(2, S, 3))
      try check("\(Stored.self) L\(L) S\(S)") {
        numbers(
          try scaledDotProductAttention(query: query, key: key, value: value, mask: .causal, context: $0))
      }
    }
  }

  @Test("caches of every kind")
  func caches() throws {
    try caches(Float.self)
    try caches(Double.self)
    try caches(BFloat16.self)
  }

  private func caches<Stored: AttentionStorage>(_: Stored.Type) throws {
    for kind in [CacheKind.growing, .paged(64), .window(1500, 3), .window(1500, 3, pageLength: 64)] {
      let cache = try kind.cache(Stored.self, batchCount: 2, headCount: 2, headDimension: 32, valueDimension: 32)
      let tokens = try Tensor<Stored>(
        converting: Tensor<Float>(uniform: -1..<1, shape: [2, 2, 5000, 32], seed: 4))
      try cache.append(key: tokens, value: tokens)
      for count in [1, 70] {
        let query = try Tensor<Stored.Arithmetic>(
          converting: Tensor<Float>(uniform: -1..<1, shape: [2, 8, count, 32], seed: 5))
        try check("\(Stored.self) \(kind) of \(count) queries") {
          numbers(try scaledDotProductAttention(query: query, cache: cache, context: $0))
        }
      }
    }
  }

  @Test("layers, and packed sequences")
  func layers() throws {
    try layers(Float.self)
    try layers(Double.self)
  }

  private func layers<Element: AttentionElement>(_: Element.Type) throws {
    let layer = try MultiHeadAttention<Element>(embeddingDimension: 192, headCount: 6, seed: 3)
    let x = try Tensor<Element>(uniform: -1..<1, shape: [3, 100, 192], seed: 4)
    try check("a layer of \(Element.self)") { context in
      let result = try layer.forward(
        query: x, key: x, value: x, mask: .causal, weights: .averaged, context: context)
      return try numbers(result.output) + numbers(result.weights)
    }
    let packed = try x.reshaped([300, 192])
    try check("packed sequences of \(Element.self)") {
      numbers(try layer.forward(packed: packed, lengths: [40, 1, 0, 200, 59], isCausal: true, context: $0))
    }
  }
}
