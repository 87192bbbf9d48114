internal import CAttentionKernels

extension Kernels {
  /// x = f(x), where f is the activation.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func activate(_ activation: Activation, _ count: Int, _ x: MutablePointer) {
    table.pointee.layers.activate(activation.kernel, count, x)
  }

  /// The norm of every row of z = x + residual: y = (z − μ) / √(mean((z − μ)²) + ε) · weight + bias. If `isCentred` is
  /// true, μ is the mean of z (layer norm); otherwise, μ is 0 (RMS norm). y may be x or the residual.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func norm(
    rowCount: Int, columnCount: Int, isCentred: Bool, _ x: Pointer, stride: Int, residual: Pointer?,
    residualStride: Int, weight: Pointer, bias: Pointer?, epsilon: Double, into y: MutablePointer, stride yStride: Int
  ) {
    var arguments = attn_norm(
      row_count: rowCount, column_count: columnCount, is_centred: isCentred, x: x, x_stride: stride, residual: residual,
      residual_stride: residualStride, weight: weight, bias: bias, epsilon: epsilon, y: y, y_stride: yStride)
    table.pointee.layers.norm(&arguments)
  }

  /// gradient ·= f'(x), where f is the activation.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func activationGradient(_ activation: Activation, _ count: Int, _ x: Pointer, _ gradient: MutablePointer) {
    table.pointee.layers.activation_gradient(activation.kernel, count, x, gradient)
  }

  /// The backward pass of
  /// ``norm(rowCount:columnCount:isCentred:_:stride:residual:residualStride:weight:bias:epsilon:into:stride:)``.
  ///
  /// `gradient` is the gradient of y on entry, and that of z = x + residual on return. The gradients of weight and bias
  /// are added to `weightGradient` and `biasGradient`. Either is nil if it is not wanted.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func normGradient(
    rowCount: Int, columnCount: Int, isCentred: Bool, _ x: Pointer, stride: Int, residual: Pointer?,
    residualStride: Int, weight: Pointer, epsilon: Double, gradient: MutablePointer, gradientStride: Int,
    addingTo weightGradient: MutablePointer?, _ biasGradient: MutablePointer?
  ) {
    var arguments = attn_norm_gradient(
      row_count: rowCount, column_count: columnCount, is_centred: isCentred, x: x, x_stride: stride, residual: residual,
      residual_stride: residualStride, weight: weight, epsilon: epsilon, gradient: gradient,
      gradient_stride: gradientStride, weight_gradient: weightGradient, bias_gradient: biasGradient)
    table.pointee.layers.norm_gradient(&arguments)
  }

  /// y[column] += Σ x[row, column]. Rows are added in order.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func addRows(rowCount: Int, _ columnCount: Int, _ x: Pointer, stride: Int, to y: MutablePointer) {
    table.pointee.layers.add_rows(rowCount, columnCount, x, stride, y)
  }
}
