internal import AttentionBLAS
public import AttentionTensors

extension Linear: TrainableLayer {
  /// Calls `body` with `weight` and, if there is one, `bias`.
  public mutating func forEachParameter(
    prefix: String, _ body: (_ name: String, _ value: inout Tensor<Element>) throws -> Void
  ) throws {
    defer { forgetPacking() }
    try visit(prefix + "weight", &weight, body)
    try visit(prefix + "bias", &bias, body)
  }

  /// The output of the layer for x, and its backward pass.
  ///
  ///     y = f(z), z = x·Wᵀ + b  ⇒  dz = dy ⊙ f'(z),  dx = dz·W,  dW += dzᵀ·x,  db += Σ dz
  ///
  /// - Parameters:
  ///   - x: `[…, in]`.
  ///   - context: Threads, instruction set, algorithm, also those of the backward pass. The bits of all gradients do not
  ///     depend on the number of threads.
  /// - Returns: `[…, out]`, and a pullback that returns the gradient of x. It saves x and, if there is an activation, z.
  /// - Throws: `AttentionError` if x has rows of another length, or memory runs out.
  public func valueWithPullback(
    _ x: Tensor<Element>, context: AttentionContext = .default
  ) throws -> (value: Tensor<Element>, pullback: Pullback<Element, Tensor<Element>>) {
    let z = try product(x, context: context)
    let value = try activated(z, context)
    let saved = activation == .none ? nil : z
    let pullback = Pullback<Element, Tensor<Element>>("Linear", outputShape: value.shape) {
      [self] outputGradient, gradients, prefix in
      let gradient = try preactivationGradient(outputGradient, z: saved, context)
      try addParameterGradients(gradient, input: x, to: &gradients, prefix: prefix, context)
      return try matmul(gradient, weight, context: context).reshaped(x.shape)
    }
    return (value, pullback)
  }

  /// f(z), contiguous.
  private func activated(_ z: Tensor<Element>, _ context: AttentionContext) throws -> Tensor<Element> {
    if activation == .none { return z }
    // An estimate that sets the size of tasks: one thread takes 1 ns for each element.
    return try mapped(z, nanosecondsPerElement: 1, context) { kernels, range, base in
      kernels.activate(activation, range.count, base)
    }
  }

  /// A copy of x, contiguous, whose elements `body` then changes. It gets a range of the elements and where the first of
  /// them is. Each range is copied where it is changed, so that it comes from a near cache.
  private func mapped(
    _ x: Tensor<Element>, nanosecondsPerElement: Double, _ context: AttentionContext,
    _ body: (_ kernels: Kernels<Element>, _ range: Range<Int>, _ first: UnsafeMutablePointer<Element>) -> Void
  ) throws -> Tensor<Element> {
    let kernels = try context.kernels(for: Element.self)
    let x = try x.contiguous()
    var result = try Tensor<Element>(uninitializedShape: x.shape)
    let source = UncheckedSendable(x.base)
    try result.withMutableView { view in
      let target = UncheckedSendable(view.base)
      context.parallelFor(count: x.count, nanosecondsPerItem: nanosecondsPerElement) { range, _ in
        let first = target.value + range.lowerBound
        first.update(from: source.value + range.lowerBound, count: range.count)
        body(kernels, range, first)
      }
    }
    withExtendedLifetime(x) {}
    return result
  }

  /// dz = dy ⊙ f'(z) as `[rows, out]`, contiguous. z is nil if there is no activation.
  private func preactivationGradient(
    _ outputGradient: Tensor<Element>, z: Tensor<Element>?, _ context: AttentionContext
  ) throws -> Tensor<Element> {
    guard let z else { return try rows(outputGradient.contiguous(), outputDimension) }
    // An estimate that sets the size of tasks: one thread takes 1.5 ns for each element.
    let gradient = try mapped(outputGradient, nanosecondsPerElement: 1.5, context) { kernels, range, base in
      kernels.activationGradient(activation, range.count, z.base + range.lowerBound, base)
    }
    withExtendedLifetime(z) {}
    return try rows(gradient, outputDimension)
  }

  /// Adds the gradients of weight and bias, from dz `[rows, out]` and x `[…, in]`.
  private func addParameterGradients(
    _ gradient: Tensor<Element>, input x: Tensor<Element>, to gradients: inout ParameterGradients<Element>,
    prefix: String, _ context: AttentionContext
  ) throws {
    try gradients.accumulate(prefix + "weight", shape: weight.shape) { view, mode in
      try matmul(gradient.transposed(), rows(x, inputDimension), mode, into: &view, context: context)
    }
    if bias != nil && gradients.wants(prefix + "bias") {
      try gradients.add(columnSums(gradient, context), to: prefix + "bias", context: context)
    }
  }

  private func rows(_ x: Tensor<Element>, _ dimension: Int) throws -> Tensor<Element> {
    try x.reshaped([x.shape.dropLast().reduce(1, *), dimension])
  }
}

/// The sum of the rows of a contiguous `[rows, columns]`: `[columns]`.
func columnSums<Element: AttentionElement>(
  _ x: Tensor<Element>, _ context: AttentionContext
) throws -> Tensor<Element> {
  let kernels = try context.kernels(for: Element.self)
  let (rowCount, columnCount) = (x.shape[0], x.shape[1])
  let base = UncheckedSendable(x.base)
  return try withExtendedLifetime(x) {
    try sumOverRows(
      rowCount: rowCount, columnCount: columnCount, sumCount: 1, nanosecondsPerRow: 0.25 * Double(columnCount), kernels,
      context
    ) { rows, sums in
      kernels.addRows(
        rowCount: rows.count, columnCount, base.value + rows.lowerBound * columnCount, stride: columnCount, to: sums)
    }.reshaped([columnCount])
  }
}
