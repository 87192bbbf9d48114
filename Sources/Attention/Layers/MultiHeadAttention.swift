internal import AttentionBLAS
public import AttentionTensors

/// Multi-head attention: `Concat(head₁ … head_H) W_oᵀ + b_o`, `headₕ = softmax(Qₕ Kₕᵀ / √E) Vₕ`, where
/// `Q = query · W_qᵀ + b_q` and so on are cut into heads of dimension `E = d / H`.
///
/// It computes what PyTorch's `nn.MultiheadAttention` computes in inference, and adds what decoders need: grouped heads,
/// rotary positions, normalised queries and keys, a window, softcap, sinks, a cache. Heads are strided views: nothing is
/// permuted in memory. Inputs that are the same view share one product.
///
///     let layer = try MultiHeadAttention<Float>(embeddingDimension: 384, headCount: 12, seed: 1)
///     let y = try layer(x)                                      // self-attention, [B, L, 384]
///     let z = try layer(query: x, key: memory, value: memory)   // cross-attention
///     let next = try layer.forward(x, cache: cache).output      // the tokens in x, after those in the cache
///
/// In the table of weights, `d` is the embedding dimension. `kdim` and `vdim` are the dimensions of the key and value
/// inputs. `H·E` is the dimension of queries (`d`, unless the head dimension is set otherwise), and `Hk·E` that of keys
/// and values. Shapes are `[out, in]`, as in PyTorch:
///
/// | here | shape | PyTorch | Hugging Face, decoders (BERT) | Keras |
/// |---|---|---|---|---|
/// | `query_projection.weight` | `[H·E, d]` | rows `0 ..< d` of `in_proj_weight` `[3d, d]`, or `q_proj_weight` | `q_proj.weight` (`self.query.weight`) | `query/kernel` `[d, H, E]`, the transpose |
/// | `key_projection.weight` | `[Hk·E, kdim]` | rows `d ..< 2d`, or `k_proj_weight` `[d, kdim]` | `k_proj.weight` (`self.key.weight`) | `key/kernel` `[kdim, Hk, E]` |
/// | `value_projection.weight` | `[Hk·E, vdim]` | rows `2d ..< 3d`, or `v_proj_weight` `[d, vdim]` | `v_proj.weight` (`self.value.weight`) | `value/kernel` `[vdim, Hk, E]` |
/// | `….bias` | `[H·E]`, `[Hk·E]`, `[Hk·E]` | thirds of `in_proj_bias` `[3d]` | `….bias` | `query/bias` `[H, E]` … |
/// | `output_projection.weight` | `[d, H·E]` | `out_proj.weight` `[d, d]` | `o_proj.weight` (`output.dense.weight`) | `attention_output/kernel` `[H, E, d]`, the transpose |
/// | `output_projection.bias` | `[d]` | `out_proj.bias` | `o_proj.bias` (`output.dense.bias`) | `attention_output/bias` `[d]` |
/// | `bias_k`, `bias_v` | `[1, 1, Hk·E]` | `bias_k`, `bias_v` | none | none |
/// | `query_norm.weight`, `key_norm.weight` | `[E]` | none | `q_norm.weight`, `k_norm.weight` | none |
/// | `sinks` | `[H]` | none | `sinks` | none |
public struct MultiHeadAttention<Element: AttentionElement>: Sendable {
  /// The extents and options of a layer.
  public struct Configuration: Sendable, Hashable {
    /// d: the dimension of the query and of the output.
    public var embeddingDimension: Int
    /// H: heads of the query.
    public var headCount: Int
    /// Hk: heads of keys and values: H, or a divisor of H for grouped-query attention.
    public var keyValueHeadCount: Int
    /// The dimension of the key input, PyTorch's `kdim`.
    public var keyInputDimension: Int
    /// The dimension of the value input, PyTorch's `vdim`.
    public var valueInputDimension: Int
    /// Whether the projections have biases. For a layer from stored tensors: whether the projections of query, key and
    /// value have biases.
    public var hasBias: Bool
    /// PyTorch's `add_bias_kv`: adds one learned key and value, to which every query may attend.
    public var addsBiasKeyValue: Bool
    /// PyTorch's `add_zero_attn`: adds one key and value of zeros.
    public var addsZeroAttention: Bool
    /// E: the head dimension. If it is not set, it is d / H, or 0 if H does not divide d.
    public var headDimension: Int {
      get { ownHeadDimension ?? evenHeadDimension }
      // The default value is stored as nil, so that equal configurations compare as equal.
      set { ownHeadDimension = newValue == evenHeadDimension ? nil : newValue }
    }
    private var evenHeadDimension: Int {
      headCount > 0 && embeddingDimension % headCount == 0 ? embeddingDimension / headCount : 0
    }
    private var ownHeadDimension: Int?
    /// The factor by which scores are multiplied. Nil: 1/√E.
    public var scale: Double?
    /// c, which bounds scores to c·tanh(score / c). Nil: no bound.
    public var softcap: Double?
    /// How many keys a query can attend to, counted back from the key at its own position. Nil: all.
    ///
    /// The window applies in addition to the mask. It does not limit the keys after the query. It is Hugging Face's
    /// `sliding_window`.
    public var window: Int?
    /// The rotary positions by which queries and keys are turned. Nil: they are not turned.
    public var rotary: RotaryEmbedding?
    /// The ε of an RMS norm of queries and keys, which is added to the mean square. Nil: no norm.
    ///
    /// The norm applies to each head by itself, before rotary positions: Qwen 3's QK norm. (Gemma 3 stores the norm's weights
    /// minus 1: add 1 to them.)
    public var normEpsilon: Double?
    /// Whether each head has a sink: one more logit in the softmax's denominator.
    public var hasSinks: Bool

