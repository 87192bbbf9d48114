public import AttentionTensors

extension FeedForward: TrainableLayer {
  /// Calls `body` with the parameters of `linear1` and `linear2`, as PyTorch's `nn.TransformerEncoderLayer` names them. The
  /// gated form has `gate_proj`, `up_proj` and `down_proj`, the names of decoders in Hugging Face's transformers.
  public mutating func forEachParameter(
    prefix: String, _ body: (_ name: String, _ value: inout Tensor<Element>) throws -> Void
  ) throws {
    let names = names
    try gate?.forEachParameter(prefix: prefix + names.gate, body)
    try up.forEachParameter(prefix: prefix + names.up, body)
    try down.forEachParameter(prefix: prefix + names.down, body)
  }

  private var names: (gate: String, up: String, down: String) {
    gate == nil ? ("", "linear1.", "linear2.") : ("gate_proj.", "up_proj.", "down_proj.")
  }

  /// The output of this layer for x, and its backward pass.
  ///
  ///     h = f(Wg·x + bg) ⊙ u, u = W₁·x + b₁  ⇒  du = dh ⊙ f(Wg·x + bg),  d(f(Wg·x + bg)) = dh ⊙ u
  ///
  /// The rest is the backward pass of ``Linear``.
  ///
  /// - Parameters:
  ///   - x: `[…, d]`.
  ///   - context: Threads, instruction set, algorithm, also those of the backward pass.
  /// - Returns: `[…, out]`, and a pullback that returns the gradient of x.
  /// - Throws: `AttentionError` if the rows of x do not have d elements, or memory runs out.
  public func valueWithPullback(
    _ x: Tensor<Element>, context: AttentionContext = .default
  ) throws -> (value: Tensor<Element>, pullback: Pullback<Element, Tensor<Element>>) {
    let (upper, upPullback) = try up.valueWithPullback(x, context: context)
    let names = names
    guard let gate else {
      let (value, downPullback) = try down.valueWithPullback(upper, context: context)
      let pullback = Pullback<Element, Tensor<Element>>("FeedForward", outputShape: value.shape) {
        outputGradient, gradients, prefix in
        let inner = try downPullback(outputGradient, adding: &gradients, prefix: prefix + names.down)
        return try upPullback(inner, adding: &gradients, prefix: prefix + names.up)
      }
      return (value, pullback)
    }
    let (factors, gatePullback) = try gate.valueWithPullback(x, context: context)
    let (value, downPullback) = try down.valueWithPullback(product(upper, factors, context), context: context)
    let pullback = Pullback<Element, Tensor<Element>>("FeedForward", outputShape: value.shape) {
      [self] outputGradient, gradients, prefix in
      let inner = try downPullback(outputGradient, adding: &gradients, prefix: prefix + names.down)
      let upperGradient = try upPullback(
        product(inner, factors, context), adding: &gradients, prefix: prefix + names.up)
      let gateGradient = try gatePullback(
        product(inner, upper, context), adding: &gradients, prefix: prefix + names.gate)
      return try sum(upperGradient, gateGradient, context)
    }
    return (value, pullback)
  }

  /// x ⊙ y, in memory of its own.
  private func product(
    _ x: Tensor<Element>, _ y: Tensor<Element>, _ context: AttentionContext
  ) throws -> Tensor<Element> {
    var result = x
    try multiply(&result, by: y, context)
    return result
  }
}
