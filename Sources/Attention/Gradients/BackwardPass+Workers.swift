internal import AttentionTensors

// How a backward pass is divided into tasks, and the memory that each worker uses.

extension BackwardPass {
  /// Computes the gradients of a call on the threads of a context.
  ///
  /// A unit is a key/value head of an element of the batch. A task is either a unit with all its regions of keys, or
  /// one region of a unit. In the second case each task stores its own sums of dQ, the gradient of the query. After
  /// every ``GradientSchedule/regionsPerStep`` regions of a unit, these sums are added in the order of the regions.
  static func run(_ gradients: GradientCall<Element>, context: AttentionContext) throws {
    computeDelta(gradients, context)
    var counter = ScratchArrays(base: nil)
    let querySumCount = BackwardPass(gradients, &counter).tiles.querySumCount
    let schedule = GradientSchedule(
      unitCount: gradients.unitCount, regionCount: gradients.parameterSums.regionCount, copyCount: gradients.copyCount,
      sharesBiases: gradients.biases.contains { $0.isShared(by: gradients.call.shape) },
      threadCount: context.threadCount,
      unitByteCount: gradients.mostTiles * querySumCount * MemoryLayout<Element>.stride)
    try withWorkers(gradients, schedule, context) { workers in
      if !schedule.sharesUnits { return runUnits(gradients, workers, context) }
      for round in schedule.rounds { runRegions(gradients, round, schedule, workers, context) }
    }
    for bias in gradients.biases { bias.merge(copyCount: schedule.copyCount, gradients.call.kernels, context) }
  }

  /// Computes Δ = rowsum(dO ∘ O) of every query, where O is the output and dO its gradient.
  private static func computeDelta(_ gradients: GradientCall<Element>, _ context: AttentionContext) {
    let (shape, kernels) = (gradients.call.shape, gradients.call.kernels)
    let columnCount = shape.valueDimension
    let isInPlace = [gradients.output, gradients.outputGradient].allSatisfy { $0.half == nil && $0.columnStride == 1 }
    let target = UncheckedSendable(gradients.delta)
    context.parallelFor(
      count: shape.batchCount * shape.headCount, nanosecondsPerItem: Double(shape.queryCount * (columnCount / 8 + 10))
    ) { heads, _ in
      withUnsafeTemporaryAllocation(of: Element.self, capacity: 2 * columnCount) { rows in
        for index in heads {
          let (batch, head) = index.quotientAndRemainder(dividingBy: shape.headCount)
          for query in 0..<shape.queryCount {
            func row(_ operand: Operand, _ place: Int) -> UnsafePointer<Element> {
              let source = operand.row(batch: batch, head: head, index: query)
              if isInPlace { return source.assumingMemoryBound(to: Element.self) }
              let copy = rows.baseAddress! + place * columnCount
              operand.copyRow(kernels, count: columnCount, from: source, to: copy)
              return UnsafePointer(copy)
            }
            target.value[shape.row(batch: batch, head: head, query: query)] = kernels.dot(
              columnCount, row(gradients.output, 0), row(gradients.outputGradient, 1))
          }
        }
      }
    }
  }

  private static func runUnits(
    _ gradients: GradientCall<Element>, _ workers: Workers, _ context: AttentionContext
  ) {
    context.execute(taskCount: gradients.unitCount, threadCount: workers.count) { unit, worker in
      Tiles.onWorker(gradients.call.kernels) {
        let (own, sums) = (workers.pass(worker), workers.sums(worker))
        let count = own.tiles.querySumCount
        let tileCount = gradients.tileCount(ofUnit: unit)
        sums.update(repeating: 0, count: tileCount * count)
        for region in gradients.keyRegions[gradients.batch(ofUnit: unit)].indices {
          own.differentiate(unit: unit, region: region, copy: 0) { index, added in
            gradients.call.kernels.add(count, added, to: sums + index * count)
          }
        }
        for index in 0..<tileCount { own.finish(unit: unit, index: index, sums + index * count) }
      }
    }
  }