    /// A configuration. It is checked when a layer is made from it.
    ///
    /// - Parameters:
    ///   - embeddingDimension: d, a multiple of the number of heads unless the head dimension is given.
    ///   - headCount: H.
    ///   - keyValueHeadCount: Hk, a divisor of H; default H.
    ///   - keyInputDimension: The dimension of the layer's key input; default d.
    ///   - valueInputDimension: The dimension of the layer's value input; default d.
    ///   - hasBias: Whether the projections have biases.
    ///   - addsBiasKeyValue: PyTorch's `add_bias_kv`.
    ///   - addsZeroAttention: PyTorch's `add_zero_attn`.
    ///   - headDimension: E; default d / H.
    ///   - scale: Multiplies the scores; nil: 1/√E.
    ///   - softcap: Bounds scores; nil: no bound.
    ///   - window: How many keys a query can attend to, counted back from the key at its own position; nil: all.
    ///   - rotary: Turns queries and keys by their positions.
    ///   - normEpsilon: The ε of the norm of queries and keys; nil: no norm.
    ///   - hasSinks: Whether each head has a sink.
    public init(
      embeddingDimension: Int, headCount: Int, keyValueHeadCount: Int? = nil, keyInputDimension: Int? = nil,
      valueInputDimension: Int? = nil,
      hasBias: Bool = true, addsBiasKeyValue: Bool = false, addsZeroAttention: Bool = false, headDimension: Int? = nil,
      scale: Double? = nil, softcap: Double? = nil, window: Int? = nil, rotary: RotaryEmbedding? = nil,
      normEpsilon: Double? = nil, hasSinks: Bool = false
    ) {
      self.embeddingDimension = embeddingDimension
      self.headCount = headCount
      self.keyValueHeadCount = keyValueHeadCount ?? headCount
      self.keyInputDimension = keyInputDimension ?? embeddingDimension
      self.valueInputDimension = valueInputDimension ?? embeddingDimension
      self.hasBias = hasBias
      self.addsBiasKeyValue = addsBiasKeyValue
      self.addsZeroAttention = addsZeroAttention
      self.scale = scale
      self.softcap = softcap
      self.window = window
      self.rotary = rotary
      self.normEpsilon = normEpsilon
      self.hasSinks = hasSinks
      if let headDimension { self.headDimension = headDimension }
    }

