internal import AttentionBLAS
internal import AttentionTensors

/// Multi-head attention: `Concat(head₁ … head_H) W_oᵀ + b_o`, `headₕ = softmax(Qₕ Kₕᵀ / √E) Vₕ`, where
/// `Q = query · W_qᵀ + b_q` and so on are cut into heads of width `E = d / H`.
///
/// What PyTorch's `nn.MultiheadAttention` computes, for inference. Heads are strides: nothing is permuted
/// in memory. Equal inputs share one product.
///
///     let layer = try MultiHeadAttention<Float>(embeddingWidth: 384, headCount: 12, seed: 1)
///     let y = try layer(x)                                      // self-attention, [B, L, 384]
///     let z = try layer(query: x, key: memory, value: memory)   // cross-attention
///
/// Weights, with `d` the embedding width, `Hk·E` the width of keys and values (`d` unless there are fewer
/// key/value heads), `[out, in]` as in PyTorch:
///
/// | here | shape | PyTorch | Keras `MultiHeadAttention` |
/// |---|---|---|---|
/// | `query_projection.weight` | `[d, d]` | rows `0 ..< d` of `in_proj_weight` `[3d, d]`, or `q_proj_weight` | `query/kernel` `[d, H, E]`, the transpose |
/// | `key_projection.weight` | `[Hk·E, kdim]` | rows `d ..< 2d`, or `k_proj_weight` `[d, kdim]` | `key/kernel` `[kdim, H, E]` |
/// | `value_projection.weight` | `[Hk·E, vdim]` | rows `2d ..< 3d`, or `v_proj_weight` `[d, vdim]` | `value/kernel` `[vdim, H, E]` |
/// | `….bias` | `[d]`, `[Hk·E]`, `[Hk·E]` | thirds of `in_proj_bias` `[3d]` | `….bias` `[H, E]` |
/// | `output_projection.weight` | `[d, d]` | `out_proj.weight` `[d, d]` | `attention_output/kernel` `[H, E, d]`, the transpose |
/// | `output_projection.bias` | `[d]` | `out_proj.bias` | `attention_output/bias` `[d]` |
/// | `bias_k`, `bias_v` | `[1, 1, Hk·E]` | `bias_k`, `bias_v` | none |
public struct MultiHeadAttention<Element: AttentionElement>: Sendable {
  /// The extents and options of a layer.
  public struct Configuration: Sendable, Hashable {
    /// d: width of the query and of the output.
    public var embeddingWidth: Int
    /// H.
    public var headCount: Int
    /// Hk: H, or a divisor of it for grouped-query attention.
    public var keyValueHeadCount: Int
    /// PyTorch's `kdim`.
    public var keyWidth: Int
    /// PyTorch's `vdim`.
    public var valueWidth: Int
    /// Whether the four projections have biases.
    public var hasBias: Bool
    /// PyTorch's `add_bias_kv`: one learned key and value more, to which every query may attend.
    public var addsBiasKeyValue: Bool
    /// PyTorch's `add_zero_attn`: one key and value of zeros more.
    public var addsZeroAttention: Bool

    /// A configuration; it is checked where a layer is made of it.
    ///
    /// - Parameters:
    ///   - embeddingWidth: d, a multiple of the heads.
    ///   - headCount: H.
    ///   - keyValueHeadCount: Hk, a divisor of H; default H.
    ///   - keyWidth: The width of the layer's key input; default d.
    ///   - valueWidth: The width of the layer's value input; default d.
    ///   - hasBias: Whether the projections have biases.
    ///   - addsBiasKeyValue: PyTorch's `add_bias_kv`.
    ///   - addsZeroAttention: PyTorch's `add_zero_attn`.
    public init(
      embeddingWidth: Int, headCount: Int, keyValueHeadCount: Int? = nil, keyWidth: Int? = nil, valueWidth: Int? = nil,
      hasBias: Bool = true, addsBiasKeyValue: Bool = false, addsZeroAttention: Bool = false
    ) {
      self.embeddingWidth = embeddingWidth
      self.headCount = headCount
      self.keyValueHeadCount = keyValueHeadCount ?? headCount
      self.keyWidth = keyWidth ?? embeddingWidth
      self.valueWidth = valueWidth ?? embeddingWidth
      self.hasBias = hasBias
      self.addsBiasKeyValue = addsBiasKeyValue
      self.addsZeroAttention = addsZeroAttention
    }

    /// E; 0 without heads.
    public var headWidth: Int { headCount > 0 ? embeddingWidth / headCount : 0 }
    /// Hk·E: width of projected keys and values.
    public var keyValueWidth: Int {
      let (width, overflow) = keyValueHeadCount.multipliedReportingOverflow(by: headWidth)
      return overflow ? .max : width
    }
    /// True if query, key and value have one input width, so that one matrix can project them.
    var hasStackedProjection: Bool { keyWidth == embeddingWidth && valueWidth == embeddingWidth }
    /// Keys that the layer adds behind the caller's.
    var addedKeyCount: Int { (addsBiasKeyValue ? 1 : 0) + (addsZeroAttention ? 1 : 0) }

