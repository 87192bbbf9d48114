internal import AttentionBLAS
public import AttentionTensors

/// What ``scaledDotProductAttention(query:key:value:mask:scale:layout:returning:context:)`` gives beside the output.
public struct AttentionExtras: OptionSet, Sendable {
  public let rawValue: Int
  public init(rawValue: Int) { self.rawValue = rawValue }

  /// The natural logarithm of every softmax's denominator. Costs nothing.
  public static let logSumExp = AttentionExtras(rawValue: 1)
  /// The softmax itself. Costs `L × S` memory, and the time to compute the scores once more.
  public static let weights = AttentionExtras(rawValue: 2)
}

/// The results of one call of attention.
public struct AttentionResult<Element: AttentionElement>: Sendable {
  /// `[B, H, L, Ev]`, in the query's layout and rank.
  public let output: Tensor<Element>
  /// `[B, H, L]`; −inf for a query that attends to nothing. Nil unless asked for.
  public let logSumExp: Tensor<Element>?
  /// `[B, H, L, S]`; rows sum to 1, or are 0 for a query that attends to nothing. Nil unless asked for.
  public let weights: Tensor<Element>?
}

/// Softmax-weighted sum of the values for every query: `O = softmax(scale · Q Kᵀ + bias) V`.
///
/// `B` batch, `H` query heads, `Hk` key/value heads, `L` queries, `S` keys, `E` width of query and key,
/// `Ev` width of the values. Exact, in O(L) memory beside the results. Tensors of rank 3 leave out the
/// batch, those of rank 2 the heads too; strides are free, and no operand is copied to suit a layout.
///
/// - Parameters:
///   - query: `[B, H, L, E]`.
///   - key: `[B, Hk, S, E]`; H is a multiple of Hk, and query head h reads head h / (H / Hk).
///   - value: `[B, Hk, S, Ev]`.
///   - mask: Who may attend to whom, and what is added to the scores.
///   - scale: Multiplies the scores before the mask. Default 1/√E. 0 makes every score 0, whatever the query.
///   - layout: `.lengthFirst` for `[B, L, H, E]`.
///   - context: Threads, instruction set, algorithm.
/// - Returns: `[B, H, L, Ev]`, in the query's layout and rank, contiguous. A query that may attend to
///   nothing gets 0; NaN that is attended gives NaN, NaN that is masked does not matter.
/// - Throws: `AttentionError` where shapes disagree or the context asks for what this machine lacks.
///
/// Accuracy: error against Double at most twice that of the plain formula in the same type.
/// Cost: 2·B·H·L·S·(E + Ev) operations, half of it under a causal mask. The same inputs give the same
/// bits on the same kernels, whatever the threads.
/// Source: Vaswani et al. 2017 (arXiv:1706.03762), equation 1; Dao et al. 2022 (arXiv:2205.14135).
public func scaledDotProductAttention<Element: AttentionElement>(
  query: Tensor<Element>, key: Tensor<Element>, value: Tensor<Element>, mask: AttentionMask = .none,
  scale: Double? = nil, layout: AttentionLayout = .headsFirst, context: AttentionContext = .default
) throws -> Tensor<Element> {
  try scaledDotProductAttention(
    query: query, key: key, value: value, mask: mask, scale: scale, layout: layout, returning: [], context: context
  ).output
}

/// ``scaledDotProductAttention(query:key:value:mask:scale:layout:context:)`` with the log-sum-exp or the weights.
///
/// `extras` names what is wanted beside the output; parameters and errors are as there.
public func scaledDotProductAttention<Element: AttentionElement>(
  query: Tensor<Element>, key: Tensor<Element>, value: Tensor<Element>, mask: AttentionMask = .none,
  scale: Double? = nil, layout: AttentionLayout = .headsFirst, returning extras: AttentionExtras,
  context: AttentionContext = .default
) throws -> AttentionResult<Element> {
  let problem = try AttentionProblem(query: query, key: key, value: value, mask: mask, scale: scale, layout: layout)
  var output = try Tensor<Element>(uninitializedShape: problem.outputShape)
  let shape = problem.shape
  let rows = [shape.batchCount, shape.headCount, shape.queryCount]
  var logSumExp = extras.contains(.logSumExp) ? try Tensor<Element>(uninitializedShape: rows) : nil
  var weights = extras.contains(.weights) ? try Tensor<Element>(uninitializedShape: rows + [shape.keyCount]) : nil
  try output.withMutableView { view in
    try problem.run(
      into: &view, logSumExp: logSumExp?.mutableBase, weights: weights?.mutableBase, context: context)
  }
  let rank = query.rank
  logSumExp = try logSumExp?.reshaped(Array(rows.suffix(rank - 1)))
  weights = try weights?.reshaped(Array((rows + [shape.keyCount]).suffix(rank)))
  return AttentionResult(output: output, logSumExp: logSumExp, weights: weights)
}

/// ``scaledDotProductAttention(query:key:value:mask:scale:layout:context:)`` into a tensor that is there
/// already: nothing is allocated for the result, unless another tensor shares its memory.
///
/// `output` is `[B, H, L, Ev]`, in the query's layout and rank; any strides. Its old contents are not read; where
/// its shape is another, that is an error. A mapped or broadcast tensor cannot be written in place either. The other parameters are as there.
public func scaledDotProductAttention<Element: AttentionElement>(
  query: Tensor<Element>, key: Tensor<Element>, value: Tensor<Element>, mask: AttentionMask = .none,
  scale: Double? = nil, layout: AttentionLayout = .headsFirst, into output: inout Tensor<Element>,
  context: AttentionContext = .default
) throws {
  let problem = try AttentionProblem(query: query, key: key, value: value, mask: mask, scale: scale, layout: layout)
  try problem.checkOutput(output.shape)
  try output.withMutableView { try problem.run(into: &$0, context: context) }
}