    /// H·E: the dimension of projected queries.
    public var projectedQueryDimension: Int { product(headCount, headDimension) }
    /// Hk·E: the dimension of projected keys and values.
    public var projectedKeyValueDimension: Int { product(keyValueHeadCount, headDimension) }

    private func product(_ a: Int, _ b: Int) -> Int {
      let (product, overflow) = a.multipliedReportingOverflow(by: b)
      return overflow ? .max : product
    }

    /// True if query, key and value have the same input dimension, so that one matrix can project them.
    var hasStackedProjection: Bool {
      keyInputDimension == embeddingDimension && valueInputDimension == embeddingDimension
    }
    /// The rows of the query, key and value projection in a stack of the three.
    var stackedRows: (query: Range<Int>, key: Range<Int>, value: Range<Int>) {
      let queryEnd = projectedQueryDimension
      let keyEnd = queryEnd + projectedKeyValueDimension
      return (0..<queryEnd, queryEnd..<keyEnd, keyEnd..<keyEnd + projectedKeyValueDimension)
    }
    /// The number of keys that the layer adds after the caller's.
    var addedKeyCount: Int { (addsBiasKeyValue ? 1 : 0) + (addsZeroAttention ? 1 : 0) }

    /// True if the tensors of a layer with configuration `other` fit this configuration.
    func hasExtents(of other: Configuration) -> Bool {
      var plain = self
      plain.scale = other.scale
      plain.softcap = other.softcap
      plain.window = other.window
      plain.rotary = other.rotary
      if other.normEpsilon != nil && normEpsilon != nil { plain.normEpsilon = other.normEpsilon }
      return plain == other
    }

    func check() throws(AttentionError) {
      try requireArgument(
        min(embeddingDimension, headCount, keyValueHeadCount, keyInputDimension, valueInputDimension) > 0
          && headDimension > 0
          && max(embeddingDimension, headCount, keyInputDimension, valueInputDimension, projectedQueryDimension)
            <= Int(Int32.max)
          && headCount % keyValueHeadCount == 0,
        "MultiHeadAttention",
        "an embedding dimension that divides by its heads, or a head dimension, and heads that divide by the key/value heads "
          + "expected; got dimension \(embeddingDimension), "
          + "\(headCount) heads of \(headDimension), \(keyValueHeadCount) key/value heads, key input \(keyInputDimension), "
          + "value input \(valueInputDimension)")
      try requireArgument(
        (window ?? 1) > 0 && (rotary?.dimension ?? 0) <= headDimension && (normEpsilon ?? 0) >= 0, "MultiHeadAttention",
        "a window from 1, a rotary dimension up to the heads' \(headDimension) and an epsilon from 0 expected; got "
          + "\(window.map(String.init) ?? "none"), \(rotary.map { "\($0.dimension)" } ?? "none"), "
          + "\(normEpsilon.map { "\($0)" } ?? "none")")
      // The keys that the layer adds have no position, so they cannot be turned by positions or lie in a window.
      try requireArgument(
        addedKeyCount == 0 || (rotary == nil && window == nil), "MultiHeadAttention",
        "no keys of the layer's own (bias_k, zero attention) beside rotary positions or a window expected")
    }
  }

  /// The weight and bias of one linear layer: `y = x · weightᵀ + bias`.
  struct Projection: Sendable {
    /// `[out, in]`.
    var weight: Tensor<Element>
    /// `[out]`.
    var bias: Tensor<Element>?

    var linear: Linear<Element> { get throws(AttentionError) { try Linear(weight: weight, bias: bias) } }

    /// The projection to some of the outputs. Its weight and bias are views of this projection's.
    func outputs(_ range: Range<Int>) throws -> Projection {
      Projection(weight: try weight.slice(range, axis: 0), bias: try bias?.slice(range, axis: 0))
    }

