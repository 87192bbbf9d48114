public import AttentionTensors

/// ``scaledDotProductAttention(query:key:value:mask:scale:softcap:sinks:layout:context:)`` over a cache, whose mask it is.
///
/// - Parameters:
///   - query: `[B, H, L, E]`: the queries of the tokens appended last.
///   - cache: Keys and values. Where samples took fewer than L tokens, the queries behind them give 0.
///   - mask: Restricts the cache's further. Its lengths and paddings count each sample's tokens from the first one that there
///     ever was; bottom-right, the default alignment, is each sample's own last query at its own last key. Its tensors, block
///     masks and functions see the S keys that are there. Beside a windowed cache no rule that counts from the first
///     token: prefix, chunks, documents, and once it has forgotten tokens no other alignment; where it keeps first
///     tokens, no window nor ALiBi either.
///   - scale: Default 1/√E.
///   - softcap: Bounds scores; nil: no bound.
///   - sinks: `[H]`; nil: none.
///   - layout: `.lengthFirst` for `[B, L, H, E]`.
///   - extras: What is wanted beside the output.
///   - context: Threads, instruction set, algorithm.
/// - Returns: Output and extras; keys count as the cache holds them.
/// - Throws: `AttentionError` where shapes disagree, or there are more queries than tokens.
public func scaledDotProductAttention<Element: AttentionStorage, Cached: AttentionStorage>(
  query: Tensor<Element>, cache: KeyValueCache<Cached>, mask: AttentionMask = .none, scale: Double? = nil,
  softcap: Double? = nil, sinks: Tensor<Element.Arithmetic>? = nil, layout: AttentionLayout = .headsFirst,
  returning extras: AttentionExtras, context: AttentionContext = .default
) throws -> AttentionResult<Element> where Cached.Arithmetic == Element.Arithmetic {
  guard let input = AttentionInput(query, layout: layout) else {
    throw AttentionError(
      .shapeMismatch, AttentionShape.subject, "a query of rank 2, 3 or 4 expected; got \(query.shape)")
  }
  let queryCount = input.shape[2]
  let (key, value, mask) = try cache.inputs(queryCount: queryCount, mask: mask)
  let problem = try AttentionProblem<Element.Arithmetic>(
    query: input, rank: query.rank, key: key, value: value, mask: mask,
    AttentionOptions(scale: scale, softcap: softcap, sinks: sinks, layout: layout))
  return try withExtendedLifetime(cache) {
    try problem.result(Element.self, returning: extras, context: context)
  }
}

/// ``scaledDotProductAttention(query:cache:mask:scale:softcap:sinks:layout:returning:context:)``, the output alone.
public func scaledDotProductAttention<Element: AttentionStorage, Cached: AttentionStorage>(
  query: Tensor<Element>, cache: KeyValueCache<Cached>, mask: AttentionMask = .none, scale: Double? = nil,
  softcap: Double? = nil, sinks: Tensor<Element.Arithmetic>? = nil, layout: AttentionLayout = .headsFirst,
  context: AttentionContext = .default
) throws -> Tensor<Element> where Cached.Arithmetic == Element.Arithmetic {
  try scaledDotProductAttention(
    query: query, cache: cache, mask: mask, scale: scale, softcap: softcap, sinks: sinks, layout: layout, returning: [],
    context: context
  ).output
}
