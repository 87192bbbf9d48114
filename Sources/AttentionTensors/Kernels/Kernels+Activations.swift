internal import CAttentionKernels

/// A function of one number that follows a product in a layer.
public enum Activation: Sendable, Hashable, CaseIterable {
  /// x.
  case none
  /// max(x, 0).
  case relu
  /// x·Φ(x), Φ the normal distribution: PyTorch's `gelu`, BERT's. Source: Hendrycks and Gimpel 2016 (arXiv:1606.08415).
  case gelu
  /// x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³))): PyTorch's `gelu(approximate="tanh")`, Hugging Face's `gelu_new`.
  case geluTanh

  var kernel: attn_activation {
    switch self {
    case .none: attn_activation_none
    case .relu: attn_activation_relu
    case .gelu: attn_activation_gelu
    case .geluTanh: attn_activation_gelu_tanh
    }
  }
}

extension Kernels {
  /// x = f(x).
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func activate(_ activation: Activation, _ count: Int, _ x: MutablePointer) {
    table.pointee.activate(activation.kernel, count, x)
  }

  /// y = (x + residual − mean) / √(variance + ε) · weight + bias for rows of `width`; y may be x or the residual.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func layerNorm(
    rowCount: Int, width: Int, _ x: Pointer, stride: Int, residual: Pointer?, residualStride: Int, weight: Pointer,
    bias: Pointer, epsilon: Double, into y: MutablePointer, stride yStride: Int
  ) {
    var arguments = attn_layer_norm(
      row_count: rowCount, width: width, x: x, x_stride: stride, residual: residual, residual_stride: residualStride,
      weight: weight, bias: bias, epsilon: epsilon, y: y, y_stride: yStride)
    table.pointee.layer_norm(&arguments)
  }
}
