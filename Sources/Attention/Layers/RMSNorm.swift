public import AttentionTensors

/// An RMS norm: `y = x / √(mean(x²) + ε) · weight` for every row.
///
///     let norm = try RMSNorm<Float>(weight: weight, epsilon: 1e-6)
///     let y = try norm(x)                     // […, d], the norm of every row
///     let z = try norm(x, adding: residual)   // norm(x + residual)
///
/// The same as PyTorch's `nn.RMSNorm` over the last axis, and as Llama's. Gemma stores its weights minus 1: add 1 to them.
/// Safe to call from several threads at once. The bits of a row depend neither on other rows nor on the number of threads.
///
/// Source: Zhang and Sennrich 2019 (arXiv:1910.07467), equation 4.
public struct RMSNorm<Element: AttentionElement>: Sendable {
  var rows: RowNorm<Element>

  /// A layer with this weight and epsilon.
  ///
  /// - Parameters:
  ///   - weight: `[d]`.
  ///   - epsilon: Added to the mean square.
  /// - Throws: `AttentionError` if the weight does not have exactly one axis, or epsilon is negative or not finite.
  public init(weight: Tensor<Element>, epsilon: Double = 1e-6) throws {
    rows = try RowNorm("RMSNorm", weight: weight, bias: nil, epsilon: epsilon, isCentred: false)
  }

  /// The weight, `[d]`.
  public var weight: Tensor<Element> { rows.weight }
  /// ε, which is added to the mean square.
  public var epsilon: Double { rows.epsilon }
  /// d: the number of elements in a row.
  public var dimension: Int { rows.dimension }

  /// The norm of every row of x + residual.
  ///
  /// - Parameters:
  ///   - x: `[…, d]`; any strides.
  ///   - residual: A tensor of x's shape that is added to x before the norm. Nil: none.
  ///   - context: Threads, instruction set.
  /// - Returns: A tensor of x's shape, contiguous.
  /// - Throws: `AttentionError` if shapes disagree, or memory runs out.
  public func callAsFunction(
    _ x: Tensor<Element>, adding residual: Tensor<Element>? = nil, context: AttentionContext = .default
  ) throws -> Tensor<Element> {
    var result = x
    try apply(to: &result, adding: residual, context: context)
    return result
  }

  /// x ← norm(x + residual). The same as ``callAsFunction(_:adding:context:)``, but in place if x is contiguous and shares
  /// its memory with no other tensor.
  public func apply(
    to x: inout Tensor<Element>, adding residual: Tensor<Element>? = nil, context: AttentionContext = .default
  ) throws {
    try rows.apply("RMSNorm", to: &x, adding: residual, context: context)
  }
}
