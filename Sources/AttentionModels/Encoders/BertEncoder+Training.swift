public import Attention

extension BertEncoder: TrainableLayer {
  /// Calls `body` with each parameter and its name. The embeddings have the names that a file gives them. The names of
  /// layer N are `encoder.layer.N.` followed by those of `TransformerBlock`; a file has other names for them, which
  /// ``stateDictionary()`` uses.
  public mutating func forEachParameter(
    prefix: String, _ body: (_ name: String, _ value: inout Tensor<Float>) throws -> Void
  ) throws {
    try words.forEachParameter(prefix: prefix + Names.words, body)
    let result = Result {
      try positions.forEachParameter(prefix: prefix + Names.positions, body)
      try types.forEachParameter(prefix: prefix + Names.types, body)
    }
    typedPositions = try Self.typedPositions(positions, types)
    try result.get()
    try embeddingNorm.forEachParameter(prefix: prefix + Names.norm, body)
    for index in layers.indices { try layers[index].forEachParameter(prefix: prefix + Names.layer(index), body) }
  }

  private enum Names {
    static let words = "embeddings.word_embeddings."
    static let positions = "embeddings.position_embeddings."
    static let types = "embeddings.token_type_embeddings."
    static let norm = "embeddings.LayerNorm."
    static func layer(_ index: Int) -> String { "encoder.layer.\(index)." }
  }

  /// All weights under the names of Hugging Face's `BertModel`, as ``init(configuration:weights:)`` reads them. The pooler,
  /// which the encoder does not use, is not among them.
  /// - Throws: `AttentionError` if memory runs out.
  public func stateDictionary() throws -> [String: Tensor<Float>] {
    var tensors = [
      Names.words + "weight": words.weight, Names.positions + "weight": positions.weight,
      Names.types + "weight": types.weight,
    ]
    func add(_ norm: TransformerBlock<Float>.Norm, _ name: String) {
      guard case .layer(let norm) = norm else { return }
      tensors[name + "weight"] = norm.weight
      tensors[name + "bias"] = norm.bias
    }
    func add(_ linear: Linear<Float>, _ name: String) {
      tensors[name + "weight"] = linear.weight
      tensors[name + "bias"] = linear.bias
    }
    add(.layer(embeddingNorm), Names.norm)
    for (index, layer) in layers.enumerated() {
      let name = Names.layer(index)
      tensors.merge(
        try layer.selfAttention.stateDictionary(naming: .bert, prefix: name + "attention.")
      ) { first, _ in first }
      add(layer.norms[0], name + "attention.output.LayerNorm.")
      add(layer.feedForward.up, name + "intermediate.dense.")
      add(layer.feedForward.down, name + "output.dense.")
      add(layer.norms[1], name + "output.LayerNorm.")
    }
    return tensors
  }

  /// The hidden states after the last layer, and the backward pass.
  ///
  /// - Parameters:
  ///   - sequences: The token ids of each sequence.
  ///   - dropout: Dropout of the attention weights. Nil: none.
  ///   - recomputes: True: only the input of each layer is saved, and the pullback computes everything else once more.
  ///   - context: Threads, instruction set, algorithm, also those of the backward pass.
  /// - Returns: `[T, d]`: the tokens of the first sequence, then those of the next; and a pullback that adds the gradients of
  ///   all parameters.
  /// - Throws: `AttentionError` if a sequence is too long or a token is not in the vocabulary.
  public func valueWithPullback(
    _ sequences: [[Int32]], dropout: AttentionDropout? = nil, recomputes: Bool = false,
    context: AttentionContext = .default
  ) throws -> (value: Tensor<Float>, pullback: Pullback<Float, Void>) {
    try check(sequences)
    let tokens = sequences.flatMap(\.self)
    func tensor(_ numbers: [Int32]) throws -> Tensor<Int32> { try Tensor(numbers, shape: [numbers.count]) }
    let places = try tensor(sequences.flatMap { $0.indices.map { Int32($0) } })
    let (word, wordPullback) = try words.valueWithPullback(tensor(tokens), context: context)
    let (position, positionPullback) = try typedPositions.valueWithPullback(places, context: context)
    let typePullback = try types.valueWithPullback(tensor(tokens.map { _ in 0 }), context: context).pullback
    let (embedded, normPullback) = try embeddingNorm.valueWithPullback(word, adding: position, context: context)

    // The sequences follow one another in one element of the batch, and each attends only to itself.
    let offsets = sequences.reduce(into: [0]) { $0.append($0[$0.count - 1] + $1.count) }
    var x = try embedded.reshaped([1] + embedded.shape)
    var pullbacks: [Pullback<Float, Tensor<Float>>] = []
    for layer in layers {
      let call = try layer.valueWithPullback(
        x, mask: .documents(offsets), dropout: dropout, recomputes: recomputes, context: context)
      x = call.value
      pullbacks.append(call.pullback)
    }
    let value = try x.reshaped(Array(x.shape.dropFirst()))
    let pullback = Pullback<Float, Void>(outputShape: value.shape) {
      [pullbacks, shape = x.shape] outputGradient, gradients, prefix in
      var gradient = try outputGradient.reshaped(shape)
      for (index, pullback) in pullbacks.enumerated().reversed() {
        gradient = try pullback(gradient, adding: &gradients, prefix: prefix + Names.layer(index))
      }
      gradient = try normPullback(
        gradient.reshaped(Array(shape.dropFirst())), adding: &gradients, prefix: prefix + Names.norm)
      try wordPullback(gradient, adding: &gradients, prefix: prefix + Names.words)
      try positionPullback(gradient, adding: &gradients, prefix: prefix + Names.positions)
      try typePullback(gradient, adding: &gradients, prefix: prefix + Names.types)
    }
    return (value, pullback)
  }
}
