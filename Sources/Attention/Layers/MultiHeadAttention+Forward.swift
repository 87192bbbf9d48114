public import AttentionTensors

/// Which attention weights ``MultiHeadAttention`` returns.
public enum MultiHeadWeights: Sendable, Hashable {
  /// No weights.
  case none
  /// The weights of each head, `[B, H, L, S]`.
  case perHead
  /// The mean of the weights over the heads, `[B, L, S]`. This is PyTorch's default.
  case averaged
}

/// The results of one call of ``MultiHeadAttention``.
public struct MultiHeadResult<Element: AttentionElement>: Sendable {
  /// The output of the layer, `[B, L, d]`.
  public let output: Tensor<Element>
  /// `[B, L, H·E]`: the heads' results side by side, before the output projection.
  public let context: Tensor<Element>
  let requestedWeights: Tensor<Element>?

  /// The attention weights, in the shape that ``MultiHeadWeights`` gives. S includes the keys that the layer adds. Throws an
  /// `AttentionError` if the call did not ask for weights.
  public var weights: Tensor<Element> {
    get throws(AttentionError) { try requested(requestedWeights, "weights") }
  }
}

extension MultiHeadAttention {
  /// Self-attention.
  ///
  /// - Parameters:
  ///   - x: `[B, L, d]` or `[L, d]`.
  ///   - mask: Which keys each query may attend to. The mask's tensors broadcast to `[B, H, L, L]`.
  ///   - context: Threads, instruction set, algorithm.
  /// - Returns: A tensor of the shape of `x`.
  /// - Throws: `AttentionError` if shapes disagree.
  public func callAsFunction(
    _ x: Tensor<Element>, mask: AttentionMask = .none, context: AttentionContext = .default
  ) throws -> Tensor<Element> {
    try forward(query: x, key: x, value: x, mask: mask, context: context).output
  }

  /// Cross-attention: only the output of ``forward(query:key:value:mask:weights:context:)``.
  public func callAsFunction(
    query: Tensor<Element>, key: Tensor<Element>, value: Tensor<Element>, mask: AttentionMask = .none,
    context: AttentionContext = .default
  ) throws -> Tensor<Element> {
    try forward(query: query, key: key, value: value, mask: mask, context: context).output
  }

