internal import AttentionTensors

extension AttentionProblem {
  static var gradientSubject: String { "scaledDotProductAttentionGradients" }

  /// The gradients of a checked call. `mask` is the one that the call was made with.
  @_specialize(where Element == Float, Stored == Float, StoredKey == Float)
  @_specialize(where Element == Double, Stored == Double, StoredKey == Double)
  func gradients<Stored: AttentionStorage, StoredKey: AttentionStorage>(
    _: StoredKey.Type, _ mask: AttentionMask, result: AttentionResult<Stored>, outputGradient: Tensor<Stored>,
    returning extras: AttentionGradientExtras, context: AttentionContext
  ) throws -> AttentionGradients<Stored, StoredKey>
  where Stored.Arithmetic == Element, StoredKey.Arithmetic == Element {
    let logSumExp = try checkedLogSumExp(result)
    try requireShape(
      outputGradient.shape == outputShape, Self.gradientSubject,
      "an output gradient of shape \(outputShape) expected; got \(outputGradient.shape)")
    let functions = schedule.terms?.functions ?? []
    try requireArgument(
      functions.allSatisfy { $0.derivative != nil }, Self.gradientSubject,
      "a derivative expected for the function of scores: AttentionMask.scores(_:_:derivative:)")
    try requireArgument(
      functions.count <= 1, Self.gradientSubject, "at most one function of scores expected; got \(functions.count)")
    let parameterCount = functions.first?.parameterCount ?? 0
    try requireArgument(
      parameterCount >= 0, Self.gradientSubject,
      "a number of parameters of 0 or more expected; got \(parameterCount)")
    try requireArgument(
      !extras.contains(.sinks) || sinks != nil, Self.gradientSubject,
      "sinks expected, because their gradients are asked for; got none")

    func gradient<Value: AttentionStorage>(_: Value.Type, of input: AttentionInput) throws -> Tensor<Value> {
      let shape = layout.shape(input.shape, rank: rank)
      return isEmpty ? try Tensor(repeating: Value(_nearest: 0), shape: shape) : try Tensor(uninitializedShape: shape)
    }
    let queryGradient = try gradient(Stored.self, of: query)
    let keyGradient = try gradient(StoredKey.self, of: key)
    let valueGradient = try gradient(StoredKey.self, of: value)
    func operand<Value: AttentionStorage>(_ tensor: Tensor<Value>) -> MutableOperand {
      MutableOperand(
        base: tensor.mutableBase, dataType: Value._dataType,
        strides: layout.canonical(tensor.shape, tensor.strides)!.strides)
    }
    func readOperand(_ tensor: Tensor<Stored>) -> Operand {
      Operand(
        base: tensor.base, dataType: Stored._dataType, strides: layout.canonical(tensor.shape, tensor.strides)!.strides)
    }
    let rowCount = shape.batchCount * shape.headCount * shape.queryCount
    let delta = try Tensor<Element>(uninitializedShape: [rowCount])
    let biasShapes = extras.contains(.biases) ? mask.biases.map(\.shape) : []
    let distanceCount = extras.contains(.alibiSlopes) ? mask.distances.count : 0

    let kernels = try context.kernels(for: Element.self)
    let plan = AttentionPlan(
      gradientsOf: shape, schedule: schedule, kernels: kernels, context: context)
    let wide = biasShapes.map { Array(repeating: 1, count: 4 - $0.count) + $0 }
    // The probes serve only to find out whether units share elements of a bias, because the number of copies of its
    // gradient depends on that. The answer follows from shapes alone, so the address of a probe is not used.
    let probes = wide.map { BiasGradient(delta.mutableBase, shape: $0) }
    let regionCount = max(1, shape.keyCount.dividedRoundingUp(by: plan.keyTileLength))
    let unitCount = shape.batchCount * shape.keyValueHeadCount
    let copyCount = GradientSchedule.copyCount(
      sharesBiases: probes.contains { $0.isShared(by: shape) }, unitCount: unitCount, regionCount: regionCount)
    let copies = try zip(biasShapes, probes).map { biasShape, probe in
      try Tensor<Element>(repeating: 0, shape: (probe.isBroadcastOverKeys ? [1] : [copyCount]) + biasShape)
    }
    let biases = zip(wide, copies).map { BiasGradient($1.mutableBase, shape: $0) }
    let rowBiases = biases.indices.filter { biases[$0].isBroadcastOverKeys }
    let sums = try Tensor<Element>(repeating: 0, shape: [rowBiases.count + distanceCount, rowCount])
    let rowSums = RowSums(biases: rowBiases, distanceCount: distanceCount, sums: sums.mutableBase)

    var scoreParameters = try Tensor<Element>(repeating: 0, shape: [parameterCount])
    if !isEmpty {
      let call = call(kernels, plan, schedule, softcap: softcap, nil)
      let regions = (0..<shape.batchCount).map { call.keyRegions(batch: $0) }
      let most = regions.map(\.count).max() ?? 0
      let parameters = try Tensor<Element>(repeating: 0, shape: [unitCount * most, parameterCount])
      let gradients = GradientCall(
        call: call, outputGradient: readOperand(outputGradient), output: readOperand(result.output),
        logSumExp: logSumExp.base, delta: delta.mutableBase, query: operand(queryGradient), key: operand(keyGradient),
        value: operand(valueGradient), biases: biases, copyCount: copyCount, rowSums: rowSums, keyRegions: regions,
        parameterSums: ScoreParameterSums(
          base: parameters.mutableBase, regionCount: most, parameterCount: parameterCount))
      try withExtendedLifetime((self, result, outputGradient, logSumExp, delta, copies, sums, parameters)) {
        try run(gradients, context: context)
      }
      if parameterCount > 0 { scoreParameters = try columnSums(parameters, context) }
    }
    for (sum, index) in rowBiases.enumerated() { addRowSums(sums, sum, to: biases[index], context) }
    return AttentionGradients(
      query: queryGradient, key: keyGradient, value: valueGradient,
      extras: .init(
        biases: extras.contains(.biases)
          ? try zip(copies, biasShapes).map { copies, biasShape in
            // The first copy holds the sum of all. It is copied, because a view of it would keep the memory of all
            // copies.
            let first = try copies.select(0, axis: 0).reshaped(biasShape)
            return copies.shape[0] > 1 ? try first.copied() : first
          } : nil,
        alibiSlopes: extras.contains(.alibiSlopes)
          ? try (0..<distanceCount).map { try slopeGradient(sums, rowBiases.count + $0, context) } : nil,
        sinks: extras.contains(.sinks) ? try sinkGradient(logSumExp, delta, context) : nil,
        scoreParameters: extras.contains(.scoreParameters) ? scoreParameters : nil))
  }

