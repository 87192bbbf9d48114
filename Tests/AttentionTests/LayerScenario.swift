import Attention
import AttentionProblems
import AttentionTestSupport
import AttentionTensors
import Testing

/// A call of a layer whose gradients are tested.
enum LayerScenario: Sendable, CustomTestStringConvertible {
  case linear(Activation, hasBias: Bool)
  case norm(isCentred: Bool, hasResidual: Bool)
  case feedForward(isGated: Bool)
  case selfAttention(String, AttentionConfiguration, AttentionMask)
  case attention(String, AttentionConfiguration, AttentionMask)
  case encoderBlock(TransformerBlock<Double>.NormPlacement, isRootMeanSquare: Bool, recomputes: Bool)
  case decoderBlock(TransformerBlock<Double>.NormPlacement)

  /// What a layer's configuration is made from; the same for each element type.
  struct AttentionConfiguration: Sendable {
    var d = 12
    var H = 3
    var Hk: Int?
    var kdim: Int?
    var vdim: Int?
    var hasBias = true
    var addsBias = false
    var addsZero = false
    var softcap: Double?
    var window: Int?
    var hasRotary = false
    var hasNorm = false
    var hasSinks = false

    func layer<Element: AttentionElement>(_: Element.Type, seed: UInt64) throws -> MultiHeadAttention<Element> {
      try MultiHeadAttention<Element>(
        configuration: .init(
          embeddingDimension: d, headCount: H, keyValueHeadCount: Hk, keyInputDimension: kdim,
          valueInputDimension: vdim, hasBias: hasBias, addsBiasKeyValue: addsBias, addsZeroAttention: addsZero,
          softcap: softcap, window: window, rotary: hasRotary ? RotaryEmbedding(dimension: 4) : nil,
          normEpsilon: hasNorm ? 1e-3 : nil, hasSinks: hasSinks), seed: seed)
    }
  }

  static let everyScenario: [LayerScenario] =
    Activation.allCases.flatMap { [.linear($0, hasBias: true), .linear($0, hasBias: false)] }
    + [true, false].flatMap { centred in [true, false].map { .norm(isCentred: centred, hasResidual: $0) } }
    + [.feedForward(isGated: false), .feedForward(isGated: true)]
    + [
      .selfAttention("plain", .init(), .none), .selfAttention("causal", .init(), .causal),
      .selfAttention("without biases", .init(hasBias: false), .none),
      .selfAttention(
        "every option of decoders",
        .init(d: 16, H: 4, Hk: 2, softcap: 3, window: 3, hasRotary: true, hasNorm: true, hasSinks: true), .causal),
      .selfAttention("keys of its own", .init(addsBias: true, addsZero: true), .keyLengths([5, 3])),
      .attention("cross-attention", .init(), .keyLengths([6, 4])),
      .attention("other dimensions", .init(kdim: 7, vdim: 5), .none),
      .attention("other dimensions, keys of its own", .init(kdim: 7, vdim: 5, addsBias: true, addsZero: true), .none),
      .attention("rotary positions", .init(hasRotary: true, hasNorm: true), .causal),
      .encoderBlock(.after, isRootMeanSquare: false, recomputes: false),
      .encoderBlock(.before, isRootMeanSquare: false, recomputes: true),
      .encoderBlock(.before, isRootMeanSquare: true, recomputes: false), .decoderBlock(.after), .decoderBlock(.before),
    ]

  var testDescription: String {
    switch self {
    case .linear(let activation, let hasBias): "linear, \(activation), \(hasBias ? "with" : "without") bias"
    case .norm(let isCentred, let hasResidual):
      "\(isCentred ? "layer" : "RMS") norm, \(hasResidual ? "with" : "without") residual"
    case .feedForward(let isGated): isGated ? "gated feed-forward" : "plain feed-forward"
    case .selfAttention(let name, _, _): "self-attention, \(name)"
    case .attention(let name, _, _): "attention, \(name)"
    case .encoderBlock(let placement, let isRoot, let recomputes):
      "encoder block, norms \(placement)\(isRoot ? ", RMS, gated" : "")\(recomputes ? ", recomputed" : "")"
    case .decoderBlock(let placement): "decoder block, norms \(placement)"
    }
  }

