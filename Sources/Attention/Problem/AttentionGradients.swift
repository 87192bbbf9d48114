public import AttentionTensors

/// What ``scaledDotProductAttentionGradients(query:key:value:mask:options:result:outputGradient:returning:context:)``
/// returns besides the gradients of query, key and value.
public struct AttentionGradientExtras: OptionSet, Sendable {
  public let rawValue: Int
  public init(rawValue: Int) { self.rawValue = rawValue }

  /// The gradients of the mask's biases. Each costs the time to add up the gradients of the scores, and the memory of a
  /// tensor of the bias's shape. If heads or elements of the batch share the bias and there are few keys, the gradient
  /// takes up to 16 times this memory during the call.
  public static let biases = AttentionGradientExtras(rawValue: 1)
  /// The gradients of the slopes of ``AttentionMask/alibi(slopes:alignment:)``.
  public static let alibiSlopes = AttentionGradientExtras(rawValue: 2)
  /// The gradients of the sinks. They cost next to nothing.
  public static let sinks = AttentionGradientExtras(rawValue: 4)
  /// The gradients of the parameters of ``AttentionMask/scores(_:parameterCount:_:derivative:)``. The function's
  /// derivative computes them whether they are asked for or not.
  public static let scoreParameters = AttentionGradientExtras(rawValue: 8)
}

/// The gradients of one call of attention.
///
/// Reading a gradient that the call did not ask for throws an `AttentionError`.
public struct AttentionGradients<Element: AttentionStorage, KeyElement: AttentionStorage>: Sendable
where KeyElement.Arithmetic == Element.Arithmetic {
  /// The gradient of the query, of its shape and type.
  public let query: Tensor<Element>
  /// The gradient of the key, of its shape and type.
  public let key: Tensor<KeyElement>
  /// The gradient of the value, of its shape and type.
  public let value: Tensor<KeyElement>
  private let extras: Extras

  struct Extras: Sendable {
    var biases: [Tensor<Element.Arithmetic>]?
    var alibiSlopes: [Tensor<Element.Arithmetic>]?
    var sinks: Tensor<Element.Arithmetic>?
    var scoreParameters: Tensor<Element.Arithmetic>?
  }

  init(query: Tensor<Element>, key: Tensor<KeyElement>, value: Tensor<KeyElement>, extras: Extras) {
    self.query = query
    self.key = key
    self.value = value
    self.extras = extras
  }

  /// The gradients of the mask's biases, in the order in which the biases were combined. Each has the shape of its
  /// bias: it is summed over the axes along which the bias is broadcast.
  public var biases: [Tensor<Element.Arithmetic>] {
    get throws(AttentionError) { try requested(extras.biases, "biases") }
  }

  /// The gradients of the slopes of the mask's linear biases (ALiBi), `[H]` for each bias, in the order in which the
  /// biases were combined.
  public var alibiSlopes: [Tensor<Element.Arithmetic>] {
    get throws(AttentionError) { try requested(extras.alibiSlopes, "alibiSlopes") }
  }

  /// `[H]`: the gradients of the sinks.
  public var sinks: Tensor<Element.Arithmetic> {
    get throws(AttentionError) { try requested(extras.sinks, "sinks") }
  }

  /// The gradients of the parameters of the mask's function of scores, one for each parameter. Empty if the mask has no
  /// such function.
  public var scoreParameters: Tensor<Element.Arithmetic> {
    get throws(AttentionError) { try requested(extras.scoreParameters, "scoreParameters") }
  }

  private func requested<Gradient>(_ gradient: Gradient?, _ name: String) throws(AttentionError) -> Gradient {
    guard let gradient else {
      throw AttentionError(
        .invalidArgument, "AttentionGradients.\(name)",
        "a call that returns \(name) expected; this one was not asked for them")
    }
    return gradient
  }
}