/// ``scaledDotProductAttention(query:key:value:mask:scale:layout:context:)`` into a part of a tensor.
///
/// `output` is `[B, H, L, Ev]`, in the query's layout and rank; any strides, and gaps between them stay
/// untouched; where its shape is another, that is an error. The other parameters are as there.
public func scaledDotProductAttention<Element: AttentionElement>(
  query: Tensor<Element>, key: Tensor<Element>, value: Tensor<Element>, mask: AttentionMask = .none,
  scale: Double? = nil, layout: AttentionLayout = .headsFirst, into output: inout MutableTensorView<Element>,
  context: AttentionContext = .default
) throws {
  let problem = try AttentionProblem(query: query, key: key, value: value, mask: mask, scale: scale, layout: layout)
  try problem.run(into: &output, context: context)
}

/// One call, checked: what every public form comes down to.
package struct AttentionProblem<Element: AttentionElement> {
  let shape: AttentionShape
  let outputShape: [Int]
  private let query: Tensor<Element>
  private let key: Tensor<Element>
  private let value: Tensor<Element>
  private let schedule: MaskSchedule<Element>
  private let scale: Element
  private let layout: AttentionLayout

  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package init(
    query: Tensor<Element>, key: Tensor<Element>, value: Tensor<Element>, mask: AttentionMask = .none,
    scale: Double? = nil, layout: AttentionLayout = .headsFirst
  ) throws(AttentionError) {
    guard query.rank == key.rank, key.rank == value.rank,
      let queryShape = layout.canonical(query.shape, query.strides)?.shape,
      let keyShape = layout.canonical(key.shape, key.strides)?.shape,
      let valueShape = layout.canonical(value.shape, value.strides)?.shape
    else {
      throw AttentionError(
        .shapeMismatch, AttentionShape.subject,
        "query, key and value need one rank of 2, 3 or 4; got query \(query.shape), key \(key.shape), value \(value.shape)"
      )
    }
    shape = try AttentionShape(query: queryShape, key: keyShape, value: valueShape)
    schedule = try MaskSchedule(mask, shape: shape)
    outputShape = layout.shape(Array(queryShape.dropLast()) + [shape.valueWidth], rank: query.rank)
    let scale = scale ?? 1 / Double(max(shape.width, 1)).squareRoot()
    self.scale = Element(nearest: scale)
    try requireArgument(
      self.scale.isFinite, AttentionShape.subject, "a scale that is finite as \(Element.self) expected; got \(scale)")
    self.layout = layout
    self.query = query
    self.key = key
    self.value = value
  }

  /// True if each key and value is contiguous, as streaming them along vectors wants it.
  private var isStreamable: Bool {
    [key, value].allSatisfy { $0.strides.last == 1 || $0.shape.last! <= 1 }
  }

  func checkOutput(_ shape: [Int]) throws(AttentionError) {
    try requireShape(
      shape == outputShape, AttentionShape.subject, "an output of shape \(outputShape) expected; got \(shape)")
  }

  /// How a call with this context is carried out.
  package func plan(context: AttentionContext) throws(AttentionError) -> AttentionPlan {
    AttentionPlan(
      schedule: schedule, shape: shape, isStreamable: isStreamable, kernels: try context.kernels(for: Element.self),
      context: context)
  }

  // Specialised here, so that everything below is: the public forms are called from other modules, for
  // which unspecialised code would look up every operation of `Element` in a table.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  func run(
    into output: inout MutableTensorView<Element>, logSumExp: UnsafeMutablePointer<Element>? = nil,
    weights: UnsafeMutablePointer<Element>? = nil, context: AttentionContext
  ) throws {
    try checkOutput(output.shape)
    let kernels = try context.kernels(for: Element.self)
    let strides = layout.canonical(output.shape, output.strides)!.strides
    let outputs = AttentionOutputs(
      output: output.base, batchStride: strides[0], headStride: strides[1], lengthStride: strides[2],
      widthStride: strides[3], logSumExp: logSumExp, weights: weights)
    func operand(_ tensor: Tensor<Element>) -> Operand<Element> {
      Operand(base: tensor.base, strides: layout.canonical(tensor.shape, tensor.strides)!.strides)
    }
    if shape.batchCount == 0 || shape.headCount == 0 || shape.queryCount == 0 { return }
    let call = AttentionCall(
      kernels: kernels, shape: shape,
      plan: AttentionPlan(
        schedule: schedule, shape: shape, isStreamable: isStreamable, kernels: kernels, context: context),
      schedule: schedule, scale: scale, query: operand(query), key: operand(key), value: operand(value),
      outputs: outputs)
    try withExtendedLifetime((query, key, value, schedule)) {
      switch call.plan.tiles {
      case .openBLAS: try AttentionDriver(call, RowTiles<OpenBLASProducts<Element>>.self).run(context: context)
      case .fewRows: try AttentionDriver(call, RowTiles<FewRowProducts<Element>>.self).run(context: context)
      case .lanes: try AttentionDriver(call, LaneTiles<Element>.self).run(context: context)
      }
    }
  }
}
