internal import AttentionBLAS
public import AttentionTensors

/// The gradients of the inputs of one call of ``MultiHeadAttention``.
public struct MultiHeadInputGradients<Element: AttentionElement>: Sendable {
  /// The gradient of the query input, of its shape.
  public let query: Tensor<Element>
  /// The gradient of the key input, of its shape.
  public let key: Tensor<Element>
  /// The gradient of the value input, of its shape.
  public let value: Tensor<Element>
  private let attention: AttentionGradients<Element, Element>

  fileprivate init(
    query: Tensor<Element>, key: Tensor<Element>, value: Tensor<Element>,
    attention: AttentionGradients<Element, Element>
  ) {
    self.query = query
    self.key = key
    self.value = value
    self.attention = attention
  }

  /// The gradients of the mask's biases: ``AttentionGradients/biases``.
  public var biases: [Tensor<Element>] { get throws(AttentionError) { try attention.biases } }
  /// The gradients of the slopes of the mask's linear biases: ``AttentionGradients/alibiSlopes``.
  public var alibiSlopes: [Tensor<Element>] { get throws(AttentionError) { try attention.alibiSlopes } }
  /// The gradients of the parameters of the mask's function of scores: ``AttentionGradients/scoreParameters``.
  public var scoreParameters: Tensor<Element> { get throws(AttentionError) { try attention.scoreParameters } }
}

extension MultiHeadAttention {
  /// The output of self-attention, and its backward pass.
  ///
  /// - Parameters:
  ///   - x: `[B, L, d]` or `[L, d]`.
  ///   - mask: Which keys each query may attend to.
  ///   - dropout: Dropout of the attention weights. Nil: none.
  ///   - context: Threads, instruction set, algorithm, also those of the backward pass.
  /// - Returns: A tensor of the shape of `x`, and a pullback that returns the gradient of `x`.
  /// - Throws: `AttentionError` if shapes disagree.
  public func valueWithPullback(
    _ x: Tensor<Element>, mask: AttentionMask = .none, dropout: AttentionDropout? = nil,
    context: AttentionContext = .default
  ) throws -> (value: Tensor<Element>, pullback: Pullback<Element, Tensor<Element>>) {
    let call = try TrainingCall(self, x, x, x, mask, dropout, context)
    let pullback = Pullback<Element, Tensor<Element>>(Self.subject, outputShape: call.value.shape) {
      outputGradient, gradients, prefix in
      let projected = try call.projectedGradients(outputGradient, [], adding: &gradients, prefix)
      // forward: Q = x·Wqᵀ, K = x·Wkᵀ, V = x·Wvᵀ  ⇒  dx = dQ·Wq + dK·Wk + dV·Wv
      var gradient = try matmul(projected.query, call.layer.queryProjection.weight, context: context)
      try gradient.withMutableView { view in
        try matmul(projected.key, call.layer.keyProjection.weight, .accumulating, into: &view, context: context)
        try matmul(projected.value, call.layer.valueProjection.weight, .accumulating, into: &view, context: context)
      }
      return try gradient.reshaped(x.shape)
    }
    return (call.value, pullback)
  }

  /// The output of attention of `query` over `key` and `value`, and its backward pass.
  ///
  /// The pullback adds the gradients of all parameters under the names of ``forEachParameter(prefix:_:)``. It saves the
  /// inputs, the projected queries, keys and values, the heads' results and the log-sum-exp; with a norm of queries and
  /// keys, also the projections before the norm.
  ///
  /// - Parameters:
  ///   - query: `[B, L, d]` or `[L, d]`.
  ///   - key: `[B, S, kdim]` or `[S, kdim]`.
  ///   - value: `[B, S, vdim]` or `[S, vdim]`.
  ///   - mask: Which keys each query may attend to. A function of scores needs a derivative.
  ///   - dropout: Dropout of the attention weights. Nil: none.
  ///   - extras: The gradients of the mask that the pullback returns besides those of the inputs. Gradients of sinks are among
  ///     those of the parameters.
  ///   - context: Threads, instruction set, algorithm, also those of the backward pass.
  /// - Returns: A tensor of the query's shape, and a pullback that returns the gradients of query, key and value. If
  ///   two inputs are the same tensor, their gradients are not added up.
  /// - Throws: `AttentionError` if shapes disagree, or if the mask's gradients are asked for and the layer adds keys of its
  ///   own.
  public func valueWithPullback(
    query: Tensor<Element>, key: Tensor<Element>, value: Tensor<Element>, mask: AttentionMask = .none,
    dropout: AttentionDropout? = nil, returning extras: AttentionGradientExtras = [],
    context: AttentionContext = .default
  ) throws -> (value: Tensor<Element>, pullback: Pullback<Element, MultiHeadInputGradients<Element>>) {
    let extras = extras.subtracting(.sinks)
    guard extras.isEmpty || configuration.addedKeyCount == 0 else {
      throw AttentionError(
        .unsupported, Self.subject, "no keys of the layer's own expected if gradients of the mask are asked for")
    }
    let call = try TrainingCall(self, query, key, value, mask, dropout, context)
    let pullback = Pullback<Element, MultiHeadInputGradients<Element>>(Self.subject, outputShape: call.value.shape) {
      outputGradient, gradients, prefix in
      let projected = try call.projectedGradients(outputGradient, extras, adding: &gradients, prefix)
      func input(
        _ gradient: Tensor<Element>, _ projection: Linear<Element>, _ x: Tensor<Element>
      ) throws -> Tensor<Element> {
        try matmul(gradient, projection.weight, context: context).reshaped(x.shape)
      }
      return MultiHeadInputGradients(
        query: try input(projected.query, call.layer.queryProjection, query),
        key: try input(projected.key, call.layer.keyProjection, key),
        value: try input(projected.value, call.layer.valueProjection, value), attention: projected.attention)
    }
    return (call.value, pullback)
  }

