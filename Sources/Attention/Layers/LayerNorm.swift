public import AttentionTensors

/// A layer norm: `y = (x − mean x) / √(var x + ε) · weight + bias` for every row. `var` is the mean of the squares of
/// `x − mean x`.
///
///     let norm = try LayerNorm<Float>(weight: weight, bias: bias, epsilon: 1e-12)
///     let y = try norm(x)                     // […, d], the norm of every row
///     let z = try norm(x, adding: residual)   // norm(x + residual)
///
/// The same as PyTorch's `nn.LayerNorm` over the last axis.
/// Safe to call from several threads at once. The bits of a row depend neither on other rows nor on the number of threads.
///
/// Source: Ba, Kiros and Hinton 2016 (arXiv:1607.06450), equation 4.
public struct LayerNorm<Element: AttentionElement>: Sendable {
  var rows: RowNorm<Element>

  /// A layer with this weight, bias and epsilon.
  ///
  /// - Parameters:
  ///   - weight: `[d]`.
  ///   - bias: `[d]`; nil: none.
  ///   - epsilon: Added to the variance.
  /// - Throws: `AttentionError` if the shapes disagree, or epsilon is negative or not finite.
  public init(weight: Tensor<Element>, bias: Tensor<Element>? = nil, epsilon: Double = 1e-5) throws {
    rows = try RowNorm("LayerNorm", weight: weight, bias: bias, epsilon: epsilon, isCentred: true)
  }

  /// The weight, `[d]`.
  public var weight: Tensor<Element> { rows.weight }
  /// The bias, `[d]`. Nil: none.
  public var bias: Tensor<Element>? { rows.bias }
  /// ε, which is added to the variance.
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
    try rows.apply("LayerNorm", to: &x, adding: residual, context: context)
  }

  /// y ← norm(x + residual) for one row.
  package func apply(
    _ x: UnsafePointer<Element>, adding residual: UnsafePointer<Element>, into y: UnsafeMutablePointer<Element>,
    _ kernels: Kernels<Element>
  ) {
    rows.apply(
      rowCount: 1, x, stride: dimension, residual: residual, residualStride: dimension, into: y, stride: dimension,
      kernels)
  }
}