  /// Runs the backward pass. This function is specialised for the types that attention computes in. So specialised code
  /// also serves operands of two-byte types, which are computed in Float.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  private func run(_ gradients: GradientCall<Element>, context: AttentionContext) throws {
    switch gradients.call.plan.tiles {
    case .openBLAS: try BackwardPass<RowGradientTiles<Element>>.run(gradients, context: context)
    case .matrix: try BackwardPass<LaneGradientTiles<MatrixTiles<Element>>>.run(gradients, context: context)
    case .lanes, .fewRows: try BackwardPass<LaneGradientTiles<LaneTiles<Element>>>.run(gradients, context: context)
    }
  }

  /// The log-sum-exp of a result of this call, contiguous.
  private func checkedLogSumExp<Stored: AttentionStorage>(
    _ result: AttentionResult<Stored>
  ) throws -> Tensor<Element> where Stored.Arithmetic == Element {
    try requireArgument(
      result.layout == layout, Self.gradientSubject,
      "a result in the layout of the operands expected; got \(result.layout) and \(layout)")
    try requireShape(
      result.output.shape == outputShape, Self.gradientSubject,
      "a result with an output of shape \(outputShape) expected; got \(result.output.shape)")
    guard let logSumExp = try? result.logSumExp else {
      throw AttentionError(
        .invalidArgument, Self.gradientSubject,
        "a result with its log-sum-exp expected: call scaledDotProductAttention with returning: .logSumExp")
    }
    let rows = Array([shape.batchCount, shape.headCount, shape.queryCount].suffix(rank - 1))
    try requireShape(
      logSumExp.shape == rows, Self.gradientSubject,
      "a log-sum-exp of shape \(rows) expected; got \(logSumExp.shape)")
    return try logSumExp.contiguous()
  }

  // MARK: Sums of rows

  /// Adds row sums, Σⱼ dS of each query, to the gradient of a bias that has one element for all keys. `index`: which of
  /// the ``RowSums`` belongs to the bias.
  ///
  /// forward: S = x + bias  ⇒  dbias[b, h, i, 0] += Σⱼ dS[b, h, i, j]
  private func addRowSums(
    _ sums: Tensor<Element>, _ index: Int, to bias: BiasGradient<Element>, _ context: AttentionContext
  ) {
    let bias = UncheckedSendable(bias)
    // There is only one task, because several queries may share an element of the bias.
    context.parallelFor(count: 1, nanosecondsPerItem: .infinity) { _, _ in
      for batch in 0..<shape.batchCount {
        for head in 0..<shape.headCount {
          forEachRow(batch: batch, head: head) { row, query in
            bias.value.row(batch: batch, head: head, query: query).pointee += self.sum(sums, index, row: row)
          }
        }
      }
    }
  }

  /// `[H]`: the gradients of the slopes of one linear bias (ALiBi). `index`: which of the ``RowSums`` belongs to it.
  ///
  /// forward: S = x − slope·distance, where distance is |position − key|  ⇒  dslope[h] = −Σ dS·distance
  private func slopeGradient(
    _ sums: Tensor<Element>, _ index: Int, _ context: AttentionContext
  ) throws -> Tensor<Element> {
    try headGradient(context) { _, _, row in -sum(sums, index, row: row)._double }
  }

  /// `[H]`: the gradients of the sinks.
  ///
  /// forward: the sink takes the weight p = exp(sink − log-sum-exp), and has no value  ⇒  dsink[h] = −Σ p·Δ, where Δ is
  /// `delta`, rowsum(dO ∘ O)
  private func sinkGradient(
    _ logSumExp: Tensor<Element>, _ delta: Tensor<Element>, _ context: AttentionContext
  ) throws -> Tensor<Element> {
    let sinks = sinks!
    return try headGradient(context) { batch, head, row in
      let (sink, total, delta) = (sinks.base[head], logSumExp.base[row], delta.base[row])
      if sink == -.infinity { return 0 }
      // The output of a query that attends to nothing is 0, whatever the sink is. So such a query adds nothing, even if
      // dO is NaN.
      if delta.isNaN && total == sink {
        let query = row % shape.queryCount
        let attends = (0..<shape.keyCount).contains {
          schedule.attends(batch: batch, head: head, query: query, key: $0)
        }
        if !attends { return 0 }
      }
      // `total` and `sink` are compared before they are subtracted, because ∞ − ∞ is NaN.
      let share = total == sink ? 1 : (sink - total)._double.exponential
      return -share * delta._double
    }
  }

  private func sum(_ sums: Tensor<Element>, _ index: Int, row: Int) -> Element {
    sums.base[index * shape.batchCount * shape.headCount * shape.queryCount + row]
  }

  /// `[H]`: for each head, the sum of `term` over the head's queries in all elements of the batch, added up in Double.
  private func headGradient(
    _ context: AttentionContext, _ term: (_ batch: Int, _ head: Int, _ row: Int) -> Double
  ) throws -> Tensor<Element> {
    let result = try Tensor<Element>(repeating: 0, shape: [shape.headCount])
    let target = UncheckedSendable(result.mutableBase)
    let nanoseconds = 5 * Double(shape.batchCount) * Double(shape.queryCount)
    withoutActuallyEscaping(term) { term in
      let term = UncheckedSendable(term)
      context.parallelFor(count: shape.headCount, nanosecondsPerItem: nanoseconds) { heads, _ in
        for head in heads {
          var sum = 0.0
          for batch in 0..<shape.batchCount {
            forEachRow(batch: batch, head: head) { row, _ in sum += term.value(batch, head, row) }
          }
          target.value[head] = Element(_nearest: sum)
        }
      }
    }
    return result
  }

  private func forEachRow(batch: Int, head: Int, _ body: (_ row: Int, _ query: Int) -> Void) {
    for query in 0..<shape.queryCount { body(shape.row(batch: batch, head: head, query: query), query) }
  }
}
