public import AttentionTensors

/// A layer, or a whole model, whose parameters an optimizer can change.
///
/// Your own layers conform by calling `forEachParameter` of the layers that they are made of:
///
///     struct Classifier: TrainableLayer {
///       var block: TransformerBlock<Float>
///       var head: Linear<Float>
///
///       mutating func forEachParameter(
///         prefix: String, _ body: (String, inout Tensor<Float>) throws -> Void
///       ) throws {
///         try block.forEachParameter(prefix: prefix + "block.", body)
///         try head.forEachParameter(prefix: prefix + "head.", body)
///       }
///     }
public protocol TrainableLayer<Element>: Sendable {
  /// The type of the parameters.
  associatedtype Element: AttentionElement

  /// Calls `body` with the name and the tensor of every parameter, always in the same order.
  ///
  /// `body` may change the tensor, but not its shape. Afterwards the layer packs its weights anew when it is used.
  ///
  /// - Parameters:
  ///   - prefix: The text before each name.
  ///   - body: Called once for each parameter.
  /// - Throws: What `body` throws; `AttentionError` if a tensor has another shape afterwards.
  mutating func forEachParameter(
    prefix: String, _ body: (_ name: String, _ value: inout Tensor<Element>) throws -> Void
  ) throws
}

extension TrainableLayer {
  /// The names and tensors of all parameters, in the order of ``forEachParameter(prefix:_:)``.
  /// - Throws: `AttentionError` if memory runs out.
  public func parameters(prefix: String = "") throws -> [(name: String, value: Tensor<Element>)] {
    var copy = self
    var list: [(name: String, value: Tensor<Element>)] = []
    try copy.forEachParameter(prefix: prefix) { list.append(($0, $1)) }
    return list
  }

  /// Replaces every parameter by the tensor of its name.
  ///
  /// - Parameters:
  ///   - tensors: One for each parameter. Other names are ignored.
  ///   - prefix: The text before each name.
  /// - Throws: `AttentionError` if a tensor is missing or has another shape; then some parameters may have been replaced.
  public mutating func load(_ tensors: [String: Tensor<Element>], prefix: String = "") throws {
    try forEachParameter(prefix: prefix) { name, value in
      guard let tensor = tensors[name] else {
        throw AttentionError(.notFound, "TrainableLayer", "no tensor \"\(name)\"")
      }
      try requireShape(
        tensor.shape == value.shape, "TrainableLayer",
        "\(name) of shape \(value.shape) expected; got \(tensor.shape)")
      value = tensor
    }
  }
}

/// Calls `body` with a parameter, which is contiguous afterwards. Throws if `body` throws or changes the shape. If
/// `body` changes the shape, the parameter becomes a tensor of the old shape that is filled with NaN, because a layer
/// relies on the shapes of its parameters.
func visit<Element: AttentionElement>(
  _ name: String, _ value: inout Tensor<Element>, _ body: (String, inout Tensor<Element>) throws -> Void
) throws {
  let shape = value.shape
  let result = Result { try body(name, &value) }
  let changed = value.shape
  value = changed == shape ? try value.contiguous() : try Tensor(repeating: .nan, shape: shape)
  try result.get()
  try requireShape(
    changed == shape, "TrainableLayer", "\(name) of shape \(shape) expected after the change; got \(changed)")
}

/// ``visit(_:_:_:)`` for an optional parameter. Nothing happens if the layer does not have it.
func visit<Element: AttentionElement>(
  _ name: String, _ value: inout Tensor<Element>?, _ body: (String, inout Tensor<Element>) throws -> Void
) throws {
  guard value != nil else { return }
  try visit(name, &value!, body)
}
