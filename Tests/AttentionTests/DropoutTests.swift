import Attention
import AttentionProblems
import AttentionTestSupport
import Testing

@Suite("Dropout of the weights of attention")
struct DropoutTests {
  @Test("the reference's generator has the known answers of its authors")
  func knownAnswers() {
    #expect(
      Philox.numbers([0, 0, 0, 0], key: [0, 0]) == [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8])
    #expect(
      Philox.numbers([.max, .max, .max, .max], key: [.max, .max])
        == [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd])
    #expect(
      Philox.numbers([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], key: [0xa409_3822, 0x299f_31d0])
        == [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1])
  }

  @Test(
    "results and gradients agree with the plain formula on every path",
    arguments: [
      Scenario.Mask.none, .causal, .window, .keepingFirst, .documents, .blocks, .everything, .everythingElse,
    ],
    [0.1, 0.5])
  func agrees(mask: Scenario.Mask, probability: Double) throws {
    for (L, S) in [(33, 90), (70, 41), (2, 40), (1, 3)] {
      var scenario = Scenario(B: 2, H: 4, Hk: 2, L: L, S: S, E: 8, Ev: 16, mask: mask)
      scenario.dropout = AttentionDropout(probability: probability, seed: 0x1234_5678_9abc_def0)
      try scenario.check()
      try scenario.checkGradients()
    }
  }

  @Test("results and gradients agree for several tiles, regions and splits, with sinks and softcap")
  func tiles() throws {
    var scenario = Scenario(B: 1, H: 2, Hk: 1, L: 200, S: 600, E: 8, Ev: 8, mask: .causal, softcap: 5, hasSinks: true)
    scenario.dropout = AttentionDropout(probability: 0.3, seed: 7)
    try scenario.check()
    try scenario.checkGradients()
    scenario = Scenario(B: 1, H: 2, Hk: 1, L: 2, S: 9000, E: 8, Ev: 8, mask: .none)
    scenario.dropout = AttentionDropout(probability: 0.3, seed: 7)
    try scenario.check()
  }

  @Test(
    "a probability of 0 changes no bit, and a probability of 1 drops all weights", arguments: AttentionContext.everyPath
  )
  func limits(context: AttentionContext) throws {
    var scenario = Scenario(B: 1, H: 2, Hk: 2, L: 40, S: 50, E: 16, Ev: 16, mask: .causal)
    let inputs = try Inputs<Float>(scenario.reference())
    let outputGradient = [Double](repeating: 1, count: 2 * 40 * 16)
    let plain = try scenario.result(inputs, returning: [.logSumExp, .weights], context: context)
    let plainGradients = try scenario.gradients(inputs, outputGradient, context)
    scenario.dropout = AttentionDropout(probability: 0, seed: 3)
    let none = try scenario.result(inputs, returning: [.logSumExp, .weights], context: context)
    #expect(sameBits(none.output.array, plain.output.array))
    #expect(try sameBits(none.weights.array, plain.weights.array))
    #expect(try sameBits(scenario.gradients(inputs, outputGradient, context).key.array, plainGradients.key.array))
    scenario.dropout = AttentionDropout(probability: 1, seed: 3)
    let all = try scenario.result(inputs, returning: [.logSumExp, .weights], context: context)
    let gradients = try scenario.gradients(inputs, outputGradient, context)
    #expect(all.output.array.allSatisfy { $0 == 0 })
    #expect(try all.weights.array.allSatisfy { $0 == 0 })
    #expect(try sameBits(all.logSumExp.array, plain.logSumExp.array))
    for gradient in [gradients.query, gradients.key, gradients.value] {
      #expect(gradient.array.allSatisfy { $0 == 0 })
    }
  }

  @Test("another seed, query, key, head or element of the batch drops other weights; their share is the probability")
  func independence() throws {
    let (B, H, L, S) = (2, 2, 64, 256)
    let x = try Tensor<Float>(repeating: 0, shape: [B, H, L, 4])
    let keys = try Tensor<Float>(repeating: 0, shape: [B, H, S, 4])
    func kept(seed: UInt64) throws -> [Bool] {
      let options = AttentionOptions<Float>(dropout: AttentionDropout(probability: 0.25, seed: seed))
      return try scaledDotProductAttention(
        query: x, key: keys, value: keys, options: options, returning: .weights
      ).weights.array.map { $0 != 0 }
    }
    let (one, other) = (try kept(seed: 1), try kept(seed: 1 << 32 | 1))
    let count = Double(one.count)
    // The standard deviation of the share is 0.0017.
    #expect(abs(Double(one.count { $0 }) / count - 0.75) < 0.008)
    func share(_ a: some Sequence<Bool>, _ b: some Sequence<Bool>) -> Double {
      let pairs = Array(zip(a, b))
      return Double(pairs.count { $0 == $1 }) / Double(pairs.count)
    }
    // Independent masks agree in 0.75² + 0.25² = 0.625 of their elements.
    let plane = L * S
    for (name, agreement) in [
      ("seed", share(one, other)), ("query", share(one, one.dropFirst(S))), ("key", share(one, one.dropFirst(1))),
      ("head", share(one, one.dropFirst(plane))), ("batch", share(one, one.dropFirst(H * plane))),
    ] { #expect(abs(agreement - 0.625) < 0.015, "\(name): \(agreement)") }
  }

  @Test("a probability that is not from 0 to 1 is an error", arguments: [-0.1, 1.5, .nan])
  func errors(probability: Double) throws {
    let x = try Tensor<Float>(repeating: 1, shape: [1, 1, 2, 4])
    let error = #expect(throws: AttentionError.self) {
      try scaledDotProductAttention(
        query: x, key: x, value: x,
        options: AttentionOptions(dropout: AttentionDropout(probability: probability, seed: 1)))
    }
    #expect(
      error?.description
        == "scaledDotProductAttention: a probability of dropout from 0 to 1 expected; got \(probability)")
  }
}