  /// Computes some units at the same time, with one task for each region of a unit. Each unit has memory for the sums
  /// of dQ over all its regions, and for the sums of ``GradientSchedule/regionsPerStep`` single regions.
  private static func runRegions(
    _ gradients: GradientCall<Element>, _ units: [Int], _ schedule: GradientSchedule, _ workers: Workers,
    _ context: AttentionContext
  ) {
    let (tileCount, stepCount) = (gradients.mostTiles, schedule.regionsPerStep)
    let count = workers.querySumCount
    let blockCount = tileCount * count
    func regionCount(of unit: Int) -> Int { gradients.keyRegions[gradients.batch(ofUnit: unit)].count }
    func sums(_ slot: Int, _ step: Int) -> UnsafeMutablePointer<Element> {
      workers.shared + (slot * (stepCount + 1) + step) * blockCount
    }
    /// The flag of one region and one tile of queries: true if the region has sums for this tile.
    func hasSums(_ slot: Int, _ step: Int, tile: Int) -> UnsafeMutablePointer<Bool> {
      workers.flags + (slot * (stepCount + 1) + step) * tileCount + tile
    }
    let most = units.map { regionCount(of: $0) }.max() ?? 0
    for slot in units.indices { sums(slot, 0).update(repeating: 0, count: blockCount) }
    for first in stride(from: 0, to: most, by: stepCount) {
      let steps = min(stepCount, most - first)
      context.execute(taskCount: steps * units.count, threadCount: workers.count) { task, worker in
        let (step, slot) = task.quotientAndRemainder(dividingBy: units.count)
        let target = sums(slot, 1 + step)
        hasSums(slot, 1 + step, tile: 0).update(repeating: false, count: tileCount)
        if first + step >= regionCount(of: units[slot]) { return }
        Tiles.onWorker(gradients.call.kernels) {
          let pass = workers.pass(worker)
          pass.differentiate(
            unit: units[slot], region: first + step, copy: schedule.copy(ofUnit: units[slot])
          ) {
            (target + $0 * count).update(from: $1, count: count)
            hasSums(slot, 1 + step, tile: $0).pointee = true
          }
        }
      }
      context.execute(taskCount: units.count * tileCount, threadCount: workers.count) { task, _ in
        let (slot, tile) = task.quotientAndRemainder(dividingBy: tileCount)
        for step in 0..<steps where hasSums(slot, 1 + step, tile: tile).pointee {
          gradients.call.kernels.add(count, sums(slot, 1 + step) + tile * count, to: sums(slot, 0) + tile * count)
        }
      }
    }
    context.execute(taskCount: units.count * tileCount, threadCount: workers.count) { task, worker in
      Tiles.onWorker(gradients.call.kernels) {
        let (slot, tile) = task.quotientAndRemainder(dividingBy: tileCount)
        if tile >= gradients.tileCount(ofUnit: units[slot]) { return }
        workers.pass(worker).finish(unit: units[slot], index: tile, sums(slot, 0) + tile * count)
      }
    }
  }

  /// The workers of a call. Each worker has memory of its own for a pass and, unless tasks share units, for the sums of
  /// dQ of one unit.
  private struct Workers: @unchecked Sendable {
    let count: Int
    fileprivate let gradients: GradientCall<Element>
    fileprivate let memory: UnsafeMutableRawPointer
    fileprivate let byteCount: Int
    fileprivate let passByteCount: Int
    let querySumCount: Int

    func pass(_ worker: Int) -> BackwardPass {
      var arrays = ScratchArrays(base: memory + worker * byteCount)
      return BackwardPass(gradients, &arrays)
    }

    /// A worker's own sums of dQ, for one unit. Used only if tasks do not share units.
    func sums(_ worker: Int) -> UnsafeMutablePointer<Element> {
      (memory + worker * byteCount + passByteCount).assumingMemoryBound(to: Element.self)
    }

    /// The sums of dQ that all workers share: those of units and of single regions. Used only if tasks share units.
    var shared: UnsafeMutablePointer<Element> { (memory + count * byteCount).assumingMemoryBound(to: Element.self) }
    fileprivate let sharedByteCount: Int
    /// For each region in shared memory and each tile of queries: true if the region has sums for this tile.
    var flags: UnsafeMutablePointer<Bool> {
      (memory + count * byteCount + sharedByteCount).assumingMemoryBound(to: Bool.self)
    }
  }

  private static func withWorkers(
    _ gradients: GradientCall<Element>, _ schedule: GradientSchedule, _ context: AttentionContext,
    _ body: (Workers) -> Void
  ) throws {
    let count = gradients.call.plan.workerCount(threadCount: context.threadCount, taskCount: schedule.taskCount)
    var counter = ScratchArrays(base: nil)
    let pass = BackwardPass(gradients, &counter)
    let passByteCount = counter.byteCount
    let querySumCount = pass.tiles.querySumCount
    let unitCount = gradients.mostTiles * querySumCount
    var own = ScratchArrays(base: nil)
    let _: UnsafeMutablePointer<Element> = own.take(schedule.sharesUnits ? 0 : unitCount)
    let byteCount = passByteCount + own.byteCount
    let blockCount = schedule.sharesUnits ? schedule.slotCount * (schedule.regionsPerStep + 1) : 0
    let sharedByteCount = blockCount * unitCount * MemoryLayout<Element>.stride
    try withScratch(byteCount: count * byteCount + sharedByteCount + blockCount * gradients.mostTiles) { memory in
      body(
        Workers(
          count: count, gradients: gradients, memory: memory, byteCount: byteCount, passByteCount: passByteCount,
          querySumCount: querySumCount, sharedByteCount: sharedByteCount))
    }
  }
}
