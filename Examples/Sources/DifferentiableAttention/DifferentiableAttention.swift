// Swift's own automatic differentiation, for which swift-attention computes the derivatives of attention and of a
// layer.
//
//     let gradient = gradient(at: query) { query in
//       attention(query, key, value).sumOfSquares()
//     }

public import Attention
public import _Differentiation

/// A tensor for Swift's automatic differentiation.
///
/// Functions that are differentiated cannot throw. So a wrong shape ends the program here, as a wrong index of an array does.
public struct DifferentiableTensor: Differentiable {
  public var tensor: Tensor<Float>

  public init(_ tensor: Tensor<Float>) { self.tensor = tensor }

  /// The gradient of a tensor. Nil stands for zeros of any shape: `zero`, with which a sum begins, does not know the
  /// shape.
  public struct TangentVector: Differentiable, AdditiveArithmetic {
    public var tensor: Tensor<Float>?

    public init(_ tensor: Tensor<Float>?) { self.tensor = tensor }

    public typealias TangentVector = Self
    public static var zero: Self { Self(nil) }

    public static func + (a: Self, b: Self) -> Self { combined(a, b) { $0 + $1 } }
    public static func - (a: Self, b: Self) -> Self { combined(a, b) { $0 - $1 } }

    private static func combined(_ a: Self, _ b: Self, _ f: (Float, Float) -> Float) -> Self {
      guard let shape = (a.tensor ?? b.tensor)?.shape else { return zero }
      let zeros = try! Tensor<Float>(repeating: 0, shape: shape)
      let (x, y) = (a.tensor ?? zeros, b.tensor ?? zeros)
      precondition(x.shape == y.shape, "gradients of one shape expected; got \(x.shape) and \(y.shape)")
      return Self(try! Tensor(zip(x.array, y.array).map(f), shape: shape))
    }
  }

  public mutating func move(by offset: TangentVector) {
    tensor = (TangentVector(tensor) + offset).tensor!
  }

  /// Σ x².
  @differentiable(reverse)
  public func sumOfSquares() -> Float { tensor.array.reduce(0) { $0 + $1 * $1 } }

  @derivative(of: sumOfSquares)
  public func sumOfSquaresDerivative() -> (value: Float, pullback: (Float) -> TangentVector) {
    (
      sumOfSquares(),
      { [tensor] factor in
        TangentVector(try! Tensor(tensor.array.map { 2 * factor * $0 }, shape: tensor.shape))
      }
    )
  }
}

/// Scaled dot-product attention.
@differentiable(reverse,wrt: (query, key, value))
public func attention(
  _ query: DifferentiableTensor, _ key: DifferentiableTensor, _ value: DifferentiableTensor,
  mask: AttentionMask = .none
) -> DifferentiableTensor {
  DifferentiableTensor(
    try! scaledDotProductAttention(query: query.tensor, key: key.tensor, value: value.tensor, mask: mask))
}

@derivative(of: attention, wrt: (query, key, value))
public func attentionDerivative(
  _ query: DifferentiableTensor, _ key: DifferentiableTensor, _ value: DifferentiableTensor, mask: AttentionMask
) -> (
  value: DifferentiableTensor,
  pullback: (DifferentiableTensor.TangentVector) -> (
    DifferentiableTensor.TangentVector, DifferentiableTensor.TangentVector, DifferentiableTensor.TangentVector
  )
) {
  let result = try! scaledDotProductAttention(
    query: query.tensor, key: key.tensor, value: value.tensor, mask: mask, returning: .logSumExp)
  return (
    DifferentiableTensor(result.output),
    { outputGradient in
      guard let outputGradient = outputGradient.tensor else { return (.zero, .zero, .zero) }
      let gradients = try! scaledDotProductAttentionGradients(
        query: query.tensor, key: key.tensor, value: value.tensor, mask: mask, result: result,
        outputGradient: outputGradient)
      return (.init(gradients.query), .init(gradients.key), .init(gradients.value))
    }
  )
}

/// Multi-head self-attention whose parameters are differentiated too.
public struct DifferentiableLayer: Differentiable {
  @noDerivative public var layer: MultiHeadAttention<Float>

  public init(_ layer: MultiHeadAttention<Float>) { self.layer = layer }

  /// The gradients of the layer's parameters, by name. If a name is missing, the gradient of that parameter is 0.
  public struct TangentVector: Differentiable, AdditiveArithmetic {
    public var gradients: [String: DifferentiableTensor.TangentVector]

    public init(_ gradients: [String: DifferentiableTensor.TangentVector]) { self.gradients = gradients }

    public typealias TangentVector = Self
    public static var zero: Self { Self([:]) }
    public static func + (a: Self, b: Self) -> Self { Self(a.gradients.merging(b.gradients) { $0 + $1 }) }
    public static func - (a: Self, b: Self) -> Self {
      Self(a.gradients.merging(b.gradients.mapValues { .zero - $0 }) { $0 + $1 })
    }

    /// All gradients times a number.
    public func scaled(by factor: Float) -> Self {
      Self(
        gradients.mapValues { gradient in
          .init(gradient.tensor.map { try! Tensor($0.array.map { factor * $0 }, shape: $0.shape) })
        })
    }
  }

  public mutating func move(by offset: TangentVector) {
    try! layer.forEachParameter(prefix: "") { name, value in
      guard let gradient = offset.gradients[name] else { return }
      var moved = DifferentiableTensor(value)
      moved.move(by: gradient)
      value = moved.tensor
    }
  }

  @differentiable(reverse)
  public func callAsFunction(_ x: DifferentiableTensor) -> DifferentiableTensor {
    DifferentiableTensor(try! layer(x.tensor))
  }

  @derivative(of: callAsFunction)
  public func callDerivative(_ x: DifferentiableTensor) -> (
    value: DifferentiableTensor,
    pullback: (DifferentiableTensor.TangentVector) -> (TangentVector, DifferentiableTensor.TangentVector)
  ) {
    let (value, pullback) = try! layer.valueWithPullback(x.tensor)
    return (
      DifferentiableTensor(value),
      { outputGradient in
        guard let outputGradient = outputGradient.tensor else { return (.zero, .zero) }
        var gradients = ParameterGradients<Float>()
        let input = try! pullback(outputGradient, adding: &gradients)
        return (TangentVector(gradients.tensors.mapValues { .init($0) }), .init(input))
      }
    )
  }
}
