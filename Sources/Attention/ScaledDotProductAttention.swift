public import AttentionTensors

/// Softmax-weighted sum of the values for every query: `O = softmax(scale · Q Kᵀ + bias) V`.
///
/// `B` batch, `H` query heads, `Hk` key/value heads, `L` queries, `S` keys, `E` width of query and key,
/// `Ev` width of the values. Exact, in O(L) memory beside the results. Tensors of rank 3 leave out the
/// batch, those of rank 2 the heads too; strides are free, and no operand is copied to suit a layout.
///
/// - Parameters:
///   - query: `[B, H, L, E]`, of Float, Double, Float16 or `BFloat16`.
///   - key: `[B, Hk, S, E]`; H is a multiple of Hk, and query head h reads head h / (H / Hk). Its type may be another
///     than the query's, as long as both are computed in one: Float for all but Double.
///   - value: `[B, Hk, S, Ev]`, of the key's type.
///   - mask: Who may attend to whom, and what is added to the scores.
///   - options: Scale, softcap, sinks and layout; by default a scale of 1/√E and heads first.
///   - context: Threads, instruction set, algorithm.
/// - Returns: `[B, H, L, Ev]`, in the query's layout, rank and type, contiguous. A query that may attend to
///   nothing gets 0; NaN that is attended gives NaN, NaN that is masked does not matter.
/// - Throws: `AttentionError` where shapes disagree or the context asks for what this machine lacks.
///
/// Accuracy: the largest error against Double is at most twice that of the plain formula in the same type, plus 1e-6 (Double 1e-14) of
/// the result's size; types of two bytes are
/// converted a tile at a time and computed with as Float, and results rounded once.
/// Cost: 2·B·H·L·S·(E + Ev) operations, half of it under a causal mask. The same inputs give the same
/// bits on the same kernels, whatever the threads; and a sequence has the bits that it has alone, whatever else is in the batch
/// or packed beside it: not with OpenBLAS's products, nor with a ``BlockMask``.
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

/// ``scaledDotProductAttention(query:key:value:mask:options:context:)`` with the log-sum-exp, the
/// weights or the scores.
///
/// `extras` names what is wanted beside the output; parameters and errors are as there.
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

/// ``scaledDotProductAttention(query:key:value:mask:options:context:)`` into a tensor that is there
/// already: nothing is allocated for the result, unless another tensor shares its memory.
///
/// `output` is `[B, H, L, Ev]`, in the query's layout and rank; any strides. Its old contents are not read; where
/// its shape is another, that is an error. A mapped or broadcast tensor cannot be written in place either. The other parameters are as there.
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

/// ``scaledDotProductAttention(query:key:value:mask:options:context:)`` into a part of a tensor.
///
/// `output` is `[B, H, L, Ev]`, in the query's layout and rank; any strides, and gaps between them stay
/// untouched; where its shape is another, that is an error. The other parameters are as there.
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