  /// The shapes of the inputs that have a gradient.
  var inputShapes: [[Int]] {
    switch self {
    case .linear: [[2, 37, 11]]
    case .norm(_, let hasResidual): Array(repeating: [3, 45, 19], count: hasResidual ? 2 : 1)
    case .feedForward: [[35, 12]]
    case .selfAttention(_, let configuration, _): [[2, 5, configuration.d]]
    case .attention(_, let configuration, _):
      [
        [2, 5, configuration.d], [2, 6, configuration.kdim ?? configuration.d],
        [2, 6, configuration.vdim ?? configuration.d],
      ]
    case .encoderBlock: [[2, 5, 12]]
    case .decoderBlock: [[2, 5, 12], [2, 4, 12]]
    }
  }

  func layer<Element: AttentionElement>(_: Element.Type) throws -> any TrainableLayer<Element> {
    func random(_ shape: [Int], _ seed: UInt64, _ range: Range<Double> = -1..<1) throws -> Tensor<Element> {
      try Tensor(uniform: range, shape: shape, seed: seed)
    }
    func linear(
      _ out: Int, _ in: Int, _ seed: UInt64, _ activation: Activation = .none, hasBias: Bool = true
    ) throws -> Linear<Element> {
      try Linear(
        weight: random([out, `in`], seed), bias: hasBias ? random([out], seed + 1) : nil, activation: activation)
    }
    func feedForward(isGated: Bool) throws -> FeedForward<Element> {
      try isGated
        ? FeedForward(gate: linear(21, 12, 11, .silu), up: linear(21, 12, 13), down: linear(12, 21, 15))
        : FeedForward(up: linear(21, 12, 13, .gelu), down: linear(12, 21, 15))
    }
    func layerNorm(_ d: Int, _ seed: UInt64) throws -> LayerNorm<Element> {
      try LayerNorm(weight: random([d], seed, 0.5..<2), bias: random([d], seed + 1), epsilon: 1e-3)
    }
    func rootNorm(_ d: Int, _ seed: UInt64) throws -> RMSNorm<Element> {
      try RMSNorm(weight: random([d], seed, 0.5..<2), epsilon: 1e-3)
    }
    func placement(_ placement: TransformerBlock<Double>.NormPlacement) -> TransformerBlock<Element>.NormPlacement {
      placement == .before ? .before : .after
    }
    switch self {
    case .linear(let activation, let hasBias): return try linear(13, 11, 1, activation, hasBias: hasBias)
    case .norm(true, _): return try layerNorm(19, 1)
    case .norm(false, _): return try rootNorm(19, 1)
    case .feedForward(let isGated): return try feedForward(isGated: isGated)
    case .selfAttention(_, let configuration, _), .attention(_, let configuration, _):
      return try configuration.layer(Element.self, seed: 5)
    case .encoderBlock(let where_, let isRoot, _):
      return try TransformerBlock(
        selfAttention: AttentionConfiguration().layer(Element.self, seed: 3), feedForward: feedForward(isGated: isRoot),
        norms: isRoot
          ? [.rootMeanSquare(rootNorm(12, 5)), .rootMeanSquare(rootNorm(12, 7))]
          : [.layer(layerNorm(12, 5)), .layer(layerNorm(12, 7))],
        normPlacement: placement(where_))
    case .decoderBlock(let where_):
      return try TransformerBlock(
        selfAttention: AttentionConfiguration().layer(Element.self, seed: 3),
        crossAttention: AttentionConfiguration().layer(Element.self, seed: 4), feedForward: feedForward(isGated: false),
        norms: [.layer(layerNorm(12, 5)), .layer(layerNorm(12, 7)), .layer(layerNorm(12, 9))],
        normPlacement: placement(where_))
    }
  }

