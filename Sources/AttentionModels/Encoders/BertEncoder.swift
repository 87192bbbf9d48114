public import Attention
public import AttentionFiles

/// A BERT encoder: embeddings, then layers of attention and feed-forward parts, each followed by a residual sum and a norm.
///
/// Sequences are packed one after another, so no time is spent on padding. The hidden states of a sequence have the
/// same bits whether it is computed alone or together with others (with OpenBLAS's products, nearly the same bits). An
/// encoder is safe to call from several threads at once.
///
/// Source: Devlin et al. 2018 (arXiv:1810.04805); Vaswani et al. 2017 (arXiv:1706.03762).
/// Accuracy: the hidden states of all-MiniLM-L6-v2 differ from PyTorch's by at most 2e-5 an element (`RealModelTests`).
public struct BertEncoder: Sendable {
  /// The extents of the encoder.
  public let configuration: BertConfiguration
  /// The embeddings of tokens: `[V, d]`, where V is the size of the vocabulary and d the dimension of hidden states.
  var words: Embedding<Float>
  /// The embeddings of positions: `[P, d]`, where P is the number of positions.
  var positions: Embedding<Float>
  /// The embeddings of token types. Only type 0 is used.
  var types: Embedding<Float>
  /// The embeddings of positions, with the embedding of type 0 added.
  var typedPositions: Embedding<Float>
  var embeddingNorm: LayerNorm<Float>
  var layers: [TransformerBlock<Float>]

  /// An encoder with the weights of a safetensors file. Tensors have the names of Hugging Face's `BertModel`, with or
  /// without the prefix `bert.`. In a file with the prefix, tensors without it belong to task heads and are ignored.
  /// The pooler is ignored in every file. Float16 and BFloat16 weights are converted to Float.
  ///
  /// - Parameters:
  ///   - configuration: The extents that the tensors must have.
  ///   - file: The weights. In a mapped file, the word embeddings are read in place if they are Float. Matrices of
  ///     layers are packed once, when they are first used.
  /// - Throws: `AttentionError` that lists up to 20 tensors that are missing, unknown, or of a wrong shape or type.
  public init(configuration: BertConfiguration, weights file: SafeTensorsFile) throws {
    try configuration.check("BertEncoder")
    self.configuration = configuration
    var loader = WeightLoader(file, optionalPrefix: "bert.")
    let (d, inner) = (configuration.hiddenDimension, configuration.intermediateDimension)
    func norm(_ name: String) throws -> LayerNorm<Float> {
      try LayerNorm(
        weight: loader.tensor("\(name).weight", [d]), bias: loader.tensor("\(name).bias", [d]),
        epsilon: configuration.normEpsilon)
    }
    func linear(_ name: String, _ shape: [Int], _ activation: Activation = .none) throws -> Linear<Float> {
      try Linear(
        weight: loader.tensor("\(name).weight", shape), bias: loader.tensor("\(name).bias", [shape[0]]),
        activation: activation)
    }
    let wordWeights = try loader.tensor("embeddings.word_embeddings.weight", [configuration.vocabularySize, d])
    let positionWeights = try loader.tensor("embeddings.position_embeddings.weight", [configuration.positionCount, d])
    let typeWeights = try loader.tensor("embeddings.token_type_embeddings.weight", [configuration.typeCount, d])
    embeddingNorm = try norm("embeddings.LayerNorm")
    // Attention layers are made after all names are checked, so that one error lists all wrong tensors. An attention
    // layer's own error for missing tensors has a different form.
    var parts: [(state: [String: Tensor<Float>], EncoderLayerParts)] = []
    for index in 0..<configuration.layerCount {
      let name = "encoder.layer.\(index)"
      var state: [String: Tensor<Float>] = [:]
      for part in ["self.query", "self.key", "self.value", "output.dense"] {
        state["\(part).weight"] = try loader.tensor("\(name).attention.\(part).weight", [d, d])
        state["\(part).bias"] = try loader.tensor("\(name).attention.\(part).bias", [d])
      }
      parts.append(
        (
          state,
          try (
            norm("\(name).attention.output.LayerNorm"),
            FeedForward(
              up: linear("\(name).intermediate.dense", [inner, d], configuration.activation),
              down: linear("\(name).output.dense", [d, inner])),
            norm("\(name).output.LayerNorm")
          )
        ))
    }
    try loader.finish { $0 == "embeddings.position_ids" || $0.hasPrefix("pooler.") }

    layers = try parts.map { state, parts in
      try TransformerBlock(
        selfAttention: MultiHeadAttention(stateDictionary: state, headCount: configuration.headCount),
        feedForward: parts.1, norms: [.layer(parts.0), .layer(parts.2)], normPlacement: .after)
    }
    words = try Embedding(weight: wordWeights)
    positions = try Embedding(weight: positionWeights)
    types = try Embedding(weight: typeWeights)
    typedPositions = try Self.typedPositions(positions, types)
  }

