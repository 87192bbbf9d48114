public import AttentionTensors

extension TransformerBlock: TrainableLayer {
  /// Calls `body` with the parameters of `self_attn`, `multihead_attn`, `linear1`, `linear2`, `norm1`, `norm2` and `norm3`, as
  /// PyTorch's layers name them. For a gated feed-forward part, see ``FeedForward/forEachParameter(prefix:_:)``.
  public mutating func forEachParameter(
    prefix: String, _ body: (_ name: String, _ value: inout Tensor<Element>) throws -> Void
  ) throws {
    try selfAttention.forEachParameter(prefix: prefix + "self_attn.", body)
    try crossAttention?.forEachParameter(prefix: prefix + "multihead_attn.", body)
    try feedForward.forEachParameter(prefix: prefix, body)
    for index in norms.indices { try norms[index].forEachParameter(prefix: prefix + "norm\(index + 1).", body) }
  }

  /// The output of a block without cross-attention, and its backward pass.
  ///
  /// - Parameters:
  ///   - x: `[B, L, d]` or `[L, d]`.
  ///   - mask: Which positions each position may attend to. A function of scores needs a derivative.
  ///   - dropout: Dropout of the attention weights. Nil: none.
  ///   - recomputes: If true, the pullback saves only x, and computes everything else once more (activation
  ///     checkpointing). So each block saves only one tensor, at the cost of one more forward pass. The bits of the
  ///     gradients are the same.
  ///   - context: Threads, instruction set, algorithm, also those of the backward pass.
  /// - Returns: A tensor of the shape of x, and a pullback that returns the gradient of x.
  /// - Throws: `AttentionError` if shapes disagree, or if the block has cross-attention.
  public func valueWithPullback(
    _ x: Tensor<Element>, mask: AttentionMask = .none, dropout: AttentionDropout? = nil, recomputes: Bool = false,
    context: AttentionContext = .default
  ) throws -> (value: Tensor<Element>, pullback: Pullback<Element, Tensor<Element>>) {
    _ = try checked(nil)
    let call = try call(x, nil, mask, .none, dropout, recomputes, context)
    let pullback = Pullback<Element, Tensor<Element>>(Self.subject, outputShape: call.value.shape) {
      outputGradient, gradients, prefix in
      try call.backward(outputGradient, &gradients, prefix).input
    }
    return (call.value, pullback)
  }

  /// The output of a block with cross-attention, and its backward pass.
  ///
  /// - Parameters:
  ///   - x: `[B, L, d]` or `[L, d]`.
  ///   - memory: What cross-attention attends to: `[B, S, kdim]` or `[S, kdim]`.
  ///   - mask: Which positions of x each position may attend to. A function of scores needs a derivative.
  ///   - memoryMask: Which rows of the memory each position may attend to.
  ///   - dropout: Dropout of the attention weights of both attentions. Nil: none.
  ///   - recomputes: If true, the pullback saves only x and the memory, and computes everything else once more.
  ///   - context: Threads, instruction set, algorithm, also those of the backward pass.
  /// - Returns: A tensor of the shape of x, and a pullback that returns the gradients of x and of the memory.
  /// - Throws: `AttentionError` if shapes disagree, or if the block has no cross-attention.
  public func valueWithPullback(
    _ x: Tensor<Element>, memory: Tensor<Element>, mask: AttentionMask = .none, memoryMask: AttentionMask = .none,
    dropout: AttentionDropout? = nil, recomputes: Bool = false, context: AttentionContext = .default
  ) throws -> (
    value: Tensor<Element>, pullback: Pullback<Element, (input: Tensor<Element>, memory: Tensor<Element>)>
  ) {
    let call = try call(x, checked(memory), mask, memoryMask, dropout, recomputes, context)
    let pullback = Pullback<Element, (input: Tensor<Element>, memory: Tensor<Element>)>(
      Self.subject, outputShape: call.value.shape
    ) { outputGradient, gradients, prefix in
      let (input, memory) = try call.backward(outputGradient, &gradients, prefix)
      return (input, memory!)
    }
    return (call.value, pullback)
  }

  /// The backward pass of a sublayer or of the block: the gradients of x and, with cross-attention, of the memory.
  private typealias Backward = Pullback<Element, (input: Tensor<Element>, memory: Tensor<Element>?)>.Body
  private typealias Call = (value: Tensor<Element>, backward: Backward)

