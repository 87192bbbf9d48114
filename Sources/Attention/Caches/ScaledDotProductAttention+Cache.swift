public import AttentionTensors

/// ``scaledDotProductAttention(query:key:value:mask:options:context:)`` over the keys and values of a cache, with the
/// cache's mask.
///
/// - Parameters:
///   - query: `[B, H, L, E]`: the queries of the tokens appended last.
///   - cache: The keys and values. If a sample took fewer than L tokens in the last `append` of L tokens, the outputs
///     of its remaining queries are 0.
///   - mask: Restricts the cache's mask further. Its lengths and paddings count each sample's tokens from the very
///     first one, including forgotten ones. The default alignment, bottom-right, puts each sample's last query at its
///     own last key. Tensors, block masks and functions in the mask apply to the S stored keys, where S is the greatest
///     of ``KeyValueCache/storedCounts``. For a cache with a window, the mask must have no rule that counts from the
///     first token: no prefix, chunks, documents, or window that keeps first keys. If such a cache keeps first tokens,
///     the mask must also have no window with a bound on the left, and no ALiBi. Once the cache has forgotten tokens,
///     the mask must have the default alignment or that of ``KeyValueCache/alignment(queryCount:)``.
///   - options: Scale, softcap, sinks, layout and dropout.
///   - extras: What to return besides the output.
///   - context: Threads, instruction set, algorithm.
/// - Returns: The output and the extras. The S keys of weights and scores are the stored keys, in the cache's order.
/// - Throws: `AttentionError` if shapes disagree, if there are more queries than stored tokens, if a query's window
///   needs tokens that are forgotten, or if the mask cannot apply to the stored keys.
public func scaledDotProductAttention<Element: AttentionStorage, Cached: AttentionStorage>(
  query: Tensor<Element>, cache: KeyValueCache<Cached>, mask: AttentionMask = .none,
  options: AttentionOptions<Element.Arithmetic> = AttentionOptions(),
  returning extras: AttentionExtras, context: AttentionContext = .default
) throws -> AttentionResult<Element> where Cached.Arithmetic == Element.Arithmetic {
  let problem = try AttentionProblem<Element.Arithmetic>(query: query, cache: cache, mask: mask, options)
  return try withExtendedLifetime(cache) {
    try problem.result(Element.self, returning: extras, context: context)
  }
}

/// ``scaledDotProductAttention(query:cache:mask:options:returning:context:)`` that returns only the output.
public func scaledDotProductAttention<Element: AttentionStorage, Cached: AttentionStorage>(
  query: Tensor<Element>, cache: KeyValueCache<Cached>, mask: AttentionMask = .none,
  options: AttentionOptions<Element.Arithmetic> = AttentionOptions(), context: AttentionContext = .default
) throws -> Tensor<Element> where Cached.Arithmetic == Element.Arithmetic {
  try scaledDotProductAttention(
    query: query, cache: cache, mask: mask, options: options, returning: [], context: context
  ).output
}

/// ``scaledDotProductAttention(query:cache:mask:options:returning:context:)`` into an existing tensor. A decoding loop
/// then allocates no output, unless the tensor is mapped or broadcast, or another tensor shares its memory: such a
/// tensor first gets new memory.
///
/// `output` is `[B, H, L, Ev]`, in the query's layout and rank; any strides. Its old contents do not matter. A tensor
/// of another shape is an error.
public func scaledDotProductAttention<Element: AttentionStorage, Cached: AttentionStorage>(
  query: Tensor<Element>, cache: KeyValueCache<Cached>, mask: AttentionMask = .none,
  options: AttentionOptions<Element.Arithmetic> = AttentionOptions(), into output: inout Tensor<Element>,
  context: AttentionContext = .default
) throws where Cached.Arithmetic == Element.Arithmetic {
  let problem = try AttentionProblem<Element.Arithmetic>(query: query, cache: cache, mask: mask, options)
  try problem.checkOutput(output.shape)
  try withExtendedLifetime(cache) {
    try output.withMutableView { try problem.run(into: &$0, context: context) }
  }
}

/// ``scaledDotProductAttention(query:cache:mask:options:returning:context:)`` into a view of a tensor. The view may
/// have any strides. Elements between those of the view stay untouched.
public func scaledDotProductAttention<Element: AttentionStorage, Cached: AttentionStorage>(
  query: Tensor<Element>, cache: KeyValueCache<Cached>, mask: AttentionMask = .none,
  options: AttentionOptions<Element.Arithmetic> = AttentionOptions(), into output: inout MutableTensorView<Element>,
  context: AttentionContext = .default
) throws where Cached.Arithmetic == Element.Arithmetic {
  let problem = try AttentionProblem<Element.Arithmetic>(query: query, cache: cache, mask: mask, options)
  try withExtendedLifetime(cache) { try problem.run(into: &output, context: context) }
}

extension AttentionProblem {
  /// A call whose keys, values and mask are those of a cache.
  fileprivate init<Stored: AttentionStorage, Cached: AttentionStorage>(
    query: Tensor<Stored>, cache: KeyValueCache<Cached>, mask: AttentionMask, _ options: AttentionOptions<Element>
  ) throws where Stored.Arithmetic == Element, Cached.Arithmetic == Element {
    guard let input = AttentionInput(query, layout: options.layout) else {
      throw AttentionError(
        .shapeMismatch, AttentionShape.subject, "a query of rank 2, 3 or 4 expected; got \(query.shape)")
    }
    let (key, value, mask) = try cache.inputs(queryCount: input.shape[2], mask: mask)
    try self.init(query: input, rank: query.rank, key: key, value: value, mask: mask, options)
  }
}