  static func typedPositions(_ positions: Embedding<Float>, _ types: Embedding<Float>) throws -> Embedding<Float> {
    let (positions, types) = (positions.weight, types.weight)
    let dimension = positions.shape[1]
    return try Embedding(
      weight: Tensor(shape: positions.shape) { target in
        for position in 0..<positions.shape[0] {
          let (source, row) = (positions.base + position * dimension, target.baseAddress! + position * dimension)
          for i in 0..<dimension { row[i] = source[i] + types.base[i] }
        }
        withExtendedLifetime((positions, types)) {}
      })
  }

  private typealias EncoderLayerParts = (LayerNorm<Float>, FeedForward<Float>, LayerNorm<Float>)

  /// Packs all weights now, so that the first call takes no longer than later calls.
  /// - Throws: `AttentionError` if there is not enough memory.
  public func pack(context: AttentionContext = .default) throws {
    for layer in layers { try layer.pack(context: context) }
  }

  /// The hidden states after the last layer.
  ///
  /// - Parameters:
  ///   - sequences: The token ids of each sequence, each of at most ``BertConfiguration/positionCount`` tokens.
  ///   - context: Threads, instruction set, algorithm.
  ///   - checkpoint: Called before the embeddings and before each layer; an error that it throws ends the call.
  /// - Returns: `[T, d]`: the tokens of the first sequence, then those of the next.
  /// - Throws: `AttentionError` if a sequence is too long or a token is not in the vocabulary; any error of `checkpoint`.
  public func hiddenStates(
    _ sequences: [[Int32]], context: AttentionContext = .default, checkpoint: () throws -> Void = {}
  ) throws -> Tensor<Float> {
    try check(sequences)
    return try hiddenStates(ofChecked: sequences, context: context, checkpoint: checkpoint)
  }

  /// ``hiddenStates(_:context:checkpoint:)`` of sequences that ``check(_:)`` has accepted.
  func hiddenStates(
    ofChecked sequences: [[Int32]], context: AttentionContext, checkpoint: () throws -> Void
  ) throws -> Tensor<Float> {
    try checkpoint()
    var x = try embeddings(sequences, context)
    let lengths = sequences.map(\.count)
    for layer in layers {
      try checkpoint()
      x = try layer.forward(packed: x, lengths: lengths, context: context)
    }
    return x
  }

  /// The intermediate results for one sequence.
  public struct Trace: Sendable {
    /// The embeddings, then the output of each layer: `[L, d]` each, for L tokens.
    public let hiddenStates: [Tensor<Float>]
    /// `[H, L, L]` for each layer: how much each token (row) attends to each token (column).
    public let attentions: [Tensor<Float>]
  }

  /// All hidden states and attention weights of one sequence.
  ///
  /// - Parameters:
  ///   - tokens: Token ids.
  ///   - context: Threads, instruction set, algorithm.
  /// - Returns: The hidden states before the first layer and after each layer, and the attention weights of each layer.
  /// - Throws: `AttentionError`, as ``hiddenStates(_:context:checkpoint:)`` does.
  public func trace(_ tokens: [Int32], context: AttentionContext = .default) throws -> Trace {
    try check([tokens])
    var states = [try embeddings([tokens], context)]
    var attentions: [Tensor<Float>] = []
    for layer in layers {
      let x = states[states.count - 1]
      let y = try layer.forward(x, context: context) { x in
        let result = try layer.selfAttention.forward(
          query: x, key: x, value: x, weights: .perHead, context: context)
        attentions.append(try result.weights.reshaped(Array(result.weights.shape.suffix(3))))
        return result.output
      }
      states.append(y)
    }
    return Trace(hiddenStates: states, attentions: attentions)
  }

  /// Throws unless every sequence has at most as many tokens as there are positions, and its tokens are in the vocabulary.
  func check(_ sequences: [[Int32]]) throws(AttentionError) {
    for (index, sequence) in sequences.enumerated() {
      try requireArgument(
        sequence.count <= configuration.positionCount, "BertEncoder",
        "at most \(configuration.positionCount) tokens expected; sequence \(index) has \(sequence.count)")
      if let token = sequence.first(where: { !(0..<configuration.vocabularySize).contains(Int($0)) }) {
        throw AttentionError(
          .invalidArgument, "BertEncoder",
          "tokens from 0 to \(configuration.vocabularySize - 1) expected; sequence \(index) holds \(token)")
      }
    }
  }

  /// The input of the first layer, `[T, d]`: norm(word + position + type) of each token.
  private func embeddings(_ sequences: [[Int32]], _ context: AttentionContext) throws -> Tensor<Float> {
    let kernels = try context.kernels(for: Float.self)
    let dimension = configuration.hiddenDimension
    let count = sequences.reduce(0) { $0 + $1.count }
    return try Tensor(shape: [count, dimension]) { target in
      guard var row = target.baseAddress else { return }
      for sequence in sequences {
        for (position, token) in sequence.enumerated() {
          embeddingNorm.apply(
            words.weight.base + Int(token) * dimension, adding: typedPositions.weight.base + position * dimension,
            into: row,
            kernels)
          row += dimension
        }
      }
    }
  }
}
