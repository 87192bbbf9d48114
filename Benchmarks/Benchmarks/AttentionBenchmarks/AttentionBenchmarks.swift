import Attention
import AttentionBLAS
import Benchmark
import CAllocationCounter

// These benchmarks compare the number of allocations of a call with the stored number, exactly. Allocations do not
// depend on the kernels. Seconds and instructions do, so `make regressions BASE=commit` compares them with those of
// another commit on the same machine.

// The stored thresholds use the metric's name as a key, so it consists of plain characters.
private let allocations = BenchmarkMetric.custom("allocations-a-call")

/// One thread: with more, the threads' own allocations would count.
private let context = AttentionContext(threadCount: 1)

private func random(_ shape: [Int], _ seed: UInt64) throws -> Tensor<Float> {
  try Tensor(uniform: -1..<1, shape: shape, seed: seed)
}

let benchmarks: @Sendable () -> Void = {
  // A call may make neither more nor fewer allocations than are stored.
  let tolerances: [BenchmarkMetric: BenchmarkThresholds] =
    allocation_counter_works() ? [allocations: .init(absolute: [.p90: 0])] : [:]
  Benchmark.defaultConfiguration = .init(
    metrics: [allocations], warmupIterations: 3, maxDuration: .seconds(1), maxIterations: 20, thresholds: tolerances)

  func watch(_ name: String, _ make: () throws -> () throws -> Void) {
    let call: () throws -> Void
    do { call = try make() } catch { fatalError("\(name): \(error)") }
    nonisolated(unsafe) let work = call
    Benchmark(name) { benchmark in
      // The least count of ten calls is used, because allocations that other threads of this process make during a call
      // are counted, too.
      var least = Int.max
      benchmark.startMeasurement()
      for _ in 0..<10 {
        let before = allocation_count()
        try work()
        least = min(least, allocation_count() - before)
      }
      benchmark.stopMeasurement()
      benchmark.measurement(allocations, least)
    }
  }

  func attention(
    _ name: String, H: Int, Hk: Int? = nil, L: Int, S: Int? = nil, E: Int, mask: AttentionMask = .none
  ) {
    let S = S ?? L
    watch("attention-\(name)") {
      let query = try random([1, H, L, E], 1)
      let key = try random([1, Hk ?? H, S, E], 2)
      let value = try random([1, Hk ?? H, S, E], 3)
      var output = try Tensor<Float>(repeating: 0, shape: [1, H, L, E])
      return {
        try scaledDotProductAttention(
          query: query, key: key, value: value, mask: mask, into: &output, context: context)
      }
    }
  }

  attention("H1-L8-E8", H: 1, L: 8, E: 8)
  attention("H12-L128-E64", H: 12, L: 128, E: 64)
  attention("H12-L512-E64", H: 12, L: 512, E: 64)
  attention("H8-L1024-E64-causal", H: 8, L: 1024, E: 64, mask: .causal)
  attention("H32-8-L1-S2048-E128", H: 32, Hk: 8, L: 1, S: 2048, E: 128, mask: .causal)
  attention("H8-L1024-E64-lengths", H: 8, L: 1024, E: 64, mask: .keyLengths([700]))
  watch("layer-L256-d384-H12") {
    let layer = try MultiHeadAttention<Float>(embeddingDimension: 384, headCount: 12, seed: 1)
    let x = try random([1, 256, 384], 1)
    return { _ = try layer(x, context: context) }
  }
  watch("softmax-128x512") {
    let x = try random([128, 512], 1)
    return { _ = try softmax(x, context: context) }
  }
  watch("matmul-100x32x64x32") {
    let a = try random([100, 32, 64], 1)
    let b = try random([100, 64, 32], 2)
    var c = try Tensor<Float>(repeating: 0, shape: [100, 32, 32])
    return { try c.withMutableView { try matmul(a, b, .replacing, into: &$0, context: context) } }
  }
}