    func check() throws(AttentionError) {
      try requireArgument(
        min(embeddingWidth, headCount, keyValueHeadCount, keyWidth, valueWidth) > 0
          && max(embeddingWidth, headCount, keyWidth, valueWidth) <= Int(Int32.max)
          && embeddingWidth % headCount == 0 && headCount % keyValueHeadCount == 0, "MultiHeadAttention",
        "a width that divides by its heads, and heads by the key/value heads, expected; got width \(embeddingWidth), "
          + "\(headCount) heads, \(keyValueHeadCount) key/value heads, key width \(keyWidth), value width \(valueWidth)"
      )
    }
  }

  /// `y = x · weightᵀ + bias`.
  struct Projection: Sendable {
    /// `[out, in]`.
    var weight: Tensor<Element>
    /// `[out]`.
    var bias: Tensor<Element>?

    /// Some of the outputs: views of weight and bias.
    func outputs(_ range: Range<Int>) throws -> Projection {
      Projection(weight: try weight.slice(range, axis: 0), bias: try bias?.slice(range, axis: 0))
    }

    /// Several projections of one input as one.
    static func stacked(_ parts: [Projection]) throws -> Projection {
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
      return Projection(weight: try stack(parts.map(\.weight))!, bias: try stack(parts.compactMap(\.bias)))
    }
  }

  /// The extents and options.
  public let configuration: Configuration
  /// Query, key and value in one matrix, `[d + 2·Hk·E, d]`, where their inputs have one width: so equal
  /// inputs take one product. The three below are views of it then.
  let stackedProjection: Projection?
  let queryProjection: Projection
  let keyProjection: Projection
  let valueProjection: Projection
  let outputProjection: Projection
  /// `[Hk·E]`.
  let biasKey: Tensor<Element>?
  let biasValue: Tensor<Element>?

  /// A layer of projections that fit each other. `stacked` is what the first three are views of, if they are.
  init(
    configuration: Configuration, stacked: Projection? = nil, query: Projection, key: Projection, value: Projection,
    output: Projection, biasKey: Tensor<Element>?, biasValue: Tensor<Element>?
  ) throws {
    self.configuration = configuration
    if configuration.hasStackedProjection {
      let stacked = try stacked ?? .stacked([query, key, value])
      let keyEnd = configuration.embeddingWidth + configuration.keyValueWidth
      stackedProjection = stacked
      queryProjection = try stacked.outputs(0..<configuration.embeddingWidth)
      keyProjection = try stacked.outputs(configuration.embeddingWidth..<keyEnd)
      valueProjection = try stacked.outputs(keyEnd..<keyEnd + configuration.keyValueWidth)
    } else {
      stackedProjection = nil
      queryProjection = query
      keyProjection = key
      valueProjection = value
    }
    outputProjection = output
    self.biasKey = biasKey
    self.biasValue = biasValue
  }

  /// A layer with random weights, as PyTorch initialises it: Xavier-uniform projections, zero biases,
  /// Xavier-normal `bias_k` and `bias_v`; the output's weights uniform on ±1/√d.
  ///
  /// - Parameters:
  ///   - configuration: Extents and options.
  ///   - seed: The same seed gives the same layer on every machine.
  /// - Throws: `AttentionError` where the extents do not fit each other.
  ///
  /// Source: Glorot and Bengio 2010, equation 16: uniform on ±√(6 / (in + out)). As in PyTorch, query, key
  /// and value count as one matrix (out = d + 2·Hk·E) where their inputs have one width.
  public init(configuration: Configuration, seed: UInt64) throws {
    try configuration.check()
    var generator = SeededGenerator(seed: seed)
    let width = configuration.embeddingWidth
    let keyValueWidth = configuration.keyValueWidth
    func projection(_ input: Int, _ output: Int, bound: Double? = nil) throws -> Projection {
      let fanOut = configuration.hasStackedProjection ? width + 2 * keyValueWidth : output
      let bound = bound ?? (6 / Double(input + fanOut)).squareRoot()
      return Projection(
        weight: try Tensor(uniform: -bound..<bound, shape: [output, input], seed: generator.next()),
        bias: configuration.hasBias ? try Tensor(repeating: 0, shape: [output]) : nil)
    }
    func normal() throws -> Tensor<Element>? {
      guard configuration.addsBiasKeyValue else { return nil }
      // PyTorch counts [1, 1, n] as fan-in n, fan-out n: deviation √(2 / 2n).
      return try Tensor(
        normalWithDeviation: 1 / Double(keyValueWidth).squareRoot(), shape: [keyValueWidth], seed: generator.next())
    }
    try self.init(
      configuration: configuration,
      query: projection(width, width), key: projection(configuration.keyWidth, keyValueWidth),
      value: projection(configuration.valueWidth, keyValueWidth),
      output: projection(width, width, bound: 1 / Double(width).squareRoot()),
      biasKey: normal(), biasValue: normal())
  }

  /// ``init(configuration:seed:)`` with default options.
  public init(embeddingWidth: Int, headCount: Int, seed: UInt64) throws {
    try self.init(configuration: Configuration(embeddingWidth: embeddingWidth, headCount: headCount), seed: seed)
  }
}
