import Attention
import AttentionProblems
import AttentionTestSupport
import Testing

@Suite("Types of two bytes")
struct StorageTypeTests {
  static let masks: [Scenario.Mask] = [.none, .causal, .everything, .everythingElse, .biasWithInfinities]

  @Test(
    "two-byte elements are converted to Float, and results are rounded once",
    arguments: masks, [(1, 90), (3, 1300), (70, 130)])
  func bits(mask: Scenario.Mask, lengths: (Int, Int)) throws {
    let scenario = Scenario(
      B: 2, H: 4, Hk: 2, L: lengths.0, S: lengths.1, E: 24, Ev: 17, mask: mask, softcap: 5, hasSinks: true)
    try check(scenario, BFloat16.self)
    #if !(os(macOS) && arch(x86_64))
      try check(scenario, Float16.self)
    #endif
  }

  private func check<Stored: AttentionStorage>(_ scenario: Scenario, _: Stored.Type) throws
  where Stored.Arithmetic == Float {
    let inputs = try Inputs<Float>(scenario.reference())
    func stored(_ x: Tensor<Float>) throws -> Tensor<Stored> { try Tensor(converting: x) }
    let (query, key, value) = (try stored(inputs.query), try stored(inputs.key), try stored(inputs.value))
    var floats = inputs
    floats.query = try Tensor(converting: query)
    floats.key = try Tensor(converting: key)
    floats.value = try Tensor(converting: value)
    let mask = try scenario.libraryMask(Float.self)
    let sinks = try Tensor((0..<4).map { Float(Double($0) / 3 - 1) }, shape: [4])
    for context in AttentionContext.everyPath {
      let expected = try scenario.result(floats, returning: [.logSumExp, .weights], context: context)
      let rounded = try Tensor<Stored>(converting: expected.output)
      let result = try scaledDotProductAttention(
        query: query, key: key, value: value, mask: mask, options: AttentionOptions(softcap: 5, sinks: sinks),
        returning: [.logSumExp, .weights],
        context: context)
      #expect(same(result.output, rounded), "\(Stored.self) \(scenario) \(context.path)")
      #expect(try sameBits(result.logSumExp.array, expected.logSumExp.array))
      #expect(try sameBits(result.weights.array, expected.weights.array))
      // A Float query with keys and values of two bytes.
      let mixed = try scaledDotProductAttention(
        query: floats.query, key: key, value: value, mask: mask, options: AttentionOptions(softcap: 5, sinks: sinks),
        context: context)
      #expect(sameBits(mixed.array, expected.output.array))
      // Operands and a result whose elements are not next to each other in memory.
      func apart(_ x: Tensor<Stored>) throws -> Tensor<Stored> {
        var wide = try Tensor(repeating: Stored(_nearest: .nan), shape: x.shape + [2])
        try wide.withMutableView { view in
          try view.withSlice(0..<1, axis: 4) { try $0.copy(from: x.reshaped(x.shape + [1])) }
        }
        return try wide.select(0, axis: 4)
      }
      var target = try apart(rounded)
      try scaledDotProductAttention(
        query: apart(query), key: apart(key), value: apart(value), mask: mask,
        options: AttentionOptions(softcap: 5, sinks: sinks), into: &target,
        context: context)
      #expect(same(target, rounded))
    }
  }

  private func same<Stored: AttentionStorage>(_ a: Tensor<Stored>, _ b: Tensor<Stored>) -> Bool {
    a.shape == b.shape && zip(a.array, b.array).allSatisfy { $0._double == $1._double }
  }

  @Test("a bias of two-byte elements acts as its conversion to Float; a Float call refuses a Double bias")
  func bias() throws {
    let x = try Tensor<Float>(uniform: -1..<1, shape: [1, 2, 30, 8], seed: 1)
    let bias = try Tensor<BFloat16>(converting: Tensor<Float>(uniform: -3..<3, shape: [2, 30, 30], seed: 2))
    for context in AttentionContext.everyPath {
      let expected = try scaledDotProductAttention(
        query: x, key: x, value: x, mask: .bias(Tensor<Float>(converting: bias)), context: context)
      #expect(
        sameBits(
          try scaledDotProductAttention(query: x, key: x, value: x, mask: .bias(bias), context: context).array,
          expected.array))
    }
    #expect(throws: AttentionError.self) {
      try scaledDotProductAttention(
        query: x, key: x, value: x, mask: .bias(Tensor<Double>(repeating: 0, shape: [1])))
    }
  }
}