  private static var subject: String { "MultiHeadAttention" }

  /// A call, and what it saved for its backward pass.
  private struct TrainingCall: Sendable {
    let layer: MultiHeadAttention
    /// The output, of the query's shape.
    let value: Tensor<Element>
    private let query: Tensor<Element>
    private let keyInput: Tensor<Element>
    private let valueInput: Tensor<Element>
    private let attended: Attended
    private let options: AttentionOptions<Element>
    private let outputPullback: Pullback<Element, Tensor<Element>>
    private let context: AttentionContext

    init(
      _ layer: MultiHeadAttention, _ query: Tensor<Element>, _ key: Tensor<Element>, _ value: Tensor<Element>,
      _ mask: AttentionMask, _ dropout: AttentionDropout?, _ context: AttentionContext
    ) throws {
      try layer.check(query, key, value)
      func batched(_ x: Tensor<Element>) throws -> Tensor<Element> { x.rank == 2 ? try x.reshaped([1] + x.shape) : x }
      self.layer = layer
      self.query = try batched(query)
      keyInput = try batched(key)
      valueInput = try batched(value)
      self.context = context
      var options = layer.options
      options.dropout = dropout
      self.options = options
      attended = try layer.attend(
        self.query, keyInput, valueInput, mask, options, returning: .logSumExp,
        keepsUnplaced: layer.configuration.normEpsilon != nil, context: context)
      let heads = attended.result.output
      let (output, pullback) = try layer.outputProjection.valueWithPullback(
        heads.reshaped([heads.shape[0], heads.shape[1], layer.configuration.projectedQueryDimension]),
        context: context)
      outputPullback = pullback
      self.value = try output.reshaped(query.shape)
    }

    /// The gradients of what the three input projections return, `[rows, columns]` each, and those of attention.
    struct ProjectedGradients {
      let query: Tensor<Element>
      let key: Tensor<Element>
      let value: Tensor<Element>
      let attention: AttentionGradients<Element, Element>
    }

    /// Goes back through the output projection and attention, and adds the gradients of all parameters.
    func projectedGradients(
      _ outputGradient: Tensor<Element>, _ extras: AttentionGradientExtras,
      adding gradients: inout ParameterGradients<Element>, _ prefix: String
    ) throws -> ProjectedGradients {
      let result = attended.result
      let batchedShape = [query.shape[0], query.shape[1], layer.configuration.embeddingDimension]
      let headGradient = try outputPullback(
        outputGradient.reshaped(batchedShape), adding: &gradients, prefix: prefix + "out_proj.")
      let wantsSinks = layer.sinks != nil && gradients.wants(prefix + "sinks")
      let inputs = attended.inputs
      let attention = try scaledDotProductAttentionGradients(
        query: layer.heads(inputs, inputs.query), key: layer.heads(inputs, inputs.key),
        value: layer.heads(inputs, inputs.value), mask: attended.mask, options: options, result: result,
        outputGradient: headGradient.reshaped(result.output.shape),
        returning: wantsSinks ? extras.union(.sinks) : extras,
        context: context)
      if wantsSinks { try gradients.add(attention.sinks, to: prefix + "sinks", context: context) }

      var (queries, keys) = (attention.query, attention.key)
      let ownKeyCount = keyInput.shape[1]
      try addAddedRows(keys, "bias_k", layer.biasKey, to: &gradients, prefix)
      try addAddedRows(attention.value, "bias_v", layer.biasValue, to: &gradients, prefix)
      keys = try keys.slice(0..<ownKeyCount, axis: 1)
      let values = try attention.value.slice(0..<ownKeyCount, axis: 1)
      if let tables = attended.tables {
        try tables.query.inverse.rotate(&queries, layout: .lengthFirst, context: context)
        try tables.key.inverse.rotate(&keys, layout: .lengthFirst, context: context)
      }
      if let unplaced = attended.unplaced {
        try unnormalize(
          &queries, unplaced, unplaced.query, layer.queryNorm, &gradients, prefix + "query_norm.")
        try unnormalize(&keys, unplaced, unplaced.key, layer.keyNorm, &gradients, prefix + "key_norm.")
      }
      func rows(_ x: Tensor<Element>) throws -> Tensor<Element> {
        try x.reshaped([x.shape[0] * x.shape[1], x.shape[2] * x.shape[3]])
      }
      let projected = ProjectedGradients(
        query: try rows(queries), key: try rows(keys), value: try rows(values), attention: attention)
      try addProjections(projected, to: &gradients, prefix)
      return projected
    }

