import Attention
import AttentionProblems
import AttentionTestSupport
import Testing

extension Scenario {
  /// Compares all gradients of both element types with the reference in Double, with each context.
  func checkGradients(_ contexts: [AttentionContext] = AttentionContext.everyPath) throws {
    let problem = reference()
    var generator = TestGenerator(seed: seed &+ 77)
    let outputGradient = generator.numbers(B * H * L * Ev)
    let exact = problem.gradients(of: outputGradient)
    try check(problem, outputGradient, exact, Float.self, contexts)
    try check(problem, outputGradient, exact, Double.self, contexts)
  }

  /// All gradients that the library computes for this problem.
  func gradients<Element: AttentionElement>(
    _ inputs: Inputs<Element>, _ outputGradient: [Double], _ context: AttentionContext
  ) throws -> AttentionGradients<Element, Element> {
    var extras: AttentionGradientExtras = [.biases, .alibiSlopes, .scoreParameters]
    if hasSinks { extras.insert(.sinks) }
    return try scaledDotProductAttentionGradients(
      query: inputs.query, key: inputs.key, value: inputs.value, mask: libraryMask(Element.self),
      options: options(Element.self), result: result(inputs, returning: .logSumExp, context: context),
      outputGradient: Tensor(outputGradient.map { Element($0) }, shape: [B, H, L, Ev]), returning: extras,
      context: context)
  }

  private func check<Element: AttentionElement>(
    _ problem: ReferenceAttention, _ outputGradient: [Double], _ exact: ReferenceAttention.Gradients<Double>,
    _: Element.Type, _ contexts: [AttentionContext]
  ) throws {
    let plain = problem.gradients(of: outputGradient, in: Element.self)
    let inputs = try Inputs<Element>(problem)
    // In a row that attends to one key, the plain formula has no error by luck, because it subtracts a number from
    // itself. The library subtracts the sum of dO·O from the sum of dO·V. Each of these sums differs from the exact sum
    // by some units in the last place of its terms.
    let slack =
      4 * Double(Element.ulpOfOne) * Double(Ev).squareRoot() * max(1, abs(scale ?? 1 / Double(E).squareRoot()) * 2)
    for context in contexts {
      let gradients = try gradients(inputs, outputGradient, context)
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
      if parts.contains(where: \.isFunction) {
        compare(
          "score parameters", try gradients.scoreParameters.array, plain.scoreParameters, exact.scoreParameters,
          slack: slack * Double(S))
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
