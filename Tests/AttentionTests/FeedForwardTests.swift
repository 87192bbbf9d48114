import Attention
import AttentionProblems
import AttentionTestSupport
import Testing

@Suite("Feed-forward layers")
struct FeedForwardTests {
  private static let (d, inner) = (12, 29)

  /// The formula f(x·Wᵀ + b) of a linear layer with the activation f, in Double.
  private func linear(_ x: [Double], _ weight: Tensor<Double>, _ bias: Tensor<Double>, _ activation: Activation)
    -> [Double]
  {
    let (rows, columns) = (weight.shape[0], weight.shape[1])
    return stride(from: 0, to: x.count, by: columns).flatMap { row in
      (0..<rows).map { out in
        referenceActivation("\(activation)", (0..<columns).reduce(bias[out]) { $0 + x[row + $1] * weight[out, $1] })
      }
    }
  }

  @Test(
    "plain and gated forms agree with their formulas", arguments: Activation.allCases,
    [[5, 12], [2, 3, 12], [12], [900, 12]])
  func formula(activation: Activation, shape: [Int]) throws {
    for context in AttentionContext.everyPath {
      try formula(Float.self, activation, shape, context)
      try formula(Double.self, activation, shape, context)
    }
  }

  private func formula<Element: AttentionElement>(
    _: Element.Type, _ activation: Activation, _ shape: [Int], _ context: AttentionContext
  ) throws {
    func random(_ shape: [Int], _ seed: UInt64) throws -> Tensor<Double> {
      // Numbers that Float represents exactly.
      try Tensor(converting: Tensor<Float>(uniform: -1..<1, shape: shape, seed: seed))
    }
    func layer(_ w: Tensor<Double>, _ b: Tensor<Double>, _ activation: Activation = .none) throws -> Linear<Element> {
      try Linear(weight: Tensor(converting: w), bias: Tensor(converting: b), activation: activation)
    }
    let (d, inner) = (Self.d, Self.inner)
    let x = try random(shape, 1)
    let (w1, b1) = (try random([inner, d], 2), try random([inner], 3))
    let (wg, bg) = (try random([inner, d], 4), try random([inner], 5))
    let (w2, b2) = (try random([d, inner], 6), try random([d], 7))
    let input = try Tensor<Element>(converting: x)
    let bound = tolerance(ofFloat: 2e-5, as: Element.self)

    let plain = try FeedForward(up: layer(w1, b1, activation), down: layer(w2, b2))
    let want = linear(linear(x.array, w1, b1, activation), w2, b2, .none)
    let got = try plain(input, context: context)
    #expect(got.shape == shape)
    #expect(mismatch(got.array, want, tolerance: bound, "plain \(activation) \(context.path)") == nil)

    let gated = try FeedForward(gate: layer(wg, bg, activation), up: layer(w1, b1), down: layer(w2, b2))
    let gates = linear(x.array, wg, bg, activation)
    let ups = linear(x.array, w1, b1, .none)
    let wantGated = linear(zip(gates, ups).map { $0 * $1 }, w2, b2, .none)
    let gotGated = try gated(input, context: context)
    #expect(mismatch(gotGated.array, wantGated, tolerance: bound, "gated \(activation) \(context.path)") == nil)
  }

  @Test("many rows have the same bits on several threads as on one, and packing the weights changes no bit")
  func threads() throws {
    func layer(_ shape: [Int], _ seed: UInt64, _ activation: Activation = .none) throws -> Linear<Float> {
      try Linear(weight: Tensor(uniform: -1..<1, shape: shape, seed: seed), activation: activation)
    }
    let block = try FeedForward(gate: layer([300, 64], 1, .silu), up: layer([300, 64], 2), down: layer([64, 300], 3))
    let x = try Tensor<Float>(uniform: -1..<1, shape: [2000, 64], seed: 4)
    let one = try block(x, context: AttentionContext(threadCount: 1)).array
    try block.pack()
    #expect(sameBits(try block(x, context: AttentionContext(threadCount: 4)).array, one))
  }

  @Test("layers whose shapes do not fit each other are an error that names the shapes")
  func errors() throws {
    func layer(_ shape: [Int]) throws -> Linear<Float> { try Linear(weight: Tensor(repeating: 0, shape: shape)) }
    let error = try #require(throws: AttentionError.self) { try FeedForward(up: layer([5, 3]), down: layer([3, 4])) }
    #expect(error.description.contains("got [5, 3], no gate, [3, 4]"))
    #expect(throws: AttentionError.self) {
      try FeedForward(gate: layer([4, 3]), up: layer([5, 3]), down: layer([3, 5]))
    }
    #expect(throws: AttentionError.self) {
      try FeedForward(gate: layer([5, 2]), up: layer([5, 3]), down: layer([3, 5]))
    }
  }
}