    /// forward: K = [x·Wkᵀ + b_k; bias_k; 0] for each sample  ⇒  dbias_k += Σ dK[row of bias_k], over the samples
    private func addAddedRows(
      _ gradient: Tensor<Element>, _ name: String, _ bias: Tensor<Element>?,
      to gradients: inout ParameterGradients<Element>, _ prefix: String
    ) throws {
      guard let bias, gradients.wants(prefix + name) else { return }
      let row = try gradient.select(keyInput.shape[1], axis: 1).reshaped([gradient.shape[0], bias.count])
      try gradients.add(
        columnSums(row.contiguous(), context).reshaped([1, 1, bias.count]), to: prefix + name, context: context)
    }

    /// Goes back through the norm of queries or keys. On entry, `gradient`, `[B, L, heads, E]`, is the gradient of the
    /// normalised rows. On return, it is that of the projected rows, contiguous.
    private func unnormalize(
      _ gradient: inout Tensor<Element>, _ inputs: ProjectedInputs<Element>,
      _ columns: ProjectedInputs<Element>.Columns,
      _ norm: RMSNorm<Element>?, _ gradients: inout ParameterGradients<Element>, _ prefix: String
    ) throws {
      guard let norm else { return }
      let x = try layer.heads(inputs, columns)
      let (tokenCount, headCount, dimension) = (gradient.shape[1], gradient.shape[2], gradient.shape[3])
      let itemCount = gradient.shape[0] * tokenCount
      let (source, strides) = (UncheckedSendable(x.base), x.strides)
      gradient = try gradient.contiguous()
      let sums = try gradient.withMutableView { view in
        let base = UncheckedSendable(view.base)
        return try norm.rows.sumParameterGradients(
          rowCount: itemCount, rowsPerItem: headCount, gradients, prefix, context
        ) { items, sums, kernels in
          for item in items {
            let (batch, token) = item.quotientAndRemainder(dividingBy: tokenCount)
            norm.rows.backward(
              rowCount: headCount, source.value + (batch * strides[0] + token * strides[1]), stride: strides[2],
              residual: nil, residualStride: 0, gradient: base.value + item * headCount * dimension, stride: dimension,
              addingTo: sums, kernels)
          }
        }
      }
      withExtendedLifetime(x) {}
      try norm.rows.add(sums, to: &gradients, prefix, context)
    }

    /// forward: Q = query·Wqᵀ + b_q, and so on  ⇒  dWq += dQᵀ·query, db_q += Σ dQ
    private func addProjections(
      _ projected: ProjectedGradients, to gradients: inout ParameterGradients<Element>, _ prefix: String
    ) throws {
      func flat(_ x: Tensor<Element>) throws -> Tensor<Element> {
        try x.reshaped([x.shape[0] * x.shape[1], x.shape[2]])
      }
      let stackedRows = layer.configuration.stackedRows
      let parts: [(gradient: Tensor<Element>, input: Tensor<Element>, rows: Range<Int>, letter: String)] = [
        (projected.query, try flat(query), stackedRows.query, "q"),
        (projected.key, try flat(keyInput), stackedRows.key, "k"),
        (projected.value, try flat(valueInput), stackedRows.value, "v"),
      ]
      if let stacked = layer.stackedProjection {
        try gradients.accumulate(prefix + "in_proj_weight", shape: stacked.weight.shape) { view, mode in
          for part in parts {
            try view.withSlice(part.rows, axis: 0) {
              try matmul(part.gradient.transposed(), part.input, mode, into: &$0, context: context)
            }
          }
        }
      } else {
        for part in parts {
          let shape = [part.rows.count, part.input.shape[1]]
          try gradients.accumulate(prefix + "\(part.letter)_proj_weight", shape: shape) { view, mode in
            try matmul(part.gradient.transposed(), part.input, mode, into: &view, context: context)
          }
        }
      }
      guard layer.queryProjection.bias != nil, gradients.wants(prefix + "in_proj_bias") else { return }
      let sums = try parts.map { try columnSums($0.gradient, context) }
      try gradients.add(
        Tensor(sums.flatMap(\.array), shape: [stackedRows.value.upperBound]), to: prefix + "in_proj_bias",
        context: context)
    }
  }
}

extension RotaryTable {
  /// The table that turns rows back: the transpose of each rotation.
  fileprivate var inverse: RotaryTable {
    get throws { try RotaryTable(cosines: cosines, sines: negated(sines), pairing: pairing) }
  }

  private func negated(_ x: Tensor<Element>) throws -> Tensor<Element> {
    try Tensor(shape: x.shape) { target in
      try x.withUnsafeBufferPointer { source in
        for i in source.indices { target[i] = -source[i] }
      }
    }
  }
}
