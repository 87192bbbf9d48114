import Attention
import AttentionProblems
import AttentionTestSupport
import Testing

@Suite("The accuracy of products of BFloat16 parts")
struct PrecisionTests {
  private static let paths = AttentionContext.everyPath.filter { $0.algorithm == .matrix }

  enum Data: CaseIterable {
    case small, unit, large, heavyTails, hugeValues

    /// Numbers of this kind that Float holds exactly.
    func numbers(_ count: Int, isValue: Bool, seed: UInt64) -> [Double] {
      var generator = TestGenerator(seed: seed)
      return generator.numbers(count, bound: 1).map { x in
        let number =
          switch self {
          case .small: x * 1e-3
          case .unit: x
          case .large: x * 16
          case .heavyTails: x / (1.001 - abs(x))
          case .hugeValues: isValue ? x * 1e30 : x
          }
        return Double(Float(number))
      }
    }
  }

  private func problem(_ data: Data) -> ReferenceAttention {
    var problem = ReferenceAttention()
    (problem.H, problem.L, problem.S, problem.E, problem.Ev) = (2, 90, 270, 64, 40)
    problem.Hk = 2
    problem.query = data.numbers(problem.H * problem.L * problem.E, isValue: false, seed: 1)
    problem.key = data.numbers(problem.H * problem.S * problem.E, isValue: false, seed: 2)
    problem.value = data.numbers(problem.H * problem.S * problem.Ev, isValue: true, seed: 3)
    return problem
  }

  /// The median, over all queries, of the largest error of a query's output. With heavy tails, the largest error of all
  /// depends on a few scores, whose errors are larger or smaller by chance.
  private func error<Number: BinaryFloatingPoint>(_ got: [Number], _ exact: [Double], width: Int) -> Double {
    let errors = zip(got, exact).map { abs(Double($0) - $1) }
    let rows = stride(from: 0, to: errors.count, by: width).map { errors[$0..<$0 + width].max()! }
    return rows.sorted()[rows.count / 2]
  }

  @Test(
    "six products in Float have at most 1.5 times the error of the plain formula in Float", arguments: Data.allCases)
  func full(data: Data) throws {
    let problem = problem(data)
    let exact = problem.answer().output
    let plain = error(problem.answer(in: Float.self).output, exact, width: problem.Ev)
    let inputs = try Inputs<Float>(problem)
    for context in Self.paths {
      let output = try scaledDotProductAttention(
        query: inputs.query, key: inputs.key, value: inputs.value, context: context)
      #expect(error(output.array, exact, width: problem.Ev) <= 1.5 * plain, "\(data) \(context.path)")
    }
  }

  @Test("with precision .bfloat16, operands and weights are rounded to BFloat16, and nothing else is")
  func bfloat16() throws {
    var problem = problem(.unit)
    let exact = problem.answer().output
    let inputs = try Inputs<Float>(problem)
    func rounded(_ x: [Double]) -> [Double] { x.map { BFloat16(_nearest: $0)._double } }
    (problem.query, problem.key) = (rounded(problem.query), rounded(problem.key))
    problem.value = rounded(problem.value)
    let expected = problem.answer().output
    func stored(_ x: Tensor<Float>) throws -> Tensor<BFloat16> { try Tensor(converting: x) }
    for var context in Self.paths {
      context.precision = .bfloat16
      let output = try scaledDotProductAttention(
        query: inputs.query, key: inputs.key, value: inputs.value, context: context
      ).array
      // Rounding changes a weight by up to 2⁻⁸ of it, but the errors of many weights cancel in part. The largest value is 1.
      #expect(mismatch(output, expected, tolerance: 0x1p-9 + 1e-5, context.path) == nil)
      // Products of more parts would have a much smaller error.
      #expect(error(output, exact, width: problem.Ev) > 1e-5, "\(context.path)")
      // Rounding the operands before the call changes nothing but the type of the result.
      let own = try scaledDotProductAttention(
        query: stored(inputs.query), key: stored(inputs.key), value: stored(inputs.value), context: context
      ).array
      #expect(zip(own, output).allSatisfy { abs($0._double - Double($1)) <= 0x1p-8 * abs(Double($1)) + 1e-6 })
    }
  }
}
