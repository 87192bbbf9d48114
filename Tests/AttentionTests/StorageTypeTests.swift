import Attention
import AttentionProblems
import AttentionTestSupport
import Testing

@Suite("Types of two bytes")
struct StorageTypeTests {
  static let masks: [Scenario.Mask] = [.none, .causal, .everything, .everythingElse, .biasWithInfinities]

  @Test(
    "results with two-byte elements are those of their conversions to Float, rounded once",
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
      // Products of parts depend on the type, so their results differ slightly: by no more than half of the last place of
      // the result's type.
      let isExact = context.algorithm != .matrix
      func agree(_ own: [Float], _ expected: [Float], within tolerance: Float = 2e-6) throws {
        if isExact { return #expect(sameBits(own, expected), "\(Stored.self) \(scenario) \(context.path)") }
        #expect(mismatch(own, expected.map(Double.init), tolerance: Double(tolerance), context.path) == nil)
      }
      func agree(_ own: Tensor<Stored>) throws {
        if isExact { return #expect(same(own, rounded), "\(Stored.self) \(scenario) \(context.path)") }
        for (own, expected) in zip(own.array, expected.output.array) {
          let rounded = Float(Stored(_nearest: Double(expected))._double)
          let place = Float(Stored.self == BFloat16.self ? 0x1p-8 : 0x1p-11) * abs(expected)
          #expect(abs(Float(own._double) - expected) <= abs(rounded - expected) + place / 2 + 2e-6)
        }
      }
      try agree(result.output)
      try agree(result.logSumExp.array, expected.logSumExp.array)
      try agree(result.weights.array, expected.weights.array)
      // A Float query with keys and values of two bytes.
      let mixed = try scaledDotProductAttention(
        query: floats.query, key: key, value: value, mask: mask, options: AttentionOptions(softcap: 5, sinks: sinks),
        context: context)
      try agree(mixed.array, expected.output.array)
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
      try agree(target)
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
