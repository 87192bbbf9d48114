internal import AttentionTensors

/// The shared code of ``LayerNorm`` and ``RMSNorm``: the norm of every row, with or without subtracting the mean.
struct RowNorm<Element: AttentionElement>: Sendable {
  /// The weight, `[d]`, contiguous.
  var weight: Tensor<Element>
  /// The bias, `[d]`, contiguous. Nil: none.
  var bias: Tensor<Element>?
  /// ε, which is added to the variance (layer norm) or to the mean square (RMS norm).
  let epsilon: Double
  /// True: layer norm. False: RMS norm.
  let isCentred: Bool

  /// A norm with this weight, bias and epsilon. `subject` is the name of the layer in errors.
  /// - Throws: `AttentionError` if the shapes disagree, or epsilon is negative or not finite.
  init(_ subject: String, weight: Tensor<Element>, bias: Tensor<Element>?, epsilon: Double, isCentred: Bool) throws {
    try requireShape(
      weight.rank == 1 && bias.map { $0.shape == weight.shape } ?? true, subject,
      "a weight [d] and a bias of its shape expected; got \(weight.shape), \(bias.map { "\($0.shape)" } ?? "none")")
    try requireArgument(
      epsilon >= 0 && epsilon.isFinite, subject, "an epsilon from 0 expected; got \(epsilon)")
    self.weight = try weight.contiguous()
    self.bias = try bias?.contiguous()
    self.epsilon = epsilon
    self.isCentred = isCentred
  }

  var dimension: Int { weight.shape[0] }

  /// y ← norm(x + residual) for some rows.
  func apply(
    rowCount: Int, _ x: UnsafePointer<Element>, stride: Int, residual: UnsafePointer<Element>?, residualStride: Int,
    into y: UnsafeMutablePointer<Element>, stride yStride: Int, _ kernels: Kernels<Element>
  ) {
    kernels.norm(
      rowCount: rowCount, columnCount: dimension, isCentred: isCentred, x, stride: stride, residual: residual,
      residualStride: residualStride, weight: weight.base, bias: bias?.base, epsilon: epsilon, into: y, stride: yStride)
  }

  /// x ← norm(x + residual), in place, for every row along the last axis.
  func apply(
    _ subject: String, to x: inout Tensor<Element>, adding residual: Tensor<Element>?, context: AttentionContext
  ) throws {
    try requireShape(
      x.shape.last == dimension && residual.map { $0.shape == x.shape } ?? true, subject,
      "[..., \(dimension)], and a residual of its shape, expected; got \(x.shape), "
        + "\(residual.map { "\($0.shape)" } ?? "none")")
    let kernels = try context.kernels(for: Element.self)
    // A view that is not contiguous is copied, because its rows may not be evenly spaced.
    x = try x.contiguous()
    let residual = try residual?.contiguous()
    if x.count == 0 { return }
    let rowCount = x.count / dimension
    try x.withMutableView { view in
      let base = UncheckedSendable(view.base)
      let added = UncheckedSendable(residual?.base)
      // An estimate that sets the size of tasks: one thread takes 0.35 ns for each element.
      context.parallelFor(count: rowCount, nanosecondsPerItem: 0.35 * Double(dimension)) { rows, _ in
        let first = rows.lowerBound * dimension
        apply(
          rowCount: rows.count, base.value + first, stride: dimension, residual: added.value.map { $0 + first },
          residualStride: dimension, into: base.value + first, stride: dimension, kernels)
      }
    }
    withExtendedLifetime(residual) {}
  }
}
