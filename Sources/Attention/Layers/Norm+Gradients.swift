public import AttentionTensors

extension RowNorm {
  mutating func forEachParameter(
    prefix: String, _ body: (_ name: String, _ value: inout Tensor<Element>) throws -> Void
  ) throws {
    try visit(prefix + "weight", &weight, body)
    try visit(prefix + "bias", &bias, body)
  }

  /// The norm of every row of z = x + residual, and its backward pass.
  func valueWithPullback(
    _ subject: String, _ x: Tensor<Element>, adding residual: Tensor<Element>?, context: AttentionContext
  ) throws -> (value: Tensor<Element>, pullback: Pullback<Element, Tensor<Element>>) {
    // x and the residual are made contiguous here, once for both passes: the backward pass reads them again.
    let (x, residual) = (try x.contiguous(), try residual?.contiguous())
    var value = x
    try apply(subject, to: &value, adding: residual, context: context)
    let pullback = Pullback<Element, Tensor<Element>>(subject, outputShape: value.shape) {
      [self] outputGradient, gradients, prefix in
      var gradient = try outputGradient.copied()
      let rowCount = dimension == 0 ? 0 : gradient.count / dimension
      let sums = try gradient.withMutableView { view in
        let source = RowPointers(x: x.base, residual: residual?.base, gradient: view.base)
        return try sumParameterGradients(rowCount: rowCount, gradients, prefix, context) { rows, sums, kernels in
          let first = rows.lowerBound * dimension
          backward(
            rowCount: rows.count, source.x + first, stride: dimension, residual: source.residual.map { $0 + first },
            residualStride: dimension, gradient: source.gradient + first, stride: dimension, addingTo: sums, kernels)
        }
      }
      withExtendedLifetime((x, residual)) {}
      try add(sums, to: &gradients, prefix, context)
      return gradient
    }
    return (value, pullback)
  }

  /// The memory of a backward pass's rows, for all threads.
  private struct RowPointers: @unchecked Sendable {
    let x: UnsafePointer<Element>
    let residual: UnsafePointer<Element>?
    let gradient: UnsafeMutablePointer<Element>
  }

  /// Sums the gradients of weight and bias over `rowCount` items. An item is one row, or a group of `rowsPerItem` rows.
  /// `body` gets a range of items, and adds the contributions of their rows to `sums`.
  /// - Returns: `[2, d]`: the gradients of weight and bias. A gradient that is not wanted is 0.
  func sumParameterGradients(
    rowCount: Int, rowsPerItem: Int = 1, _ gradients: ParameterGradients<Element>, _ prefix: String,
    _ context: AttentionContext,
    _ body: (_ items: Range<Int>, _ sums: ParameterSums<Element>, _ kernels: Kernels<Element>) -> Void
  ) throws -> Tensor<Element> {
    let kernels = try context.kernels(for: Element.self)
    let wantsWeight = gradients.wants(prefix + "weight")
    let wantsBias = bias != nil && gradients.wants(prefix + "bias")
    // An estimate that sets the size of tasks: one thread takes 0.8 ns for each element.
    return try sumOverRows(
      rowCount: rowCount, columnCount: dimension, sumCount: 2,
      nanosecondsPerRow: 0.8 * Double(rowsPerItem * dimension), kernels, context
    ) { items, sums in
      body(
        items, ParameterSums(weight: wantsWeight ? sums : nil, bias: wantsBias ? sums + dimension : nil), kernels)
    }
  }

  /// gradient ← dz for some rows, and the gradients of the parameters are added to `sums`.
  func backward(
    rowCount: Int, _ x: UnsafePointer<Element>, stride: Int, residual: UnsafePointer<Element>?, residualStride: Int,
    gradient: UnsafeMutablePointer<Element>, stride gradientStride: Int, addingTo sums: ParameterSums<Element>,
    _ kernels: Kernels<Element>
  ) {
    kernels.normGradient(
      rowCount: rowCount, columnCount: dimension, isCentred: isCentred, x, stride: stride, residual: residual,
      residualStride: residualStride, weight: weight.base, epsilon: epsilon, gradient: gradient,
      gradientStride: gradientStride, addingTo: sums.weight, sums.bias)
  }

