import Attention
import AttentionProblems
import AttentionTestSupport
import Testing

@Suite("Gradients of attention")
struct GradientTests {
  @Test("agree with the plain formula in Double for every mask on every path", arguments: Scenario.Mask.allCases)
  func masks(mask: Scenario.Mask) throws {
    for (L, S) in [(20, 90), (70, 70), (9, 4), (1, 40)] {
      try Scenario(B: 2, H: 4, Hk: 2, L: L, S: S, E: 16, Ev: 16, mask: mask).checkGradients()
    }
  }

  @Test(
    "agree with softcap, sinks and a mask", arguments: [nil, 0.7, 20] as [Double?],
    [Scenario.Mask.none, .everything, .everythingElse])
  func softcapAndSinks(softcap: Double?, mask: Scenario.Mask) throws {
    try Scenario(B: 1, H: 4, Hk: 2, L: 33, S: 50, E: 8, Ev: 8, mask: mask, softcap: softcap, hasSinks: true)
      .checkGradients()
  }

  @Test("agree for odd sizes, whose tiles and vectors are not full", arguments: [1, 5, 31, 80], [1, 33, 64])
  func sizes(E: Int, Ev: Int) throws {
    try Scenario(B: 1, H: 2, Hk: 1, L: 53, S: 41, E: E, Ev: Ev, mask: .causal).checkGradients()
  }

  @Test(
    "agree for several tiles and regions",
    arguments: [Scenario.Mask.none, .causal, .window, .documents, .keepingFirst, .bias, .blocks])
  func tiles(mask: Scenario.Mask) throws {
    try Scenario(B: 1, H: 2, Hk: 1, L: 420, S: 600, E: 8, Ev: 8, mask: mask).checkGradients()
    try Scenario(B: 2, H: 1, Hk: 1, L: 193, S: 257, E: 4, Ev: 4, mask: mask).checkGradients()
  }

  @Test("agree for a scale that is negative, tiny or 0", arguments: [-0.5, 1e-6, 0, 3])
  func scales(scale: Double) throws {
    try Scenario(L: 20, S: 30, mask: .causal, scale: scale).checkGradients()
  }
}

extension Scenario {
  /// Compares all gradients of both element types with the reference in Double, on some paths.
  func checkGradients(_ contexts: [AttentionContext] = AttentionContext.everyPath) throws {
    let problem = reference()
    var generator = TestGenerator(seed: seed &+ 77)
    let outputGradient = generator.numbers(B * H * L * Ev)
    let exact = problem.gradients(of: outputGradient)
    try check(problem, outputGradient, exact, Float.self, contexts)
    try check(problem, outputGradient, exact, Double.self, contexts)
  }

  private func check<Element: AttentionElement>(
    _ problem: ReferenceAttention, _ outputGradient: [Double], _ exact: ReferenceAttention.Gradients<Double>,
    _: Element.Type, _ contexts: [AttentionContext]
  ) throws {
    let plain = problem.gradients(of: outputGradient, in: Element.self)
    let inputs = try Inputs<Element>(problem)
    // The plain formula is exact by luck where a row attends to one key: it subtracts a number from itself. We subtract the sum
    // of dO·O from the sum of dO·V. Each differs from the exact sum by some units in the last place of its terms.
    let slack =
      4 * Double(Element.ulpOfOne) * Double(Ev).squareRoot() * max(1, abs(scale ?? 1 / Double(E).squareRoot()) * 2)
    let gradient = try Tensor(outputGradient.map { Element($0) }, shape: [B, H, L, Ev])
    for context in contexts {
      let result = try result(inputs, returning: .logSumExp, context: context)
      var extras: AttentionGradientExtras = [.biases, .alibiSlopes]
      if hasSinks { extras.insert(.sinks) }
      let gradients = try scaledDotProductAttentionGradients(
        query: inputs.query, key: inputs.key, value: inputs.value, mask: libraryMask(Element.self),
        options: options(Element.self), result: result, outputGradient: gradient, returning: extras, context: context)
      func compare(_ name: String, _ got: [Element], _ plain: [Element], _ exact: [Double], slack: Double = 0) {
        let difference = mismatch(
          got, exact, tolerance: tolerance(plain: plain, exact: exact) + slack,
          "\(name) \(Element.self) of \(self), \(context.path)")
        #expect(difference == nil)
      }
      compare("query", gradients.query.array, plain.query, exact.query, slack: slack)
      compare("key", gradients.key.array, plain.key, exact.key, slack: slack)
      compare("value", gradients.value.array, plain.value, exact.value)
      if hasSinks { compare("sinks", try gradients.sinks.array, plain.sinks, exact.sinks) }
      let biases = zip(parts.biasGradients(plain.scores, problem), parts.biasGradients(exact.scores, problem))
      for (got, expected) in zip(try gradients.biases, biases) {
        compare("bias", got.array, expected.0, expected.1, slack: slack)
      }
      let slopes = zip(parts.slopeGradients(plain.scores, problem), parts.slopeGradients(exact.scores, problem))
      for (got, expected) in zip(try gradients.alibiSlopes, slopes) {
        compare("slopes", got.array, expected.0, expected.1, slack: slack * Double(S))
      }
      #expect(try gradients.biases.count == parts.count { $0.biasShape != nil })
      #expect(try gradients.alibiSlopes.count == parts.count { $0.distance != nil })
    }
  }
}
