internal import AttentionBLAS
public import AttentionTensors

/// Which attention weights ``MultiHeadAttention`` returns.
public enum MultiHeadWeights: Sendable, Hashable {
  /// No weights.
  case none
  /// `[B, H, L, S]`.
  case perHead
  /// `[B, L, S]`, the mean over heads: PyTorch's default.
  case averaged
}

/// The results of one call of ``MultiHeadAttention``.
public struct MultiHeadResult<Element: AttentionElement>: Sendable {
  /// `[B, L, d]`.
  public let output: Tensor<Element>
  /// `[B, L, d]`: the heads' results side by side, before the output projection.
  public let context: Tensor<Element>
  /// Nil unless asked for. S counts the keys that the layer adds.
  public let weights: Tensor<Element>?
}

extension MultiHeadAttention {
  /// Self-attention.
  ///
  /// - Parameters:
  ///   - x: `[B, L, d]` or `[L, d]`.
  ///   - mask: Broadcasts to `[B, H, L, L]`.
  ///   - context: Threads, instruction set, algorithm.
  /// - Returns: The shape of `x`.
  /// - Throws: `AttentionError` where shapes disagree.
  public func callAsFunction(
    _ x: Tensor<Element>, mask: AttentionMask = .none, context: AttentionContext = .default
  ) throws -> Tensor<Element> {
    try forward(query: x, key: x, value: x, mask: mask, context: context).output
  }

  /// Cross-attention: ``forward(query:key:value:mask:weights:context:)``, the output alone.
  public func callAsFunction(
    query: Tensor<Element>, key: Tensor<Element>, value: Tensor<Element>, mask: AttentionMask = .none,
    context: AttentionContext = .default
  ) throws -> Tensor<Element> {
    try forward(query: query, key: key, value: value, mask: mask, context: context).output
  }

  /// Attention of `query` over `key` and `value`, with what happens on the way.
  ///
  /// - Parameters:
  ///   - query: `[B, L, d]` or `[L, d]`.
  ///   - key: `[B, S, kdim]` or `[S, kdim]`. The same view as `value` or `query` shares their product.
  ///   - value: `[B, S, vdim]` or `[S, vdim]`.
  ///   - mask: Broadcasts to `[B, H, L, S]`. Keys that the layer adds are always attended.
  ///   - weights: Whether attention weights are returned.
  ///   - context: Threads, instruction set, algorithm.
  /// - Returns: Output and context of the query's shape, and the weights if asked for.
  /// - Throws: `AttentionError` where shapes disagree.
  public func forward(
    query: Tensor<Element>, key: Tensor<Element>, value: Tensor<Element>, mask: AttentionMask = .none,
    weights: MultiHeadWeights = .none, context: AttentionContext = .default
  ) throws -> MultiHeadResult<Element> {
    try check(query, key, value)
    if query.rank == 2 {
      func batched(_ x: Tensor<Element>) throws -> Tensor<Element> { try x.reshaped([1] + x.shape) }
      let result = try forward(
        query: batched(query), key: batched(key), value: batched(value), mask: mask, weights: weights, context: context)
      return MultiHeadResult(
        output: try result.output.select(0, axis: 0), context: try result.context.select(0, axis: 0),
        weights: try result.weights?.select(0, axis: 0))
    }

    let (q, k, v) = try projectInputs(query, key, value, context)
    let heads = [query.shape[0], query.shape[1], configuration.headCount, configuration.headWidth]
    let result = try scaledDotProductAttention(
      query: q.reshaped(heads),
      key: k.reshaped([k.shape[0], k.shape[1], configuration.keyValueHeadCount, configuration.headWidth]),
      value: v.reshaped([v.shape[0], v.shape[1], configuration.keyValueHeadCount, configuration.headWidth]),
      mask: mask.appendingAttendedKeys(configuration.addedKeyCount), layout: .lengthFirst,
      returning: weights == .none ? [] : .weights, context: context)
    let concatenated = try result.output.reshaped(query.shape)
    var output = try Tensor<Element>(uninitializedShape: query.shape)
    try output.withMutableView { try outputProjection.apply(to: concatenated, into: &$0, context) }
    return MultiHeadResult(
      output: output, context: concatenated,
      weights: weights == .averaged ? try result.weights.map(averageHeads) : result.weights)
  }

