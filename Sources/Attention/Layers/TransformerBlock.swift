public import AttentionTensors

/// A block of a transformer: self-attention, perhaps cross-attention, and a feed-forward part. Around each of these
/// sublayers is a residual sum and a norm:
///
///     norm after (Vaswani et al. 2017, BERT):       x ← norm(x + f(x))
///     norm before (GPT-2, Llama, most since 2020):  x ← x + f(norm(x))
///
/// Without cross-attention the block is one of an encoder, or, with a causal mask, of a decoder such as GPT. With
/// cross-attention it is a block of Vaswani's decoder, whose queries attend to a memory: the output of an encoder.
///
///     let block = try TransformerBlock(stateDictionary: tensors, prefix: "layers.0.", headCount: 12)
///     let y = try block(x, mask: .causal)   // [B, L, d]
///
/// It computes what PyTorch's `nn.TransformerEncoderLayer` and `nn.TransformerDecoderLayer` compute without dropout. If
/// the norms come before the sublayers, a model needs one more norm after its last block. That norm is not part of the
/// block.
///
/// Source: Vaswani et al. 2017 (arXiv:1706.03762), figure 1; Xiong et al. 2020 (arXiv:2002.04745) on the two placements.
public struct TransformerBlock<Element: AttentionElement>: Sendable {
  /// A norm of either kind.
  public enum Norm: Sendable {
    /// The norm of Vaswani's transformer, BERT and GPT-2.
    case layer(LayerNorm<Element>)
    /// The norm of Llama and most later decoders.
    case rootMeanSquare(RMSNorm<Element>)
  }

  /// Where the norms stand.
  public enum NormPlacement: Sendable, Hashable {
    /// x + f(norm(x)).
    case before
    /// norm(x + f(x)).
    case after
  }

  /// The attention of x over itself.
  public internal(set) var selfAttention: MultiHeadAttention<Element>
  /// The attention of x over the memory. Nil: none.
  public internal(set) var crossAttention: MultiHeadAttention<Element>?
  /// The feed-forward part.
  public internal(set) var feedForward: FeedForward<Element>
  /// The norms of the sublayers, in their order: two, or three with cross-attention.
  public internal(set) var norms: [Norm]
  /// Where the norms stand.
  public let normPlacement: NormPlacement

  /// A block made of its parts.
  ///
  /// - Parameters:
  ///   - selfAttention: The attention of x over itself.
  ///   - crossAttention: The attention of x over a memory. Nil: none.
  ///   - feedForward: From dimension d to d.
  ///   - norms: The norms of the sublayers, in their order: two, or three with cross-attention.
  ///   - normPlacement: Where the norms stand.
  /// - Throws: `AttentionError` if the parts do not fit each other.
  public init(
    selfAttention: MultiHeadAttention<Element>, crossAttention: MultiHeadAttention<Element>? = nil,
    feedForward: FeedForward<Element>, norms: [Norm], normPlacement: NormPlacement
  ) throws {
    let dimension = selfAttention.configuration.embeddingDimension
    let count = crossAttention == nil ? 2 : 3
    try requireShape(
      (crossAttention?.configuration.embeddingDimension ?? dimension) == dimension
        && feedForward.up.inputDimension == dimension && feedForward.down.outputDimension == dimension
        && norms.count == count && norms.allSatisfy { $0.rows.dimension == dimension },
      Self.subject,
      "attention, a feed-forward part and \(count) norms of dimension \(dimension) expected; got a feed-forward part from "
        + "\(feedForward.up.inputDimension) to \(feedForward.down.outputDimension), norms of "
        + "\(norms.map { $0.rows.dimension }), cross-attention of "
        + "\(crossAttention.map { "\($0.configuration.embeddingDimension)" } ?? "none")")
    self.selfAttention = selfAttention
    self.crossAttention = crossAttention
    self.feedForward = feedForward
    self.norms = norms
    self.normPlacement = normPlacement
  }

  /// A block with the stored weights of PyTorch's `nn.TransformerEncoderLayer`, or, if there is a tensor
  /// `multihead_attn.in_proj_weight`, of `nn.TransformerDecoderLayer`.
  ///
  /// - Parameters:
  ///   - tensors: The state dictionary: `self_attn.in_proj_weight`, `linear1.weight`, `norm1.weight` and so on. Names that are
  ///     not this block's are ignored.
  ///   - prefix: The text before each name.
  ///   - headCount: H.
  ///   - activation: The function of the feed-forward part; PyTorch's default is `.relu`.
  ///   - normPlacement: PyTorch's `norm_first`: `.before` if it is true.
  ///   - normEpsilon: PyTorch's `layer_norm_eps`.
  /// - Throws: `AttentionError` if a tensor is missing or shapes disagree.
  public init(
    stateDictionary tensors: [String: Tensor<Element>], prefix: String = "", headCount: Int,
    activation: Activation = .relu, normPlacement: NormPlacement = .after, normEpsilon: Double = 1e-5
  ) throws {
    func tensor(_ name: String) throws -> Tensor<Element> {
      guard let tensor = tensors[prefix + name] else {
        throw AttentionError(.notFound, Self.subject, "no tensor \"\(prefix + name)\"")
      }
      return tensor
    }
    func linear(_ name: String, _ activation: Activation) throws -> Linear<Element> {
      try Linear(
        weight: tensor("\(name).weight"), bias: tensors[prefix + "\(name).bias"], activation: activation)
    }
    let hasMemory = tensors[prefix + "multihead_attn.in_proj_weight"] != nil
    try self.init(
      selfAttention: MultiHeadAttention(stateDictionary: tensors, prefix: prefix + "self_attn.", headCount: headCount),
      crossAttention: hasMemory
        ? MultiHeadAttention(stateDictionary: tensors, prefix: prefix + "multihead_attn.", headCount: headCount) : nil,
      feedForward: FeedForward(up: linear("linear1", activation), down: linear("linear2", .none)),
      norms: (1...(hasMemory ? 3 : 2)).map {
        .layer(
          try LayerNorm(
            weight: tensor("norm\($0).weight"), bias: tensors[prefix + "norm\($0).bias"], epsilon: normEpsilon))
      },
      normPlacement: normPlacement)
  }

