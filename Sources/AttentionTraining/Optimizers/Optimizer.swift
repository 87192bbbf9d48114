public import Attention

/// Changes the parameters of a layer or model by their gradients.
///
///     var optimizer = try AdamW<Float>(learningRate: 1e-3)
///     var gradients = ParameterGradients<Float>()
///     for batch in batches {
///       gradients.reset()
///       … forward, loss, backward …
///       try gradients.clip(toNorm: 1)
///       try optimizer.step(&model, gradients)
///     }
public protocol Optimizer<Element>: Sendable {
  /// The type of the parameters.
  associatedtype Element: AttentionElement

  /// The rate of the next steps. A ``LearningRateSchedule`` gives the rate of each step.
  var learningRate: Double { get set }

  /// What the optimizer remembers of earlier steps, by name, for storage. A run that is stopped, and goes on with this state
  /// and the parameters of the model, computes the same bits as a run that was not stopped.
  var stateDictionary: [String: Tensor<Element>] { get }

  /// Goes on from a stored state.
  /// - Throws: `AttentionError` if the tensors are not those that an optimizer of this kind stores.
  mutating func load(_ stateDictionary: [String: Tensor<Element>]) throws

  /// Changes one parameter by its gradient.
  mutating func update(
    _ name: String, _ value: inout Tensor<Element>, _ gradient: Tensor<Element>, _ context: AttentionContext
  ) throws
}

extension Optimizer {
  /// Changes the parameters of a layer that have a gradient. The others stay as they are.
  ///
  /// - Parameters:
  ///   - layer: The layer or model.
  ///   - gradients: Gradients under the names of the layer's parameters.
  ///   - prefix: The text before each name.
  ///   - context: Threads.
  /// - Throws: `AttentionError` if a gradient has no parameter of its name, or has another shape; then no parameter has changed.
  public mutating func step<Layer: TrainableLayer<Element>>(
    _ layer: inout Layer, _ gradients: ParameterGradients<Element>, prefix: String = "",
    context: AttentionContext = .default
  ) throws {
    try check(layer, gradients, prefix)
    try layer.forEachParameter(prefix: prefix) { name, value in
      if let gradient = gradients[name] { try update(name, &value, gradient.contiguous(), context) }
    }
  }

  private func check<Layer: TrainableLayer<Element>>(
    _ layer: Layer, _ gradients: ParameterGradients<Element>, _ prefix: String
  ) throws {
    let shapes = Dictionary(
      try layer.parameters(prefix: prefix).map { ($0.name, $0.value.shape) }, uniquingKeysWith: { first, _ in first })
    for name in gradients.names {
      guard let shape = shapes[name] else {
        throw AttentionError(
          .notFound, "Optimizer",
          "no parameter \"\(name)\" for the gradient of this name; there are "
            + shapes.keys.sorted().prefix(20).joined(separator: ", "))
      }
      let own = gradients[name]!.shape
      try requireShape(own == shape, "Optimizer", "a gradient of \(name) of shape \(shape) expected; got \(own)")
    }
  }
}

/// Which parameters decay towards 0.
public enum WeightDecay {
  /// True for all parameters but biases and the weights of norms, as in the trainer of Hugging Face's transformers.
  @Sendable public static func exceptBiasesAndNorms(_ name: String) -> Bool {
    !name.hasSuffix("bias") && !name.lowercased().contains("norm")
  }
}

/// Throws unless `tensor`, part of the state for the parameter `value`, has the parameter's shape.
func requireState<Element>(
  _ tensor: Tensor<Element>, _ name: String, _ value: Tensor<Element>
) throws(AttentionError) {
  try requireShape(
    tensor.shape == value.shape, "Optimizer",
    "a state of \(name) of shape \(value.shape) expected; got \(tensor.shape)")
}
