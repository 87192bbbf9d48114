internal import CAttentionKernels

extension Kernels {
  /// x = f(x).
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func activate(_ activation: Activation, _ count: Int, _ x: MutablePointer) {
    table.pointee.layers.activate(activation.kernel, count, x)
  }

  /// The norm of every row of z = x + residual: y = (z − μ) / √(mean((z − μ)²) + ε) · weight + bias, where μ is the mean of z if
  /// `isCentred` (layer norm), else 0 (RMS norm). y may be x or the residual.
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
}