  private func check(
    _ query: Tensor<Element>, _ key: Tensor<Element>, _ value: Tensor<Element>
  ) throws(AttentionError) {
    let isRight =
      (2...3).contains(query.rank) && key.rank == query.rank && value.rank == query.rank
      && query.shape.last == configuration.embeddingWidth && key.shape.last == configuration.keyWidth
      && value.shape.last == configuration.valueWidth && key.shape.dropLast() == value.shape.dropLast()
      && query.shape.dropLast(2) == key.shape.dropLast(2)
      && (query.shape + key.shape).allSatisfy { $0 < Int(Int32.max) - 1 }
    try requireShape(
      isRight, "MultiHeadAttention",
      "query [B, L, \(configuration.embeddingWidth)], key [B, S, \(configuration.keyWidth)], "
        + "value [B, S, \(configuration.valueWidth)], or all without B, expected; got query \(query.shape), "
        + "key \(key.shape), value \(value.shape)")
  }

  /// Q `[B, L, d]`, K and V `[B, S + added, Hk·E]`: views of as few products as the inputs allow.
  private func projectInputs(
    _ query: Tensor<Element>, _ key: Tensor<Element>, _ value: Tensor<Element>, _ context: AttentionContext
  ) throws -> (Tensor<Element>, Tensor<Element>, Tensor<Element>) {
    let width = configuration.embeddingWidth
    let keyValueWidth = configuration.keyValueWidth
    let added = configuration.addedKeyCount
    func project(_ x: Tensor<Element>, _ projection: Projection, added: Int = 0) throws -> Tensor<Element> {
      var result = try Tensor<Element>(
        uninitializedShape: [x.shape[0], x.shape[1] + added, projection.weight.shape[0]])
      try result.withMutableView { view in
        try view.withSlice(0..<x.shape[1], axis: 1) { try projection.apply(to: x, into: &$0, context) }
      }
      return result
    }
    if let stackedProjection, added == 0, query.isSameView(as: key), key.isSameView(as: value) {
      let all = try project(query, stackedProjection)
      return (
        try all.slice(0..<width, axis: 2), try all.slice(width..<width + keyValueWidth, axis: 2),
        try all.slice(width + keyValueWidth..<width + 2 * keyValueWidth, axis: 2)
      )
    }
    let q = try project(query, queryProjection)
    if let stackedProjection, key.isSameView(as: value) {
      var both = try project(key, stackedProjection.outputs(width..<width + 2 * keyValueWidth), added: added)
      try appendKeys(&both, 0..<keyValueWidth, biasKey)
      try appendKeys(&both, keyValueWidth..<2 * keyValueWidth, biasValue)
      return (
        q, try both.slice(0..<keyValueWidth, axis: 2), try both.slice(keyValueWidth..<2 * keyValueWidth, axis: 2)
      )
    }
    var k = try project(key, keyProjection, added: added)
    var v = try project(value, valueProjection, added: added)
    try appendKeys(&k, 0..<keyValueWidth, biasKey)
    try appendKeys(&v, 0..<keyValueWidth, biasValue)
    return (q, k, v)
  }

  /// Writes the keys (or values) that the layer adds behind the projected ones: the bias, then zeros.
  private func appendKeys(_ projected: inout Tensor<Element>, _ columns: Range<Int>, _ bias: Tensor<Element>?) throws {
    if configuration.addedKeyCount == 0 { return }
    let end = projected.shape[1]
    let zeros = configuration.addsZeroAttention ? 1 : 0
    try projected.withMutableView { view in
      try view.withSlice(columns, axis: 2) { part in
        if let bias { try part.withSlice(end - zeros - 1..<end - zeros, axis: 1) { try $0.copy(from: bias) } }
        try part.withSlice(end - zeros..<end, axis: 1) { $0.fill(0) }
      }
    }
  }

  /// `[B, H, L, S]` → `[B, L, S]`.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  private func averageHeads(_ weights: Tensor<Element>) throws -> Tensor<Element> {
    let (batchCount, headCount, plane) = (weights.shape[0], weights.shape[1], weights.shape[2] * weights.shape[3])
    return try Tensor(shape: [batchCount, weights.shape[2], weights.shape[3]]) { target in
      target.initialize(repeating: 0)
      try weights.withUnsafeBufferPointer { source in
        for batch in 0..<batchCount {
          for head in 0..<headCount {
            let from = (batch * headCount + head) * plane
            for i in 0..<plane { target[batch * plane + i] += source[from + i] }
          }
        }
      }
      for i in target.indices { target[i] /= Element(headCount) }
    }
  }
}

extension MultiHeadAttention.Projection {
  /// result ← x · weightᵀ + bias, `[B, L, in]` to `[B, L, out]`.
  func apply(
    to x: Tensor<Element>, into result: inout MutableTensorView<Element>, _ context: AttentionContext
  ) throws {
    if let bias { try result.copy(from: bias) }
    try matmul(x, weight.transposed(), bias == nil ? .replacing : .accumulating, into: &result, context: context)
  }
}
