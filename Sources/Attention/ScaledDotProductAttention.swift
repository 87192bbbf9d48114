public import AttentionTensors

/// The softmax-weighted sum of the values for every query: `O = softmax(scale · Q Kᵀ + bias) V`.
///
/// In shapes, `B` is the number of elements of the batch, `H` that of query heads, `Hk` that of key/value heads, `L`
/// that of queries, and `S` that of keys. `E` is the head dimension of query and key, and `Ev` the value dimension. The
/// computation is exact and takes O(L) memory besides the results. Tensors of rank 3 leave out the batch, those of rank
/// 2 the heads too. Operands may have any strides, and none is copied to suit a layout.
///
/// - Parameters:
///   - query: `[B, H, L, E]`, of Float, Double, Float16 or `BFloat16`.
///   - key: `[B, Hk, S, E]`; H is a multiple of Hk, and query head h reads key/value head h / (H / Hk). The type of the
///     key may differ from the query's if attention computes both in the same type: Double for Double, Float for all
///     others.
///   - value: `[B, Hk, S, Ev]`, of the key's type.
///   - mask: Which keys each query may attend to, and what is added to the scores.
///   - options: Scale, softcap, sinks, layout and dropout; by default a scale of 1/√E, heads first, and none of the
///     others.
///   - context: Threads, instruction set, algorithm.
/// - Returns: `[B, H, L, Ev]`, in the query's layout, rank and type, contiguous. The output of a query that may attend
///   to nothing is 0. A NaN that a query attends to gives NaN; a masked NaN has no effect.
/// - Throws: `AttentionError` if shapes disagree, if an option or a bound of the mask is out of range, if the context
///   asks for something that this machine does not have, or if memory runs out.
///
/// Accuracy: the largest error against Double is at most twice that of the plain formula in the same type, plus 1e-6
/// (Double: 1e-14) times the largest magnitude in the result. Two-byte types are converted a tile at a time, the
/// computation is in Float, and results are rounded once.
///
/// Cost: 2·B·H·L·S·(E + Ev) operations, and about half of them under a causal mask with L = S.
///
/// The same inputs give the same bits on the same kernels, with any number of threads. Also, the result of a
/// sequence has the same bits as if the sequence were the only one in the call, whatever else is in the batch or packed
/// next to it. This independence of other sequences need not hold with OpenBLAS's products, with a ``BlockMask``, with
/// dropout, or for a sequence of few queries that is packed as a document or padded without
/// ``AttentionMask/queryLengths(_:)``.
///
/// Source: Vaswani et al. 2017 (arXiv:1706.03762), equation 1; Dao et al. 2022 (arXiv:2205.14135); softcap: Gemma Team
/// 2024 (arXiv:2408.00118), §2; sinks: Miller 2023, "Attention is off by one", and gpt-oss.
@_specialize(where Element == Float, KeyElement == Float)
@_specialize(where Element == Double, KeyElement == Double)
public func scaledDotProductAttention<Element: AttentionStorage, KeyElement: AttentionStorage>(
  query: Tensor<Element>, key: Tensor<KeyElement>, value: Tensor<KeyElement>, mask: AttentionMask = .none,
  options: AttentionOptions<Element.Arithmetic> = AttentionOptions(), context: AttentionContext = .default
) throws -> Tensor<Element> where KeyElement.Arithmetic == Element.Arithmetic {
  let problem = try AttentionProblem<Element.Arithmetic>(
    query: query, key: key, value: value, mask: mask, options)
  return try problem.output(Element.self, context: context)
}

/// ``scaledDotProductAttention(query:key:value:mask:options:context:)`` that also returns the log-sum-exp, the weights
/// or the scores.
///
/// `extras` names what to return besides the output. All other parameters and the errors are the same.
@_specialize(where Element == Float, KeyElement == Float)
@_specialize(where Element == Double, KeyElement == Double)
public func scaledDotProductAttention<Element: AttentionStorage, KeyElement: AttentionStorage>(
  query: Tensor<Element>, key: Tensor<KeyElement>, value: Tensor<KeyElement>, mask: AttentionMask = .none,
  options: AttentionOptions<Element.Arithmetic> = AttentionOptions(), returning extras: AttentionExtras,
  context: AttentionContext = .default
) throws -> AttentionResult<Element> where KeyElement.Arithmetic == Element.Arithmetic {
  let problem = try AttentionProblem<Element.Arithmetic>(
    query: query, key: key, value: value, mask: mask, options)
  return try problem.result(Element.self, returning: extras, context: context)
}

/// ``scaledDotProductAttention(query:key:value:mask:options:context:)`` into an existing tensor. Nothing is allocated
/// for the result, unless the tensor is mapped or broadcast, or another tensor shares its memory: such a tensor first
/// gets new memory.
///
/// `output` is `[B, H, L, Ev]`, in the query's layout and rank; any strides. Its old contents do not matter. A tensor
/// of another shape is an error. All other parameters are the same.
@_specialize(where Element == Float, KeyElement == Float)
@_specialize(where Element == Double, KeyElement == Double)
public func scaledDotProductAttention<Element: AttentionStorage, KeyElement: AttentionStorage>(
  query: Tensor<Element>, key: Tensor<KeyElement>, value: Tensor<KeyElement>, mask: AttentionMask = .none,
  options: AttentionOptions<Element.Arithmetic> = AttentionOptions(), into output: inout Tensor<Element>,
  context: AttentionContext = .default
) throws where KeyElement.Arithmetic == Element.Arithmetic {
  let problem = try AttentionProblem<Element.Arithmetic>(
    query: query, key: key, value: value, mask: mask, options)
  try problem.checkOutput(output.shape)
  try output.withMutableView { try problem.run(into: &$0, context: context) }
}

/// ``scaledDotProductAttention(query:key:value:mask:options:context:)`` into a view of a tensor.
///
/// `output` is `[B, H, L, Ev]`, in the query's layout and rank; any strides. Elements between those of the view stay
/// untouched. A view of another shape is an error. All other parameters are the same.
@_specialize(where Element == Float, KeyElement == Float)
@_specialize(where Element == Double, KeyElement == Double)
public func scaledDotProductAttention<Element: AttentionStorage, KeyElement: AttentionStorage>(
  query: Tensor<Element>, key: Tensor<KeyElement>, value: Tensor<KeyElement>, mask: AttentionMask = .none,
  options: AttentionOptions<Element.Arithmetic> = AttentionOptions(), into output: inout MutableTensorView<Element>,
  context: AttentionContext = .default
) throws where KeyElement.Arithmetic == Element.Arithmetic {
  let problem = try AttentionProblem<Element.Arithmetic>(
    query: query, key: key, value: value, mask: mask, options)
  try problem.run(into: &output, context: context)
}
