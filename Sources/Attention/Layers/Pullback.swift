public import AttentionTensors

/// The backward pass of one call of a layer, with everything that the call saved for it.
///
/// For a loss that depends on the value y of the call, a pullback takes ∂loss/∂y, returns the gradient of the call's input,
/// and adds the gradients of the layer's parameters to ``ParameterGradients``.
///
///     let (y, pullback) = try layer.valueWithPullback(x)
///     // … the loss, and its gradient with respect to y …
///     let inputGradient = try pullback(outputGradient, adding: &gradients, prefix: "encoder.")
///
/// `Input` is the type of the input's gradient: a tensor, or `Void` if the input has none.
///
/// A pullback may be called several times, and from several threads. It keeps the layer's tensors and the saved ones in memory.
/// Release it before you change the layer's parameters: as long as it exists, each change first copies the parameter.
public struct Pullback<Element: AttentionElement, Input>: Sendable {
  /// The gradient of the output, the gradients of parameters, and the text before each parameter's name.
  typealias Body = @Sendable (Tensor<Element>, inout ParameterGradients<Element>, String) throws -> Input

  private let subject: String
  private let shape: [Int]
  private let body: Body

  /// A pullback of a call whose output has this shape.
  init(_ subject: String, outputShape shape: [Int], _ body: @escaping Body) {
    self.subject = subject
    self.shape = shape
    self.body = body
  }

  /// A pullback that is composed of other layers' pullbacks, for layers of your own.
  ///
  /// - Parameters:
  ///   - shape: The shape of the call's output.
  ///   - body: Takes the gradient of the output, the gradients of parameters and the text before each parameter's name.
  ///     Returns the gradient of the input.
  public init(
    outputShape shape: [Int],
    _ body:
      @escaping @Sendable (
        _ outputGradient: Tensor<Element>, _ gradients: inout ParameterGradients<Element>, _ prefix: String
      ) throws -> Input
  ) {
    self.init("Pullback", outputShape: shape, body)
  }

  /// The gradient of the input. The gradients of the parameters are added to `gradients`.
  ///
  /// - Parameters:
  ///   - outputGradient: ∂loss/∂y, of the shape of y; any strides.
  ///   - gradients: The gradients of the parameters.
  ///   - prefix: The text before each parameter's name.
  /// - Returns: The gradient of the input.
  /// - Throws: `AttentionError` if the output gradient has another shape than the output, or memory runs out.
  @discardableResult
  public func callAsFunction(
    _ outputGradient: Tensor<Element>, adding gradients: inout ParameterGradients<Element>, prefix: String = ""
  ) throws -> Input {
    try requireShape(
      outputGradient.shape == shape, subject,
      "a gradient of the output's shape \(shape) expected; got \(outputGradient.shape)")
    return try body(outputGradient, &gradients, prefix)
  }
}
