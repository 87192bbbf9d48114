internal import AttentionTensors

/// Everything that defines one call, whichever algorithm computes it: operands, mask, plan, and where results go.
///
/// This is a class, so that closures copy only a reference to it. Copying all of its fields took a tenth of the time of
/// calls whose heads have 16 queries (Zen 4, 2026-11).
final class AttentionCall<Element: AttentionElement>: @unchecked Sendable {
  // Sendable: during the call, tasks only read the inputs, and write disjoint parts of the outputs.
  let kernels: Kernels<Element>
  let shape: AttentionShape
  let plan: AttentionPlan
  let schedule: MaskSchedule<Element>
  let scale: Element
  /// The cap of cap·tanh(score / cap); nil: scores are not capped.
  let softcap: Element?
  /// `[H]`: for each head, one more logit in the denominator of its softmax. Nil: none.
  let sinks: UnsafePointer<Element>?
  /// The rule that says which weights are dropped. Nil: no weight is dropped.
  let dropout: DropoutRule?
  let query: Operand
  let key: Operand
  let value: Operand
  /// Where the results are written. Nil: no results are wanted, only scores or gradients.
  let outputs: AttentionOutputs<Element>?

  init(
    kernels: Kernels<Element>, shape: AttentionShape, plan: AttentionPlan, schedule: MaskSchedule<Element>,
    scale: Element, softcap: Element?, sinks: UnsafePointer<Element>?, dropout: DropoutRule?, query: Operand,
    key: Operand, value: Operand, outputs: AttentionOutputs<Element>?
  ) {
    self.kernels = kernels
    self.shape = shape
    self.plan = plan
    self.schedule = schedule
    self.scale = scale
    self.softcap = softcap
    self.sinks = sinks
    self.dropout = dropout
    self.query = query
    self.key = key
    self.value = value
    self.outputs = outputs
  }

  /// A copy of `other`: a separate object, so that each thread updates a reference count of its own.
  convenience init(copying other: AttentionCall) {
    self.init(
      kernels: other.kernels, shape: other.shape, plan: other.plan, schedule: other.schedule, scale: other.scale,
      softcap: other.softcap, sinks: other.sinks, dropout: other.dropout, query: other.query, key: other.key,
      value: other.value, outputs: other.outputs)
  }

  /// The tile of queries with the number `index`.
  func tile(_ index: Int) -> QueryTile {
    var rest = index
    func next(_ count: Int) -> Int {
      // A count of 1 needs no division. A division takes measurable time in calls whose heads have few queries.
      if count == 1 { return 0 }
      let (quotient, remainder) = rest.quotientAndRemainder(dividingBy: count)
      rest = quotient
      return remainder
    }
    let turn = next(plan.headTurnCount)
    let queryTile = next(plan.queryTileCount)
    let headTile = next(plan.headTileCount)
    let keyValueHead = next(shape.keyValueHeadCount / plan.headTurnCount) * plan.headTurnCount + turn
    let firstHead = keyValueHead * shape.groupSize
    let heads = headTile * plan.headsPerTile..<min((headTile + 1) * plan.headsPerTile, shape.groupSize)
    let batch = plan.batches?[rest] ?? rest
    let queries = queryTile * plan.queryTileLength..<min((queryTile + 1) * plan.queryTileLength, shape.queryCount)
    let own = queries.clamped(to: 0..<schedule.queryCount(batch: batch, of: shape))
    return QueryTile(
      batch: batch, keyValueHead: keyValueHead,
      heads: firstHead + heads.lowerBound..<firstHead + heads.upperBound,
      queries: own, emptyQueries: max(own.upperBound, queries.lowerBound)..<queries.upperBound)
  }

  // MARK: Algorithms

  /// What a forward pass computes: the outputs of a call, or only its scores.
  enum Work {
    case results
    case scores(UnsafeMutablePointer<Element>)
  }

  /// Runs the forward pass with the tiles that the plan has chosen, to compute `work`.
  func run(_ work: Work, context: AttentionContext) throws {
    switch plan.tiles {
    case .openBLAS: try ForwardPass<RowTiles<OpenBLASProducts<Element>>>.run(self, work, context: context)
    case .fewRows: try ForwardPass<RowTiles<FewRowProducts<Element>>>.run(self, work, context: context)
    case .matrix: try ForwardPass<MatrixTiles<Element>>.run(self, work, context: context)
    case .lanes: try ForwardPass<LaneTiles<Element>>.run(self, work, context: context)
    }
  }
}