    /// Several projections of the same input as one projection.
    static func stacked(_ projections: [Projection]) throws -> Projection {
      func stack(_ tensors: [Tensor<Element>]) throws -> Tensor<Element>? {
        guard let first = tensors.first else { return nil }
        let shape = [tensors.map { $0.shape[0] }.reduce(0, +)] + first.shape.dropFirst()
        var result = try Tensor<Element>(uninitializedShape: shape)
        try result.withMutableView { view in
          var row = 0
          for tensor in tensors {
            try view.withSlice(row..<row + tensor.shape[0], axis: 0) { try $0.copy(from: tensor) }
            row += tensor.shape[0]
          }
        }
        return result
      }
      return Projection(weight: try stack(projections.map(\.weight))!, bias: try stack(projections.compactMap(\.bias)))
    }
  }

  /// The projections that are views of the stacked one.
  struct Views: Sendable {
    let keyValue: Linear<Element>
    let query: Linear<Element>
    let key: Linear<Element>
    let value: Linear<Element>

    init(of stacked: Linear<Element>, _ configuration: Configuration) throws {
      let projection = Projection(weight: stacked.weight, bias: stacked.bias)
      let rows = configuration.stackedRows
      keyValue = try projection.outputs(rows.key.lowerBound..<rows.value.upperBound).linear
      query = try projection.outputs(rows.query).linear
      key = try projection.outputs(rows.key).linear
      value = try projection.outputs(rows.value).linear
    }
  }

  /// The extents and options.
  public let configuration: Configuration
  /// The query, key and value projections in one matrix, `[H·E + 2·Hk·E, d]`, so that inputs that are the same view
  /// need only one product. If it is not nil, the next four properties are views of it. Nil if the inputs differ in
  /// dimension.
  var stackedProjection: Linear<Element>?
  var keyValueProjection: Linear<Element>?
  var queryProjection: Linear<Element>
  var keyProjection: Linear<Element>
  var valueProjection: Linear<Element>
  var outputProjection: Linear<Element>
  /// The learned key that the layer adds, `[Hk·E]`. Nil: none.
  var biasKey: Tensor<Element>?
  var biasValue: Tensor<Element>?
  /// The RMS norm that is applied to the query rows of each head. Its weight is `[E]`.
  var queryNorm: RMSNorm<Element>?
  var keyNorm: RMSNorm<Element>?
  /// The sink's logit of each head, `[H]`.
  var sinks: Tensor<Element>?

  /// A layer of projections that fit each other. If `stacked` is given, `query`, `key` and `value` are views of it.
  init(
    configuration: Configuration, stacked: Projection? = nil, query: Projection, key: Projection, value: Projection,
    output: Projection, biasKey: Tensor<Element>?, biasValue: Tensor<Element>?, queryNorm: Tensor<Element>?,
    keyNorm: Tensor<Element>?, sinks: Tensor<Element>?
  ) throws {
    self.configuration = configuration
    if configuration.hasStackedProjection {
      let stacked = try (stacked ?? .stacked([query, key, value])).linear
      let views = try Views(of: stacked, configuration)
      stackedProjection = stacked
      keyValueProjection = views.keyValue
      queryProjection = views.query
      keyProjection = views.key
      valueProjection = views.value
    } else {
      stackedProjection = nil
      keyValueProjection = nil
      queryProjection = try query.linear
      keyProjection = try key.linear
      valueProjection = try value.linear
    }
    outputProjection = try output.linear
    self.biasKey = biasKey
    self.biasValue = biasValue
    func norm(_ weight: Tensor<Element>?) throws -> RMSNorm<Element>? {
      guard let weight, let epsilon = configuration.normEpsilon else { return nil }
      return try RMSNorm(weight: weight, epsilon: epsilon)
    }
    self.queryNorm = try norm(queryNorm)
    self.keyNorm = try norm(keyNorm)
    self.sinks = sinks
  }