  /// Adds the sums of ``sumParameterGradients(rowCount:rowsPerItem:_:_:_:_:)`` to the gradients of weight and bias.
  func add(
    _ sums: Tensor<Element>, to gradients: inout ParameterGradients<Element>, _ prefix: String,
    _ context: AttentionContext
  ) throws {
    try gradients.add(sums.select(0, axis: 0), to: prefix + "weight", context: context)
    if bias != nil { try gradients.add(sums.select(1, axis: 0), to: prefix + "bias", context: context) }
  }
}

/// Where the gradients of a norm's parameters are added up, `[d]` each. Nil: the gradient is not wanted.
struct ParameterSums<Element: AttentionElement> {
  let weight: UnsafeMutablePointer<Element>?
  let bias: UnsafeMutablePointer<Element>?
}

extension LayerNorm: TrainableLayer {
  /// Calls `body` with `weight` and, if there is one, `bias`.
  public mutating func forEachParameter(
    prefix: String, _ body: (_ name: String, _ value: inout Tensor<Element>) throws -> Void
  ) throws {
    try rows.forEachParameter(prefix: prefix, body)
  }

  /// The norm of every row of z = x + residual, and its backward pass.
  ///
  ///     x̂ = (z − mean z)·r, r = 1 / √(var z + ε), y = x̂ ⊙ weight + bias, g = dy ⊙ weight
  ///       ⇒  dz = r·(g − mean g − x̂·mean(g ⊙ x̂)),  dweight += Σ dy ⊙ x̂,  dbias += Σ dy
  ///
  /// - Parameters:
  ///   - x: `[…, d]`; any strides.
  ///   - residual: A tensor of x's shape that is added to x before the norm. Nil: none.
  ///   - context: Threads, instruction set, also those of the backward pass.
  /// - Returns: The norm, and a pullback that returns dz: the gradient of x, and also that of the residual. It saves x and the
  ///   residual.
  /// - Throws: `AttentionError` if shapes disagree, or memory runs out.
  public func valueWithPullback(
    _ x: Tensor<Element>, adding residual: Tensor<Element>? = nil, context: AttentionContext = .default
  ) throws -> (value: Tensor<Element>, pullback: Pullback<Element, Tensor<Element>>) {
    try rows.valueWithPullback("LayerNorm", x, adding: residual, context: context)
  }
}

extension RMSNorm: TrainableLayer {
  /// Calls `body` with `weight`.
  public mutating func forEachParameter(
    prefix: String, _ body: (_ name: String, _ value: inout Tensor<Element>) throws -> Void
  ) throws {
    try rows.forEachParameter(prefix: prefix, body)
  }

  /// The norm of every row of z = x + residual, and its backward pass.
  ///
  ///     x̂ = z·r, r = 1 / √(mean(z²) + ε), y = x̂ ⊙ weight, g = dy ⊙ weight
  ///       ⇒  dz = r·(g − x̂·mean(g ⊙ x̂)),  dweight += Σ dy ⊙ x̂
  ///
  /// - Parameters:
  ///   - x: `[…, d]`; any strides.
  ///   - residual: A tensor of x's shape that is added to x before the norm. Nil: none.
  ///   - context: Threads, instruction set, also those of the backward pass.
  /// - Returns: The norm, and a pullback that returns dz: the gradient of x, and also that of the residual. It saves x and the
  ///   residual.
  /// - Throws: `AttentionError` if shapes disagree, or memory runs out.
  public func valueWithPullback(
    _ x: Tensor<Element>, adding residual: Tensor<Element>? = nil, context: AttentionContext = .default
  ) throws -> (value: Tensor<Element>, pullback: Pullback<Element, Tensor<Element>>) {
    try rows.valueWithPullback("RMSNorm", x, adding: residual, context: context)
  }
}
