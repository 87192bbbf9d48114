public import AttentionTensors

/// The gradients of scaled dot-product attention: the backward pass.
///
/// For a loss that depends on the output O, `outputGradient` is ∂loss/∂O; the results are ∂loss/∂query, ∂loss/∂key and
/// ∂loss/∂value, and, if asked for, the gradients of biases, slopes and sinks.
///
///     let result = try scaledDotProductAttention(
///       query: query, key: key, value: value, mask: .causal, returning: .logSumExp)
///     // … the loss, and its gradient with respect to result.output …
///     let gradients = try scaledDotProductAttentionGradients(
///       query: query, key: key, value: value, mask: .causal, result: result, outputGradient: outputGradient)
///
/// - Parameters:
///   - query: As in the forward call.
///   - key: As in the forward call.
///   - value: As in the forward call.
///   - mask: As in the forward call. A function of scores needs a derivative.
///   - options: As in the forward call.
///   - result: What the forward call returned: its output and its log-sum-exp.
///   - outputGradient: The gradient of the output, of its shape and type; any strides.
///   - extras: What to return besides the gradients of query, key and value.
///   - context: Threads, instruction set, algorithm. They may differ from those of the forward call.
/// - Returns: The gradients, contiguous. Those of query, key and value have the shape and type of their tensors. All
///   others have the type that attention computes in. A query that attends to nothing has the gradient 0, and so have
///   keys and values that no query attends to. A masked NaN has no effect.
/// - Throws: `AttentionError` if shapes or layouts disagree, if the result has no log-sum-exp, if a function of scores
///   has no derivative, if there are several such functions, if gradients of sinks are asked for but the call has no
///   sinks, if the context asks for something that this machine does not have, or if memory runs out.
///
/// The gradients are exact for every rule of ``AttentionMask``, and for the scale, softcap, sinks and dropout. The
/// weights are recomputed from the log-sum-exp, a block at a time, so memory stays O(L).
///
/// Accuracy: the largest error against Double is at most twice that of the plain formula's gradients in the same type,
/// plus the error that comes from the rounding of the log-sum-exp. If that rounding changes the log-sum-exp by δ, it
/// multiplies each weight of the query by about 1 − δ; |δ| is at most half a unit in the last place of the log-sum-exp.
/// Two-byte types are computed in Float, and each gradient is rounded once.
///
/// Cost: 2.5 times the operations of the forward call: five products instead of two. Blocks that the mask hides cost
/// nothing.
///
/// The same inputs give the same bits on the same kernels, with any number of threads: sums are added in a fixed order,
/// and nothing is added atomically. Also, the gradients of the query, key and value of a sequence have the same bits
/// whatever else is in the batch or packed next to the sequence, with the same exceptions as in the forward call.
///
/// Source: Dao et al. 2022 (arXiv:2205.14135), Algorithm 4.
@_specialize(where Element == Float, KeyElement == Float)
@_specialize(where Element == Double, KeyElement == Double)
public func scaledDotProductAttentionGradients<Element: AttentionStorage, KeyElement: AttentionStorage>(
  query: Tensor<Element>, key: Tensor<KeyElement>, value: Tensor<KeyElement>, mask: AttentionMask = .none,
  options: AttentionOptions<Element.Arithmetic> = AttentionOptions(), result: AttentionResult<Element>,
  outputGradient: Tensor<Element>, returning extras: AttentionGradientExtras = [], context: AttentionContext = .default
) throws -> AttentionGradients<Element, KeyElement> where KeyElement.Arithmetic == Element.Arithmetic {
  let problem = try AttentionProblem<Element.Arithmetic>(
    query: query, key: key, value: value, mask: mask, options)
  return try problem.gradients(
    KeyElement.self, mask, result: result, outputGradient: outputGradient, returning: extras, context: context)
}
