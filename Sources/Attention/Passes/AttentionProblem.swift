internal import AttentionBLAS
package import AttentionTensors

/// A query, key or value as it is given: its shape and strides as `[B, H, L, E]`, and the owner of its memory.
struct AttentionInput {
  let shape: [Int]
  let operand: Operand
  let owner: AnyObject

  init(shape: [Int], operand: Operand, owner: AnyObject) {
    self.shape = shape
    self.operand = operand
    self.owner = owner
  }

  /// The input that a tensor holds. Nil if the tensor's rank is not 2, 3 or 4.
  init?<Element: TensorElement>(_ tensor: Tensor<Element>, layout: AttentionLayout) {
    guard let canonical = layout.canonical(tensor.shape, tensor.strides) else { return nil }
    shape = canonical.shape
    operand = Operand(base: tensor.base, dataType: Element._dataType, strides: canonical.strides)
    owner = tensor.storage
  }
}

/// One call of attention, with checked arguments. Every public function of attention makes one. `Element` is the type
/// that attention computes in.
package struct AttentionProblem<Element: AttentionElement> {
  let shape: AttentionShape
  /// The shape of the output, in the query's layout and rank.
  let outputShape: [Int]
  let query: AttentionInput
  let key: AttentionInput
  let value: AttentionInput
  let schedule: MaskSchedule<Element>
  private let scale: Element
  let softcap: Element?
  let sinks: Tensor<Element>?
  private let dropout: DropoutRule?
  let layout: AttentionLayout
  let rank: Int

  /// A call whose tensors have the type that attention computes in.
  package init(
    query: Tensor<Element>, key: Tensor<Element>, value: Tensor<Element>, mask: AttentionMask = .none,
    scale: Double? = nil
  ) throws(AttentionError) {
    try self.init(query: query, key: key, value: value, mask: mask, AttentionOptions(scale: scale))
  }

  @_specialize(where Element == Float, Stored == Float, StoredKey == Float)
  @_specialize(where Element == Double, Stored == Double, StoredKey == Double)
  init<Stored: AttentionStorage, StoredKey: AttentionStorage>(
    query: Tensor<Stored>, key: Tensor<StoredKey>, value: Tensor<StoredKey>, mask: AttentionMask,
    _ options: AttentionOptions<Element>
  ) throws(AttentionError) {
    guard query.rank == key.rank, key.rank == value.rank,
      let queryInput = AttentionInput(query, layout: options.layout),
      let keyInput = AttentionInput(key, layout: options.layout),
      let valueInput = AttentionInput(value, layout: options.layout)
    else {
      throw AttentionError(
        .shapeMismatch, AttentionShape.subject,
        "query, key and value need one rank of 2, 3 or 4; got query \(query.shape), key \(key.shape), value \(value.shape)"
      )
    }
    try self.init(
      query: queryInput, rank: query.rank, key: keyInput, value: valueInput, mask: mask, options)
  }

  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  init(
    query: AttentionInput, rank: Int, key: AttentionInput, value: AttentionInput, mask: AttentionMask,
    _ options: AttentionOptions<Element>
  ) throws(AttentionError) {
    let shape = try AttentionShape(query: query.shape, key: key.shape, value: value.shape)
    self.shape = shape
    schedule = try MaskSchedule(mask, shape: shape)
    var outputShape = query.shape
    outputShape[3] = shape.valueDimension
    self.outputShape = options.layout.shape(outputShape, rank: rank)
    let scale = options.scale ?? 1 / Double(max(shape.headDimension, 1)).squareRoot()
    self.scale = Element(_nearest: scale)
    try requireArgument(
      self.scale.isFinite, AttentionShape.subject, "a scale that is finite as \(Element.self) expected; got \(scale)")
    softcap = options.softcap.map { Element(_nearest: $0) }
    if let softcap {
      try requireArgument(
        softcap > 0 && softcap.isFinite && (1 / softcap).isFinite, AttentionShape.subject,
        "a softcap that is positive and finite as \(Element.self), as its inverse is, expected; got \(options.softcap!)"
      )
    }
    if let sinks = options.sinks {
      try requireShape(
        sinks.shape == [shape.headCount], AttentionShape.subject,
        "one sink for each of \(shape.headCount) heads expected; got \(sinks.shape)")
      self.sinks = try sinks.contiguous()
    } else {
      sinks = nil
    }
    if let dropout = options.dropout {
      try requireArgument(
        (0...1).contains(dropout.probability), AttentionShape.subject,
        "a probability of dropout from 0 to 1 expected; got \(dropout.probability)")
    }
    dropout = options.dropout.flatMap {
      $0.probability == 0 ? nil : DropoutRule(probability: $0.probability, seed: $0.seed)
    }
    layout = options.layout
    self.rank = rank
    self.query = query
    self.key = key
    self.value = value
  }

  /// True if keys and values can be streamed along vectors. They can be if the elements of each row are contiguous, or
  /// if each element has two bytes: rows of two-byte elements that are not contiguous are packed first.
  private var isStreamable: Bool {
    func isStreamable(_ input: AttentionInput) -> Bool {
      input.operand.columnStride == 1 || input.shape[3] <= 1 || input.operand.half != nil
    }
    return isStreamable(key) && isStreamable(value)
  }

  private func forEachPlan(
    _ kernels: Kernels<Element>, _ context: AttentionContext, _ body: (AttentionPlan) throws -> Void
  ) rethrows {
    try AttentionPlan.forEach(
      schedule: schedule, shape: shape, isStreamable: isStreamable, hasSinks: sinks != nil, kernels: kernels,
      context: context, body)
  }

  /// The keys that each interval set leaves to a query. Only the mask's rules (such as causal or window), lengths and
  /// paddings count. This method is for tests.
  package func intervals(batch: Int, query: Int) -> [Range<Int>] {
    var intervals: [Range<Int>] = []
    schedule.forEachSet { intervals.append($0.intervals[batch, query]) }
    return intervals
  }

  /// For each interval set, the smallest interval that holds the keys of all these queries (`union`), and the keys that
  /// all of them share (`common`). This method is for tests.
  package func boundsOfIntervals(batch: Int, queries: Range<Int>) -> [(union: Range<Int>, common: Range<Int>)] {
    var bounds: [(union: Range<Int>, common: Range<Int>)] = []
    schedule.forEachSet {
      bounds.append(
        ($0.intervals.union(batch: batch, queries: queries), $0.intervals.common(batch: batch, queries: queries)))
    }
    return bounds
  }

  /// The plans by which this call is computed with a context.
  package func plans(context: AttentionContext) throws(AttentionError) -> [AttentionPlan] {
    var plans: [AttentionPlan] = []
    forEachPlan(try context.kernels(for: Element.self), context) { plans.append($0) }
    return plans
  }

  func call(
    _ kernels: Kernels<Element>, _ plan: AttentionPlan, _ schedule: MaskSchedule<Element>, softcap: Element?,
    _ outputs: AttentionOutputs<Element>?
  ) -> AttentionCall<Element> {
    AttentionCall(
      kernels: kernels, shape: shape, plan: plan, schedule: schedule, scale: scale, softcap: softcap,
      sinks: sinks?.base, dropout: dropout, query: query.operand, key: key.operand, value: value.operand,
      outputs: outputs)
  }

  // MARK: Running

  func checkOutput(_ shape: [Int]) throws(AttentionError) {
    try requireShape(
      shape == outputShape, AttentionShape.subject, "an output of shape \(outputShape) expected; got \(shape)")
  }

  func run<Stored: AttentionStorage>(into output: inout MutableTensorView<Stored>, context: AttentionContext) throws {
    try checkOutput(output.shape)
    try run(
      into: output.base, Stored._dataType, strides: layout.canonical(output.shape, output.strides)!.strides,
      logSumExp: nil, weights: nil, context: context)
  }

  /// The output in a new tensor.
  @_specialize(where Element == Float, Stored == Float)
  @_specialize(where Element == Double, Stored == Double)
  func output<Stored: AttentionStorage>(
    _: Stored.Type, context: AttentionContext
  ) throws -> Tensor<Stored> where Stored.Arithmetic == Element {
    let output = try Tensor<Stored>(uninitializedShape: outputShape)
    try run(
      into: output.mutableBase, Stored._dataType, strides: layout.canonical(output.shape, output.strides)!.strides,
      logSumExp: nil, weights: nil, context: context)
    return output
  }

  /// The output in a new tensor, and the other results that are asked for.
  @_specialize(where Element == Float, Stored == Float)
  @_specialize(where Element == Double, Stored == Double)
  func result<Stored: AttentionStorage>(
    _: Stored.Type, returning extras: AttentionExtras, context: AttentionContext
  ) throws -> AttentionResult<Stored> where Stored.Arithmetic == Element {
    let output = try Tensor<Stored>(uninitializedShape: outputShape)
    let rows = [shape.batchCount, shape.headCount, shape.queryCount]
    func matrix(_ extra: AttentionExtras) throws -> Tensor<Element>? {
      extras.contains(extra) ? try Tensor(uninitializedShape: rows + [shape.keyCount]) : nil
    }
    let logSumExp = extras.contains(.logSumExp) ? try Tensor<Element>(uninitializedShape: rows) : nil
    let weights = try matrix(.weights)
    try run(
      into: output.mutableBase, Stored._dataType, strides: layout.canonical(output.shape, output.strides)!.strides,
      logSumExp: logSumExp?.mutableBase, weights: weights?.mutableBase, context: context)
    let raw = try matrix(.rawScores)
    let capped = try matrix(.cappedScores)
    let masked = try matrix(.maskedScores)
    if raw != nil || capped != nil || masked != nil {
      try writeScores(raw?.mutableBase, capped?.mutableBase, masked?.mutableBase, context: context)
    }
    func ranked(_ tensor: Tensor<Element>?, _ rank: Int) throws -> Tensor<Element>? {
      try tensor.map { try $0.reshaped(Array($0.shape.suffix(rank))) }
    }
    return AttentionResult(
      output: output, layout: layout,
      extras: .init(
        logSumExp: try ranked(logSumExp, rank - 1), weights: try ranked(weights, rank),
        rawScores: try ranked(raw, rank),
        cappedScores: try ranked(capped, rank), maskedScores: try ranked(masked, rank)))
  }

  // This function is specialised, so that everything it calls is specialised too. Otherwise a call from another module
  // would run unspecialised code, which looks up every operation of `Element` in a table.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  private func run(
    into output: UnsafeMutableRawPointer, _ dataType: DataType, strides: [Int],
    logSumExp: UnsafeMutablePointer<Element>?, weights: UnsafeMutablePointer<Element>?, context: AttentionContext
  ) throws {
    let kernels = try context.kernels(for: Element.self)
    if isEmpty { return }
    let outputs = AttentionOutputs(
      output: MutableOperand(base: output, dataType: dataType, strides: strides), logSumExp: logSumExp,
      weights: weights)
    try withExtendedLifetime(self) {
      try forEachPlan(kernels, context) { plan in
        try call(kernels, plan, schedule, softcap: softcap, outputs).run(.results, context: context)
      }
    }
  }

  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  private func writeScores(
    _ raw: UnsafeMutablePointer<Element>?, _ capped: UnsafeMutablePointer<Element>?,
    _ masked: UnsafeMutablePointer<Element>?, context: AttentionContext
  ) throws {
    if isEmpty { return }
    let kernels = try context.kernels(for: Element.self)
    let open = try MaskSchedule<Element>(.none, shape: shape)
    func write(_ scores: UnsafeMutablePointer<Element>?, _ schedule: MaskSchedule<Element>, _ softcap: Element?) throws
    {
      guard let scores else { return }
      try forEachPlan(kernels, context) { plan in
        try call(kernels, plan, schedule, softcap: softcap, nil).run(.scores(scores), context: context)
      }
    }
    try withExtendedLifetime(self) {
      try write(raw, open, nil)
      try write(capped, open, softcap)
      try write(masked, schedule, softcap)
    }
  }

  var isEmpty: Bool { shape.batchCount == 0 || shape.headCount == 0 || shape.queryCount == 0 }
}
