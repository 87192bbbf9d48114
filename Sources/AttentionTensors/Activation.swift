internal import CAttentionKernels

/// A function of one number that a layer applies after a product.
public enum Activation: Sendable, Hashable, CaseIterable {
  /// x itself: no activation.
  case none
  /// max(x, 0).
  case relu
  /// x·Φ(x), where Φ is the standard normal distribution function: PyTorch's `gelu`, which BERT uses.
  ///
  /// Source: Hendrycks and Gimpel 2016 (arXiv:1606.08415).
  case gelu
  /// x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³))): PyTorch's `gelu(approximate="tanh")`, Hugging Face's `gelu_new`.
  case geluTanh
  /// x / (1 + e⁻ˣ): PyTorch's `silu`, "swish". Source: Elfwing et al. 2017 (arXiv:1702.03118).
  case silu

  var kernel: attn_activation {
    switch self {
    case .none: attn_activation_none
    case .relu: attn_activation_relu
    case .gelu: attn_activation_gelu
    case .geluTanh: attn_activation_gelu_tanh
    case .silu: attn_activation_silu
    }
  }
}
