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
  /// `[B, L, H·E]`: the heads' results side by side, before the output projection.
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
  /// Where the layer has rotary positions, the last query stands where the last key does.
  ///
  /// - Parameters:
  ///   - query: `[B, L, d]` or `[L, d]`.
  ///   - key: `[B, S, kdim]` or `[S, kdim]`. The same view as `value` or `query` shares their product.
  ///   - value: `[B, S, vdim]` or `[S, vdim]`.
  ///   - mask: Broadcasts to `[B, H, L, S]`. Keys that the layer adds are always attended; the layer's window restricts it.
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

    let (queryCount, keyCount) = (query.shape[1], key.shape[1])
    let tables = try configuration.rotary.map { rotary in
      let length = max(queryCount, keyCount)
      func table(_ count: Int) throws -> RotaryTable<Element> {
        try rotary.table(.startingAt(length - count), count: count, length: length)
      }
      let keys = try table(keyCount)
      return (queryCount == keyCount ? keys : try table(queryCount), keys)
    }
    let (q, k, v) = try projectInputs(query, key, value, tables, context)
    var mask = mask
    // Among the caller's keys: those that the layer adds stand behind them.
    if let window = configuration.window { mask = mask.intersection(.window(left: window - 1, right: nil)) }
    let result = try scaledDotProductAttention(
      query: heads(q, configuration.headCount), key: heads(k, configuration.keyValueHeadCount),
      value: heads(v, configuration.keyValueHeadCount), mask: mask.appendingAttendedKeys(configuration.addedKeyCount),
      scale: configuration.scale, softcap: configuration.softcap, sinks: sinks, layout: .lengthFirst,
      returning: weights == .none ? [] : .weights, context: context)
    return try project(result, weights, context)
  }

  /// Self-attention of new tokens, after those that a cache holds: it takes their keys and values.
  ///
  /// - Parameters:
  ///   - x: `[B, L, d]`: the new tokens.
  ///   - cache: Of this layer alone, with its key/value heads and head width.
  ///   - counts: How many of the L tokens each sample takes, the first ones; nil: all. Others give 0 before the output
  ///     projection.
  ///   - positions: Where the tokens stand, for rotary positions; nil: behind those in the cache.
  ///   - mask: Restricts the cache's mask and the layer's window further.
  ///   - weights: Whether attention weights are returned.
  ///   - context: Threads, instruction set, algorithm.
  /// - Returns: Output and context of the tokens, and the weights if asked for.
  /// - Throws: `AttentionError` where shapes disagree, and for layers that add keys of their own; then no token is added.
  public func forward<Cached: AttentionStorage>(
    _ x: Tensor<Element>, cache: KeyValueCache<Cached>, counts: [Int]? = nil, positions: TokenPositions? = nil,
    mask: AttentionMask = .none, weights: MultiHeadWeights = .none, context: AttentionContext = .default
  ) throws -> MultiHeadResult<Element> where Cached.Arithmetic == Element {
    try check(x, x, x)
    try requireShape(
      x.rank == 3 && configuration.addedKeyCount == 0, "MultiHeadAttention",
      "tokens [B, L, d], and a layer without keys of its own, expected with a cache; got \(x.shape), "
        + "\(configuration.addedKeyCount) keys")
    let table: RotaryTable<Element>? = try configuration.rotary.map {
      try $0.table(positions ?? .startingAtEach(cache.lengths), count: x.shape[1])
    }
    let (q, k, v) = try projectInputs(x, x, x, table.map { ($0, $0) }, context)
    let before = cache.lengths
    try cache.append(
      key: heads(k, configuration.keyValueHeadCount), value: heads(v, configuration.keyValueHeadCount), counts: counts,
      layout: .lengthFirst)
    do {
      var mask = mask
      if let window = configuration.window, !cache.hasWindow(within: window) {
        mask = mask.intersection(.window(left: window - 1, right: nil))
      }
      let result = try scaledDotProductAttention(
        query: heads(q, configuration.headCount), cache: cache, mask: mask, scale: configuration.scale,
        softcap: configuration.softcap, sinks: sinks, layout: .lengthFirst,
        returning: weights == .none ? [] : .weights, context: context)
      return try project(result, weights, context)
    } catch {
      // A wrong mask is found when the tokens are in: out with them, so that the call can be made again.
      try? cache.truncate(to: before)
      throw error
    }
  }

  /// `[B, L, heads·E]` as `[B, L, heads, E]`.
  private func heads(_ x: Tensor<Element>, _ count: Int) throws -> Tensor<Element> {
    try x.reshaped([x.shape[0], x.shape[1], count, configuration.headWidth])
  }

  private func project(
    _ result: AttentionResult<Element>, _ weights: MultiHeadWeights, _ context: AttentionContext
  ) throws -> MultiHeadResult<Element> {
    let rows = Array(result.output.shape.prefix(2))
    let concatenated = try result.output.reshaped(rows + [configuration.queryWidth])
    var output = try Tensor<Element>(uninitializedShape: rows + [configuration.embeddingWidth])
    try output.withMutableView { try outputProjection.apply(to: concatenated, into: &$0, context: context) }
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

  /// Q `[B, L, H·E]`, K and V `[B, S + added, Hk·E]`, normalised and turned: views of as few products as the inputs allow.
  private func projectInputs(
    _ query: Tensor<Element>, _ key: Tensor<Element>, _ value: Tensor<Element>,
    _ tables: (query: RotaryTable<Element>, key: RotaryTable<Element>)?, _ context: AttentionContext
  ) throws -> (Tensor<Element>, Tensor<Element>, Tensor<Element>) {
    let queries = 0..<configuration.queryWidth
    let keyValueWidth = configuration.keyValueWidth
    let keys = queries.upperBound..<queries.upperBound + keyValueWidth
    let values = keys.upperBound..<keys.upperBound + keyValueWidth
    let added = configuration.addedKeyCount
    func project(_ x: Tensor<Element>, _ projection: Linear<Element>, added: Int = 0) throws -> Tensor<Element> {
      var result = try Tensor<Element>(
        uninitializedShape: [x.shape[0], x.shape[1] + added, projection.outputWidth])
      try result.withMutableView { view in
        try view.withSlice(0..<x.shape[1], axis: 1) { try projection.apply(to: x, into: &$0, context: context) }
      }
      return result
    }
    if let stackedProjection, added == 0, query.isSameView(as: key), key.isSameView(as: value) {
      var all = try project(query, stackedProjection)
      try place(&all, queries, query.shape[1], queryNorm, tables?.query, context)
      try place(&all, keys, key.shape[1], keyNorm, tables?.key, context)
      return (
        try all.slice(queries, axis: 2), try all.slice(keys, axis: 2), try all.slice(values, axis: 2)
      )
    }
    var q = try project(query, queryProjection)
    try place(&q, queries, query.shape[1], queryNorm, tables?.query, context)
    if let keyValueProjection, key.isSameView(as: value) {
      var both = try project(key, keyValueProjection, added: added)
      try place(&both, 0..<keyValueWidth, key.shape[1], keyNorm, tables?.key, context)
      try appendKeys(&both, 0..<keyValueWidth, biasKey)
      try appendKeys(&both, keyValueWidth..<2 * keyValueWidth, biasValue)
      return (
        q, try both.slice(0..<keyValueWidth, axis: 2), try both.slice(keyValueWidth..<2 * keyValueWidth, axis: 2)
      )
    }
    var k = try project(key, keyProjection, added: added)
    var v = try project(value, valueProjection, added: added)
    try place(&k, 0..<keyValueWidth, key.shape[1], keyNorm, tables?.key, context)
    try appendKeys(&k, 0..<keyValueWidth, biasKey)
    try appendKeys(&v, 0..<keyValueWidth, biasValue)
    return (q, k, v)
  }

  /// Normalises and turns the heads in some columns of the first tokens of `[B, L, columns]`, in place.
  private func place(
    _ projected: inout Tensor<Element>, _ columns: Range<Int>, _ tokenCount: Int, _ norm: Tensor<Element>?,
    _ table: RotaryTable<Element>?, _ context: AttentionContext
  ) throws {
    if norm == nil && table == nil { return }
    try projected.withMutableView { try place(&$0, columns, tokenCount, norm, table, context) }
  }

  func place(
    _ view: inout MutableTensorView<Element>, _ columns: Range<Int>, _ tokenCount: Int, _ norm: Tensor<Element>?,
    _ table: RotaryTable<Element>?, _ context: AttentionContext
  ) throws {
    let width = configuration.headWidth
    var heads = MutableTensorView(
      base: view.base + columns.lowerBound * view.strides[2],
      shape: [view.shape[0], tokenCount, columns.count / width, width],
      strides: [view.strides[0], view.strides[1], width * view.strides[2], view.strides[2]])
    if let norm, let epsilon = configuration.normEpsilon {
      normalize(&heads, by: try norm.contiguous(), epsilon: Element(nearest: epsilon), context)
    }
    try table?.rotate(&heads, layout: .lengthFirst, context: context)
  }

  /// x ← x / √(mean(x²) + ε) · weight for every row of `[B, L, heads, E]`. Source: Zhang and Sennrich 2019
  /// (arXiv:1910.07467), equation 4.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  private func normalize(
    _ x: inout MutableTensorView<Element>, by weight: Tensor<Element>, epsilon: Element, _ context: AttentionContext
  ) {
    let (shape, strides, width) = (x.shape, x.strides, x.shape[3])
    let base = UncheckedSendable(x.base)
    let work = 4 * Double(shape.reduce(1, *))
    context.execute(
      pieceCount: shape[0] * shape[1], width: work < ProductCut.leastSharedWork ? 1 : context.threadCount
    ) { piece, _ in
      let (batch, token) = piece.quotientAndRemainder(dividingBy: shape[1])
      for head in 0..<shape[2] {
        let row = base.value + (batch * strides[0] + token * strides[1] + head * strides[2])
        var sum: Element = 0
        for i in 0..<width { sum += row[i] * row[i] }
        let factor = 1 / (sum / Element(width) + epsilon).squareRoot()
        for i in 0..<width { row[i] = row[i] * factor * weight.base[i] }
      }
    }
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