  /// The output of the layer by its usual call, without a backward pass.
  func value<Element: AttentionElement>(
    _ layer: any TrainableLayer<Element>, _ x: [Tensor<Element>], _ context: AttentionContext
  ) throws -> Tensor<Element> {
    switch self {
    case .linear: try (layer as! Linear<Element>)(x[0], context: context)
    case .norm(true, _): try (layer as! LayerNorm<Element>)(x[0], adding: x.dropFirst().first, context: context)
    case .norm(false, _): try (layer as! RMSNorm<Element>)(x[0], adding: x.dropFirst().first, context: context)
    case .feedForward: try (layer as! FeedForward<Element>)(x[0], context: context)
    case .selfAttention(_, _, let mask):
      try (layer as! MultiHeadAttention<Element>)(x[0], mask: mask, context: context)
    case .attention(_, _, let mask):
      try (layer as! MultiHeadAttention<Element>)(query: x[0], key: x[1], value: x[2], mask: mask, context: context)
    case .encoderBlock: try (layer as! TransformerBlock<Element>)(x[0], mask: .causal, context: context)
    case .decoderBlock:
      try (layer as! TransformerBlock<Element>)(
        x[0], memory: x[1], mask: .causal, memoryMask: .keyLengths([4, 3]), context: context)
    }
  }

  /// Runs the layer forward and backward: calls `outputGradient` with the value, and returns the gradients of the
  /// inputs.
  func gradients<Element: AttentionElement>(
    _ layer: any TrainableLayer<Element>, _ x: [Tensor<Element>], _ context: AttentionContext,
    adding gradients: inout ParameterGradients<Element>, prefix: String = "",
    _ outputGradient: (Tensor<Element>) throws -> Tensor<Element>
  ) throws -> [Tensor<Element>] {
    func single(
      _ call: (value: Tensor<Element>, pullback: Pullback<Element, Tensor<Element>>)
    ) throws -> [Tensor<Element>] {
      [try call.pullback(outputGradient(call.value), adding: &gradients, prefix: prefix)]
    }
    switch self {
    case .linear: return try single((layer as! Linear<Element>).valueWithPullback(x[0], context: context))
    case .norm(true, let hasResidual):
      let gradient = try single(
        (layer as! LayerNorm<Element>).valueWithPullback(x[0], adding: x.dropFirst().first, context: context))
      return hasResidual ? gradient + gradient : gradient
    case .norm(false, let hasResidual):
      let gradient = try single(
        (layer as! RMSNorm<Element>).valueWithPullback(x[0], adding: x.dropFirst().first, context: context))
      return hasResidual ? gradient + gradient : gradient
    case .feedForward: return try single((layer as! FeedForward<Element>).valueWithPullback(x[0], context: context))
    case .selfAttention(_, _, let mask):
      return try single(
        (layer as! MultiHeadAttention<Element>).valueWithPullback(x[0], mask: mask, context: context))
    case .attention(_, _, let mask):
      let (value, pullback) = try (layer as! MultiHeadAttention<Element>).valueWithPullback(
        query: x[0], key: x[1], value: x[2], mask: mask, context: context)
      let inputs = try pullback(outputGradient(value), adding: &gradients, prefix: prefix)
      return [inputs.query, inputs.key, inputs.value]
    case .encoderBlock(_, _, let recomputes):
      return try single(
        (layer as! TransformerBlock<Element>).valueWithPullback(
          x[0], mask: .causal, recomputes: recomputes, context: context))
    case .decoderBlock:
      let (value, pullback) = try (layer as! TransformerBlock<Element>).valueWithPullback(
        x[0], memory: x[1], mask: .causal, memoryMask: .keyLengths([4, 3]), context: context)
      let inputs = try pullback(outputGradient(value), adding: &gradients, prefix: prefix)
      return [inputs.input, inputs.memory]
    }
  }
}