  private func call(
    _ x: Tensor<Element>, _ memory: Tensor<Element>?, _ mask: AttentionMask, _ memoryMask: AttentionMask,
    _ dropout: AttentionDropout?, _ recomputes: Bool, _ context: AttentionContext
  ) throws -> Call {
    let compute: @Sendable () throws -> Call = {
      try savingCall(x, memory, mask, memoryMask, dropout, context)
    }
    let first = try compute()
    if !recomputes { return first }
    return (
      first.value,
      { outputGradient, gradients, prefix in try compute().backward(outputGradient, &gradients, prefix) }
    )
  }

  /// A call that saves what its backward pass needs.
  private func savingCall(
    _ x: Tensor<Element>, _ memory: Tensor<Element>?, _ mask: AttentionMask, _ memoryMask: AttentionMask,
    _ dropout: AttentionDropout?, _ context: AttentionContext
  ) throws -> Call {
    var calls = [
      try sublayer(0, x, context) {
        let (value, pullback) = try selfAttention.valueWithPullback($0, mask: mask, dropout: dropout, context: context)
        return (value, { (try pullback($0, adding: &$1, prefix: $2 + "self_attn."), nil) })
      }
    ]
    if let crossAttention, let memory {
      calls.append(
        try sublayer(1, calls[0].value, context) {
          let (value, pullback) = try crossAttention.valueWithPullback(
            query: $0, key: memory, value: memory, mask: memoryMask, dropout: dropout, context: context)
          return (
            value,
            { outputGradient, gradients, prefix in
              let inputs = try pullback(outputGradient, adding: &gradients, prefix: prefix + "multihead_attn.")
              return (inputs.query, try sum(inputs.key, inputs.value, context))
            }
          )
        })
    }
    calls.append(
      try sublayer(norms.count - 1, calls[calls.count - 1].value, context) {
        let (value, pullback) = try feedForward.valueWithPullback($0, context: context)
        return (value, { (try pullback($0, adding: &$1, prefix: $2), nil) })
      })
    let backwards = calls.map(\.backward)
    return (
      calls[calls.count - 1].value,
      { outputGradient, gradients, prefix in
        var (gradient, memoryGradient) = (outputGradient, Tensor<Element>?.none)
        for backward in backwards.reversed() {
          let result = try backward(gradient, &gradients, prefix)
          gradient = result.input
          memoryGradient = memoryGradient ?? result.memory
        }
        return (gradient, memoryGradient)
      }
    )
  }

  /// norm(x + f(x)), or x + f(norm(x)), and the backward pass.
  private func sublayer(
    _ index: Int, _ x: Tensor<Element>, _ context: AttentionContext, _ f: (Tensor<Element>) throws -> Call
  ) throws -> Call {
    let norm = norms[index].rows
    let name = "norm\(index + 1)."
    switch normPlacement {
    case .after:
      let (y, backward) = try f(x)
      let (value, normPullback) = try norm.valueWithPullback(Self.subject, y, adding: x, context: context)
      return (
        value,
        { outputGradient, gradients, prefix in
          // forward: z = x + f(x)  ⇒  dx = dz + f'ᵀ(dz)
          let gradient = try normPullback(outputGradient, adding: &gradients, prefix: prefix + name)
          let inner = try backward(gradient, &gradients, prefix)
          return (try sum(inner.input, gradient, context), inner.memory)
        }
      )
    case .before:
      let (normalized, normPullback) = try norm.valueWithPullback(Self.subject, x, adding: nil, context: context)
      let (y, backward) = try f(normalized)
      return (
        try sum(y, x, context),
        { outputGradient, gradients, prefix in
          let inner = try backward(outputGradient, &gradients, prefix)
          let gradient = try normPullback(inner.input, adding: &gradients, prefix: prefix + name)
          return (try sum(gradient, outputGradient, context), inner.memory)
        }
      )
    }
  }
}

extension TransformerBlock.Norm: TrainableLayer {
  /// Calls `body` with `weight` and, if there is one, `bias`.
  public mutating func forEachParameter(
    prefix: String, _ body: (_ name: String, _ value: inout Tensor<Element>) throws -> Void
  ) throws {
    switch self {
    case .layer(var norm):
      let result = Result { try norm.forEachParameter(prefix: prefix, body) }
      self = .layer(norm)
      try result.get()
    case .rootMeanSquare(var norm):
      let result = Result { try norm.forEachParameter(prefix: prefix, body) }
      self = .rootMeanSquare(norm)
      try result.get()
    }
  }
}
