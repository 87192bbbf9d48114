internal import AttentionBLAS
public import AttentionTensors

/// A table of vectors: row i of the weight is the vector of token i.
///
///     let embedding = try Embedding(weight: weight)   // [V, d]
///     let x = try embedding([[2, 0, 1], [1, 1, 2]])   // [2, 3, d]
///
/// The same as PyTorch's `nn.Embedding`.
public struct Embedding<Element: AttentionElement>: TrainableLayer {
  /// The vectors, `[V, d]`, contiguous.
  public private(set) var weight: Tensor<Element>

  /// A table of these vectors.
  /// - Parameter weight: `[V, d]`.
  /// - Throws: `AttentionError` if the weight has another rank, or memory runs out.
  public init(weight: Tensor<Element>) throws {
    try requireShape(weight.rank == 2, "Embedding", "a weight [V, d] expected; got \(weight.shape)")
    self.weight = try weight.contiguous()
  }

  /// V: the number of vectors.
  public var vectorCount: Int { weight.shape[0] }
  /// d: the number of elements in a vector.
  public var dimension: Int { weight.shape[1] }

  /// The vectors of some tokens.
  ///
  /// - Parameters:
  ///   - tokens: `[…]`, from 0 to V − 1.
  ///   - context: Threads.
  /// - Returns: `[…, d]`, contiguous.
  /// - Throws: `AttentionError` for a token without a vector, or if memory runs out.
  public func callAsFunction(_ tokens: Tensor<Int32>, context: AttentionContext = .default) throws -> Tensor<Element> {
    try vectors(checked(tokens), shape: tokens.shape, context)
  }

  /// Calls `body` with `weight`.
  public mutating func forEachParameter(
    prefix: String, _ body: (_ name: String, _ value: inout Tensor<Element>) throws -> Void
  ) throws {
    try visit(prefix + "weight", &weight, body)
  }

  /// The vectors of some tokens, and the backward pass: `dweight[token] += Σ dy` over all places of the token, in order.
  ///
  /// - Parameters:
  ///   - tokens: `[…]`, from 0 to V − 1.
  ///   - context: Threads, also those of the backward pass.
  /// - Returns: `[…, d]`, and a pullback. Tokens have no gradient, so the pullback returns nothing.
  /// - Throws: `AttentionError` for a token without a vector, or if memory runs out.
  public func valueWithPullback(
    _ tokens: Tensor<Int32>, context: AttentionContext = .default
  ) throws -> (value: Tensor<Element>, pullback: Pullback<Element, Void>) {
    let rows = try checked(tokens)
    let value = try vectors(rows, shape: tokens.shape, context)
    let weightShape = weight.shape
    let pullback = Pullback<Element, Void>("Embedding", outputShape: value.shape) { outputGradient, gradients, prefix in
      let kernels = try context.kernels(for: Element.self)
      let outputGradient = try outputGradient.contiguous()
      try gradients.accumulate(prefix + "weight", shape: weightShape) { view, mode in
        if mode == .replacing { view.fill(0) }
        let (source, target) = (UncheckedSendable(outputGradient.base), UncheckedSendable(view.base))
        let dimension = weightShape[1]
        // The columns are divided among the threads, so one thread adds up each sum, in the order of the tokens.
        let blockLength = 64
        context.parallelFor(
          count: dimension.dividedRoundingUp(by: blockLength),
          nanosecondsPerItem: 0.5 * Double(blockLength * rows.count)
        ) { blocks, _ in
          let first = blocks.lowerBound * blockLength
          let count = min(blocks.upperBound * blockLength, dimension) - first
          for (index, row) in rows.enumerated() {
            kernels.add(count, source.value + index * dimension + first, to: target.value + row * dimension + first)
          }
        }
      }
      withExtendedLifetime(outputGradient) {}
    }
    return (value, pullback)
  }

  private func checked(_ tokens: Tensor<Int32>) throws(AttentionError) -> [Int] {
    try tokens.array.map { token throws(AttentionError) in
      try requireArgument(
        (0..<vectorCount).contains(Int(token)), "Embedding",
        "tokens from 0 to \(vectorCount - 1) expected; got \(token)")
      return Int(token)
    }
  }

  private func vectors(_ rows: [Int], shape: [Int], _ context: AttentionContext) throws -> Tensor<Element> {
    let dimension = dimension
    return try Tensor(shape: shape + [dimension]) { target in
      guard let target = target.baseAddress.map(UncheckedSendable.init) else { return }
      let source = UncheckedSendable(weight.base)
      context.parallelFor(count: rows.count, nanosecondsPerItem: 0.3 * Double(dimension)) { items, _ in
        for item in items {
          (target.value + item * dimension).initialize(from: source.value + rows[item] * dimension, count: dimension)
        }
      }
    }
  }
}