  /// A layer with random weights, initialised as in PyTorch.
  ///
  /// Projections are Xavier-uniform, except that the output's weights are uniform on ±1/√(H·E). Biases are 0, `bias_k` and
  /// `bias_v` Xavier-normal, norms 1 and sinks 0.
  ///
  /// - Parameters:
  ///   - configuration: Extents and options.
  ///   - seed: The same seed gives the same layer on every machine.
  /// - Throws: `AttentionError` if the extents do not fit each other.
  ///
  /// Source: Glorot and Bengio 2010, equation 16: uniform on ±√(6 / (in + out)). As in PyTorch, query, key
  /// and value count as one matrix (out = H·E + 2·Hk·E) if their inputs have the same dimension.
  public init(configuration: Configuration, seed: UInt64) throws {
    try configuration.check()
    var generator = SeededGenerator(seed: seed)
    let width = configuration.embeddingDimension
    let projectedQueryDimension = configuration.projectedQueryDimension
    let projectedKeyValueDimension = configuration.projectedKeyValueDimension
    func projection(_ input: Int, _ output: Int, bound: Double? = nil) throws -> Projection {
      let fanOut =
        configuration.hasStackedProjection ? projectedQueryDimension + 2 * projectedKeyValueDimension : output
      let bound = bound ?? (6 / Double(input + fanOut)).squareRoot()
      return Projection(
        weight: try Tensor(uniform: -bound..<bound, shape: [output, input], seed: generator.next()),
        bias: configuration.hasBias ? try Tensor(repeating: 0, shape: [output]) : nil)
    }
    func normal() throws -> Tensor<Element>? {
      guard configuration.addsBiasKeyValue else { return nil }
      // PyTorch counts [1, 1, n] as fan-in n and fan-out n: the standard deviation is √(2 / 2n).
      return try Tensor(
        normalWithDeviation: 1 / Double(projectedKeyValueDimension).squareRoot(), shape: [projectedKeyValueDimension],
        seed: generator.next())
    }
    func ones() throws -> Tensor<Element>? {
      configuration.normEpsilon == nil ? nil : try Tensor(repeating: 1, shape: [configuration.headDimension])
    }
    try self.init(
      configuration: configuration,
      query: projection(width, projectedQueryDimension),
      key: projection(configuration.keyInputDimension, projectedKeyValueDimension),
      value: projection(configuration.valueInputDimension, projectedKeyValueDimension),
      output: projection(projectedQueryDimension, width, bound: 1 / Double(projectedQueryDimension).squareRoot()),
      biasKey: normal(), biasValue: normal(), queryNorm: ones(), keyNorm: ones(),
      sinks: configuration.hasSinks ? Tensor(repeating: 0, shape: [configuration.headCount]) : nil)
  }

  /// Packs the weights now, so that the first call takes no longer than later calls.
  ///
  /// - Parameters:
  ///   - isSelfAttention: True if query, key and value of the calls will be the same tensor; false if only key and value are.
  ///   - context: Instruction set and threads.
  /// - Throws: `AttentionError` if memory runs out.
  public func pack(isSelfAttention: Bool = true, context: AttentionContext = .default) throws {
    var projections = [queryProjection, keyProjection, valueProjection]
    if let stackedProjection, let keyValueProjection {
      // Keys that the layer adds follow the projected ones, so queries have a product of their own.
      projections =
        isSelfAttention && configuration.addedKeyCount == 0
        ? [stackedProjection] : [queryProjection, keyValueProjection]
    }
    for projection in projections { try projection.pack(context: context) }
    try outputProjection.pack(context: context)
  }

  /// How many matrices of weights are packed for an instruction set.
  package func packedCount(for instructionSet: InstructionSet) -> Int {
    let projections = [
      stackedProjection, keyValueProjection, queryProjection, keyProjection, valueProjection, outputProjection,
    ]
    return projections.count { $0?.isPacked(for: instructionSet) == true }
  }

  /// ``init(configuration:seed:)`` with default options.
  public init(embeddingDimension: Int, headCount: Int, seed: UInt64) throws {
    try self.init(
      configuration: Configuration(embeddingDimension: embeddingDimension, headCount: headCount), seed: seed)
  }
}
