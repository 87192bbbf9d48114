import Attention
import AttentionBLAS
import Benchmark
import CAllocationCounter

// What watches for regressions. Seconds differ from machine to machine and from hour to hour; these do not, or much less:
// the allocations of a call, its instructions, and its time against that of a product with as many operations
// taken just before.

// Plain names: thresholds are stored in files of these names, and found by them.
private let allocations = BenchmarkMetric.custom("allocations-a-call")
private let cost = BenchmarkMetric.custom("time-in-permille-of-a-product")

/// One thread: with more, whether a worker spins or sleeps would change the instructions.
private let context = AttentionContext(threadCount: 1)

private func random(_ shape: [Int], _ seed: UInt64) throws -> Tensor<Float> {
  try Tensor(uniform: -1..<1, shape: shape, seed: seed)
}

private func seconds(_ body: () throws -> Void) rethrows -> Double {
  let components = try ContinuousClock().measure(body).components
  return Double(components.seconds) + Double(components.attoseconds) * 1e-18
}

/// Times that a figure is the best of.
private let trials = 7

/// A product of 384³, whose rate is this machine's.
private final class Yardstick: @unchecked Sendable {
  // Sendable: used by one benchmark at a time.
  private let a: Tensor<Float>
  private let b: Tensor<Float>
  private var c: Tensor<Float>

  init() throws {
    a = try random([384, 384], 1)
    b = try random([384, 384], 2)
    c = try Tensor(repeating: 0, shape: [384, 384])
  }

  /// Seconds that one operation takes.
  func secondsPerOperation() throws -> Double {
    try seconds { try c.withMutableView { try matmul(a, b, .replacing, into: &$0, context: context) } }
      / (2 * 384 * 384 * 384)
  }
}

let benchmarks: @Sendable () -> Void = {
  // Against the 90th percentile that is stored: no allocation more; so many percent; seconds only against disaster.
  var tolerances: [BenchmarkMetric: BenchmarkThresholds] = [
    allocations: .init(absolute: [.p90: 0]), cost: .init(relative: [.p90: 60]),
    .instructions: .init(relative: [.p90: 8]), .wallClock: .init(relative: [.p90: 900]),
  ]
  if !allocation_counter_works() { tolerances[allocations] = nil }
  Benchmark.defaultConfiguration = .init(
    metrics: [.wallClock, .instructions, allocations, cost], warmupIterations: 3, maxDuration: .seconds(2),
    maxIterations: 2000, thresholds: tolerances)

  /// `call` in batches of `repetitions`, for what takes microseconds.
  func watch(_ name: String, operations: Double, repetitions: Int = 1, _ make: () throws -> () throws -> Void) {
    let call: () throws -> Void
    let yardstick: Yardstick
    do { (call, yardstick) = (try make(), try Yardstick()) } catch { fatalError("\(name): \(error)") }
    nonisolated(unsafe) let work = call
    Benchmark(name) { benchmark in
      // The best of some times of each, in turn: a shared machine only takes away.
      var perOperation = Double.infinity
      var taken = Double.infinity
      var counted = 0
      for trial in 0..<trials {
        perOperation = min(perOperation, try yardstick.secondsPerOperation())
        if trial == trials - 1 { benchmark.startMeasurement() }
        let before = allocation_count()
        taken = min(taken, try seconds { for _ in 0..<repetitions { try work() } })
        counted = allocation_count() - before
      }
      benchmark.stopMeasurement()
      benchmark.measurement(allocations, counted / repetitions)
      benchmark.measurement(cost, Int((1000 * taken / (perOperation * operations * Double(repetitions))).rounded()))
    }
  }

  func attention(
    _ name: String, H: Int, Hk: Int? = nil, L: Int, S: Int? = nil, E: Int, mask: AttentionMask = .none,
    share: Double = 1, repetitions: Int = 1
  ) {
    let S = S ?? L
    watch(
      "attention-\(name)", operations: 4 * Double(H * L) * Double(S * E) * share, repetitions: repetitions
    ) {
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

  attention("H1-L8-E8", H: 1, L: 8, E: 8, repetitions: 100)
  attention("H12-L128-E64", H: 12, L: 128, E: 64)
  attention("H12-L512-E64", H: 12, L: 512, E: 64)
  attention("H8-L1024-E64-causal", H: 8, L: 1024, E: 64, mask: .causal, share: 0.5)
  attention("H32-8-L1-S2048-E128", H: 32, Hk: 8, L: 1, S: 2048, E: 128, mask: .causal)
  attention("H8-L1024-E64-lengths", H: 8, L: 1024, E: 64, mask: .keyLengths([700]), share: 700.0 / 1024)
  watch("layer-L256-d384-H12", operations: 8 * 256 * 384 * 384 + 4 * 256 * 256 * 384) {
    let layer = try MultiHeadAttention<Float>(embeddingWidth: 384, headCount: 12, seed: 1)
    let x = try random([1, 256, 384], 1)
    return { _ = try layer(x, context: context) }
  }
  watch("softmax-128x512", operations: 5 * 128 * 512) {
    let x = try random([128, 512], 1)
    return { _ = try softmax(x, context: context) }
  }
  watch("matmul-100x32x64x32", operations: 2 * 100 * 32 * 64 * 32) {
    let a = try random([100, 32, 64], 1)
    let b = try random([100, 64, 32], 2)
    var c = try Tensor<Float>(repeating: 0, shape: [100, 32, 32])
    return { try c.withMutableView { try matmul(a, b, .replacing, into: &$0, context: context) } }
  }
}
