public import AttentionTensors

/// ``scaledDotProductAttention(query:key:value:mask:options:context:)`` over a cache, whose mask it is.
///
/// - Parameters:
///   - query: `[B, H, L, E]`: the queries of the tokens appended last.
///   - cache: Keys and values. Where samples took fewer than L tokens, the queries behind them give 0.
///   - mask: Restricts the cache's further. Its lengths and paddings count each sample's tokens from the first one that there
///     ever was; bottom-right, the default alignment, is each sample's own last query at its own last key. Its tensors, block
///     masks and functions see the S keys that are there. Beside a windowed cache no rule that counts from the first
///     token: prefix, chunks, documents, and once it has forgotten tokens no other alignment; where it keeps first
///     tokens, no window nor ALiBi either.
///   - options: Scale, softcap, sinks and layout.
///   - extras: What is wanted beside the output.
///   - context: Threads, instruction set, algorithm.
/// - Returns: Output and extras; keys count as the cache holds them.
/// - Throws: `AttentionError` where shapes disagree, or there are more queries than tokens.
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

/// ``scaledDotProductAttention(query:cache:mask:options:returning:context:)``, only the output.
public func scaledDotProductAttention<Element: AttentionStorage, Cached: AttentionStorage>(
  query: Tensor<Element>, cache: KeyValueCache<Cached>, mask: AttentionMask = .none,
  options: AttentionOptions<Element.Arithmetic> = AttentionOptions(), context: AttentionContext = .default
) throws -> Tensor<Element> where Cached.Arithmetic == Element.Arithmetic {
  try scaledDotProductAttention(
    query: query, cache: cache, mask: mask, options: options, returning: [], context: context
  ).output
}

/// ``scaledDotProductAttention(query:cache:mask:options:returning:context:)`` into an existing tensor: a decoding loop
/// then allocates no output.
///
/// `output` is `[B, H, L, Ev]`, in the query's layout and rank; any strides. Its old contents are not read. A mapped or
/// broadcast tensor, or one of another shape, is an error.
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

/// ``scaledDotProductAttention(query:cache:mask:options:returning:context:)`` into a part of a tensor, of any strides;
/// gaps between them stay untouched.
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