  /// Attention of `query` over `key` and `value`, with the intermediate results.
  ///
  /// If the layer has rotary positions, the last query has the same position as the last key.
  ///
  /// - Parameters:
  ///   - query: `[B, L, d]` or `[L, d]`.
  ///   - key: `[B, S, kdim]` or `[S, kdim]`. If all inputs have dimension d, and `key` and `value` are the same view,
  ///     they share one product. `query` shares it too if it is also the same view and the layer adds no keys.
  ///   - value: `[B, S, vdim]` or `[S, vdim]`.
  ///   - mask: Which keys each query may attend to; the layer's window applies too. The mask's tensors broadcast to
  ///     `[B, H, L, S]`. Every query attends to the keys that the layer adds.
  ///   - weights: Which attention weights are returned.
  ///   - context: Threads, instruction set, algorithm.
  /// - Returns: Output, context, and weights if asked for; without B if the query has no B.
  /// - Throws: `AttentionError` if shapes disagree.
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
        requestedWeights: try result.requestedWeights?.select(0, axis: 0))
    }

    let attended = try attend(
      query, key, value, mask, options, returning: weights == .none ? [] : .weights, context: context)
    return try finish(attended.result, weights, context)
  }

  /// Self-attention of new tokens over themselves and the tokens in a cache.
  ///
  /// The call appends the keys and values of the new tokens to the cache.
  ///
  /// - Parameters:
  ///   - x: `[B, L, d]`: the new tokens.
  ///   - cache: A cache for this layer only, with the layer's key/value heads and head dimension.
  ///   - counts: How many of the L tokens are added to each sample, always the first ones; nil: all. The other tokens
  ///     have 0 in ``MultiHeadResult/context``, so their output is the bias of the output projection.
  ///   - positions: The positions of the tokens, for rotary positions; nil: those after the tokens in the cache.
  ///   - mask: Which keys each query may attend to; the mask of the cache and the layer's window apply too.
  ///   - weights: Which attention weights are returned.
  ///   - context: Threads, instruction set, algorithm.
  /// - Returns: Output and context of the tokens, and the weights if asked for.
  /// - Throws: `AttentionError` if shapes disagree or the layer adds keys of its own; then no token is added.
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
    var inputs = try project(x, x, x, context)
    try place(&inputs, query: table, key: table, context)
    let before = cache.lengths
    try cache.append(
      key: heads(inputs, inputs.key), value: heads(inputs, inputs.value), counts: counts, layout: .lengthFirst)
    do {
      let hasWindow = configuration.window.map { cache.hasWindow(within: $0) } ?? true
      let result = try scaledDotProductAttention(
        query: heads(inputs, inputs.query), cache: cache, mask: hasWindow ? mask : windowed(mask), options: options,
        returning: weights == .none ? [] : .weights, context: context)
      return try finish(result, weights, context)
    } catch {
      // A wrong mask is found only after the tokens were added to the cache. Remove them, so that the caller can try
      // again.
      try? cache.truncate(to: before)
      throw error
    }
  }

  // MARK: Steps

  /// The attention of one call, before the output projection.
  struct Attended {
    /// The projected inputs before they were normalised and turned. Nil if they were not asked for.
    var unplaced: ProjectedInputs<Element>?
    /// The projected inputs that attention reads.
    var inputs: ProjectedInputs<Element>
    /// The tables that turned queries and keys. Nil without rotary positions.
    let tables: (query: RotaryTable<Element>, key: RotaryTable<Element>)?
    /// The mask over all keys, those that the layer adds included.
    let mask: AttentionMask
    let result: AttentionResult<Element>
  }

  /// Projects, normalises and turns checked inputs of rank 3, and lets the queries attend.
  func attend(
    _ query: Tensor<Element>, _ key: Tensor<Element>, _ value: Tensor<Element>, _ mask: AttentionMask,
    _ options: AttentionOptions<Element>, returning extras: AttentionExtras, keepsUnplaced: Bool = false,
    context: AttentionContext
  ) throws -> Attended {
    var inputs = try project(query, key, value, context)
    let unplaced = keepsUnplaced ? inputs : nil
    let tables = try configuration.rotary.map { rotary in
      let (queryCount, keyCount) = (query.shape[1], key.shape[1])
      let length = max(queryCount, keyCount)
      func table(_ count: Int) throws -> RotaryTable<Element> {
        try rotary.table(.startingAt(length - count), count: count, length: length)
      }
      let keys = try table(keyCount)
      return (query: queryCount == keyCount ? keys : try table(queryCount), key: keys)
    }
    try place(&inputs, query: tables?.query, key: tables?.key, context)
    // The mask and the window limit only the caller's keys. The keys that the layer adds come after them.
    let mask = windowed(mask).appendingAttendedKeys(configuration.addedKeyCount)
    let result = try scaledDotProductAttention(
      query: heads(inputs, inputs.query), key: heads(inputs, inputs.key), value: heads(inputs, inputs.value),
      mask: mask, options: options, returning: extras, context: context)
    return Attended(unplaced: unplaced, inputs: inputs, tables: tables, mask: mask, result: result)
  }

  /// The options of attention: everything besides the mask.
  var options: AttentionOptions<Element> {
    AttentionOptions(scale: configuration.scale, softcap: configuration.softcap, sinks: sinks, layout: .lengthFirst)
  }

  /// `mask`, restricted to the layer's window.
  func windowed(_ mask: AttentionMask) -> AttentionMask {
    guard let window = configuration.window else { return mask }
    return mask.combined(with: .window(left: window - 1, right: nil))
  }

  /// Averages the weights if asked for, and projects the heads' results.
  private func finish(
    _ result: AttentionResult<Element>, _ weights: MultiHeadWeights, _ context: AttentionContext
  ) throws -> MultiHeadResult<Element> {
    let rows = Array(result.output.shape.prefix(2))
    let concatenated = try result.output.reshaped(rows + [configuration.projectedQueryDimension])
    let output = try outputProjection(concatenated, context: context)
    return MultiHeadResult(
      output: output, context: concatenated,
      requestedWeights: weights == .none
        ? nil : weights == .averaged ? try averageHeads(result.weights) : try result.weights)
  }

  func check(
    _ query: Tensor<Element>, _ key: Tensor<Element>, _ value: Tensor<Element>
  ) throws(AttentionError) {
    let isRight =
      (2...3).contains(query.rank) && key.rank == query.rank && value.rank == query.rank
      && query.shape.last == configuration.embeddingDimension && key.shape.last == configuration.keyInputDimension
      && value.shape.last == configuration.valueInputDimension && key.shape.dropLast() == value.shape.dropLast()
      && query.shape.dropLast(2) == key.shape.dropLast(2)
      && (query.shape + key.shape).allSatisfy { $0 < Int(Int32.max) - 1 }
    try requireShape(
      isRight, "MultiHeadAttention",
      "query [B, L, \(configuration.embeddingDimension)], key [B, S, \(configuration.keyInputDimension)], "
        + "value [B, S, \(configuration.valueInputDimension)], or all without B, expected; got query \(query.shape), "
        + "key \(key.shape), value \(value.shape)")
  }

  /// The mean of the weights over the heads: `[B, H, L, S]` becomes `[B, L, S]`.
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