  static var subject: String { "TransformerBlock" }

  /// The output of the block for x.
  ///
  /// - Parameters:
  ///   - x: `[B, L, d]` or `[L, d]`.
  ///   - memory: What cross-attention attends to: `[B, S, kdim]` or `[S, kdim]`. Nil for a block without cross-attention.
  ///   - mask: Which positions of x each position may attend to.
  ///   - memoryMask: Which rows of the memory each position may attend to.
  ///   - context: Threads, instruction set, algorithm.
  /// - Returns: A tensor of the shape of x.
  /// - Throws: `AttentionError` if shapes disagree, or if there is a memory but no cross-attention, or the other way round.
  public func callAsFunction(
    _ x: Tensor<Element>, memory: Tensor<Element>? = nil, mask: AttentionMask = .none,
    memoryMask: AttentionMask = .none, context: AttentionContext = .default
  ) throws -> Tensor<Element> {
    let memory = try checked(memory)
    let y = try sublayer(0, x, context) { try selfAttention($0, mask: mask, context: context) }
    guard let crossAttention, let memory else { return try feed(y, context) }
    let z = try sublayer(1, y, context) {
      try crossAttention(query: $0, key: memory, value: memory, mask: memoryMask, context: context)
    }
    return try feed(z, context)
  }

  /// The output of the block for sequences that lie one after another, without padding between them. Self-attention is
  /// ``MultiHeadAttention/forward(packed:lengths:isCausal:context:)``.
  ///
  /// - Parameters:
  ///   - x: `[T, d]`: the tokens of the first sequence, then those of the next.
  ///   - lengths: The number of tokens of each sequence; their sum is T.
  ///   - isCausal: Whether a token attends only to itself and to earlier tokens of its sequence.
  ///   - context: Threads, instruction set, algorithm.
  /// - Returns: `[T, d]`.
  /// - Throws: `AttentionError` if the lengths do not sum to T, or if the block has cross-attention.
  public func forward(
    packed x: Tensor<Element>, lengths: [Int], isCausal: Bool = false, context: AttentionContext = .default
  ) throws -> Tensor<Element> {
    _ = try checked(nil)
    let y = try sublayer(0, x, context) {
      try selfAttention.forward(packed: $0, lengths: lengths, isCausal: isCausal, context: context)
    }
    return try feed(y, context)
  }

  /// Packs the weights now, so that the first call takes no longer than later calls.
  /// - Throws: `AttentionError` if memory runs out.
  public func pack(context: AttentionContext = .default) throws {
    try selfAttention.pack(context: context)
    try crossAttention?.pack(isSelfAttention: false, context: context)
    try feedForward.pack(context: context)
  }

  /// The output of an encoder's block whose self-attention is computed by `attend`.
  package func forward(
    _ x: Tensor<Element>, context: AttentionContext, attending attend: (Tensor<Element>) throws -> Tensor<Element>
  ) throws -> Tensor<Element> {
    try feed(sublayer(0, x, context, attend), context)
  }

  private func feed(_ x: Tensor<Element>, _ context: AttentionContext) throws -> Tensor<Element> {
    try sublayer(norms.count - 1, x, context) { try feedForward($0, context: context) }
  }

  /// norm(x + f(x)), or x + f(norm(x)).
  private func sublayer(
    _ index: Int, _ x: Tensor<Element>, _ context: AttentionContext, _ f: (Tensor<Element>) throws -> Tensor<Element>
  ) throws -> Tensor<Element> {
    let norm = norms[index].rows
    switch normPlacement {
    case .after:
      var y = try f(x)
      try norm.apply(Self.subject, to: &y, adding: x, context: context)
      return y
    case .before:
      var normalized = x
      try norm.apply(Self.subject, to: &normalized, adding: nil, context: context)
      var y = try f(normalized)
      let x = try x.contiguous()
      try y.withMutableView { try addElements(of: x, to: $0.base, context) }
      return y
    }
  }

  func checked(_ memory: Tensor<Element>?) throws(AttentionError) -> Tensor<Element>? {
    try requireArgument(
      (memory == nil) == (crossAttention == nil), Self.subject,
      crossAttention == nil
        ? "no memory expected, because the block has no cross-attention" : "a memory for cross-attention expected")
    return memory
  }
}

extension TransformerBlock.Norm {
  var rows: RowNorm<Element> {
    switch self {
    case .layer(let norm): norm.rows
    case .rootMeanSquare(let norm): norm.rows
    }
  }
}
