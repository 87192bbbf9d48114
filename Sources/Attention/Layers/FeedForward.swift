public import AttentionTensors

/// The feed-forward half of a transformer block, plain or gated:
///
///     plain:  y = W₂·f(W₁·x + b₁) + b₂
///     gated:  y = W₂·(f(Wg·x + bg) ⊙ (W₁·x + b₁)) + b₂
///
/// f is the activation, and ⊙ multiplies element by element. With `.silu` as f, the gated form is SwiGLU, as in Llama.
/// With `.gelu`, it is GEGLU.
///
///     let block = try FeedForward(
///       up: Linear(weight: w1, bias: b1, activation: .gelu), down: Linear(weight: w2, bias: b2))
///     let y = try block(x)   // […, d] to […, d]
///
/// Safe to call from several threads at once.
/// Source: Vaswani et al. 2017 (arXiv:1706.03762), equation 2; Shazeer 2020 (arXiv:2002.05202), equations 5 and 6.
public struct FeedForward<Element: AttentionElement>: Sendable {
  /// W₁: `[inner, d]`. In the plain form, its activation is f.
  public internal(set) var up: Linear<Element>
  /// Wg: `[inner, d]`. Its activation is f. Nil: the plain form.
  public internal(set) var gate: Linear<Element>?
  /// W₂: `[out, inner]`. In a transformer block, out is d.
  public internal(set) var down: Linear<Element>

  /// The plain form; the activation is that of `up`.
  /// - Throws: `AttentionError` if the layers do not fit each other.
  public init(up: Linear<Element>, down: Linear<Element>) throws(AttentionError) {
    try self.init(gate: nil, up: up, down: down)
  }

  /// The gated form; the activation is that of `gate`.
  /// - Throws: `AttentionError` if the layers do not fit each other.
  public init(gate: Linear<Element>, up: Linear<Element>, down: Linear<Element>) throws(AttentionError) {
    try self.init(gate: Optional(gate), up: up, down: down)
  }

  private init(gate: Linear<Element>?, up: Linear<Element>, down: Linear<Element>) throws(AttentionError) {
    try requireShape(
      up.outputDimension == down.inputDimension
        && gate.map { $0.inputDimension == up.inputDimension && $0.outputDimension == up.outputDimension } ?? true,
      "FeedForward",
      "up [inner, d], gate [inner, d] and down [out, inner] expected; got \(up.weight.shape), "
        + "\(gate.map { "\($0.weight.shape)" } ?? "no gate"), \(down.weight.shape)")
    self.up = up
    self.gate = gate
    self.down = down
  }

  /// The output y of this layer for x.
  ///
  /// - Parameters:
  ///   - x: `[…, d]`.
  ///   - context: Threads, instruction set, algorithm.
  /// - Returns: `[…, out]`, contiguous.
  /// - Throws: `AttentionError` if the rows of x do not have d elements, or memory runs out.
  public func callAsFunction(_ x: Tensor<Element>, context: AttentionContext = .default) throws -> Tensor<Element> {
    var inner = try up(x, context: context)
    if let gate { try multiply(&inner, by: gate(x, context: context), context) }
    return try down(inner, context: context)
  }

  /// Packs the weights now, so that the first call takes no longer than later calls.
  /// - Throws: `AttentionError` if memory runs out.
  public func pack(context: AttentionContext = .default) throws {
    for layer in [gate, up, down] { try layer?.pack(context: context) }
  }

  /// x ← x ⊙ y, element by element. Both are contiguous and have the same shape.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  func multiply(_ x: inout Tensor<Element>, by y: Tensor<Element>, _ context: AttentionContext) throws {
    let count = x.count
    try x.withMutableView { view in
      let (x, factors) = (UncheckedSendable(view.base), UncheckedSendable(y.base))
      // An estimate that sets the size of tasks: one thread takes 0.25 ns for each element.
      context.parallelFor(count: count, nanosecondsPerItem: 0.25) { items, _ in
        for i in items { x.value[i] *= factors.value[i] }
      }
    }
    withExtendedLifetime(y) {}
  }
}
