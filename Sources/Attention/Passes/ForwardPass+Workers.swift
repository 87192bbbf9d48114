internal import AttentionTensors

// How a forward pass is divided into tasks, and the memory that each worker uses.

extension ForwardPass {
  /// Computes the outputs or the scores of a call on the threads of a context.
  static func run(
    _ call: AttentionCall<Element>, _ work: AttentionCall<Element>.Work, context: AttentionContext
  ) throws {
    switch work {
    case .scores(let scores): try writeScores(scores, call, context: context)
    case .results where call.plan.splitsPerTile > 1: try runSplits(call, context: context)
    case .results: try runTiles(call, context: context)
    }
  }

  /// Computes the outputs of a call. Each task computes some tiles of queries.
  private static func runTiles(_ call: AttentionCall<Element>, context: AttentionContext) throws {
    try withWorkers(call, context) { workers in
      let plan = call.plan
      let taskCount = (plan.tileCount + plan.tilesPerTask - 1) / plan.tilesPerTask
      context.execute(taskCount: taskCount, threadCount: workers.count) { task, worker in
        Tiles.onWorker(call.kernels) {
          let own = workers.pass(worker)
          // The last tiles are computed first: under a causal mask they take the longest.
          let first = (taskCount - 1 - task) * plan.tilesPerTask
          let last = min(first + plan.tilesPerTask, plan.tileCount) - 1
          var tile = call.tile(first)
          for index in first..<last {
            let next = call.tile(index + 1)
            if plan.expectsNextTile { own.tiles.expect(next) }
            own.attend(tile)
            tile = next
          }
          own.attend(tile)
        }
      }
    }
  }

  /// Writes only the scores, as they go into the softmax: −inf where they are masked.
  private static func writeScores(
    _ scores: UnsafeMutablePointer<Element>, _ call: AttentionCall<Element>, context: AttentionContext
  ) throws {
    let scores = UncheckedSendable(scores)
    try withWorkers(call, context) { workers in
      context.execute(taskCount: call.plan.tileCount, threadCount: workers.count) { index, worker in
        Tiles.onWorker(call.kernels) { workers.pass(worker).writeScores(scores.value, call.tile(index)) }
      }
    }
  }

  /// Computes the outputs of a call that has few tiles of queries and many keys. Each split of a tile's keys is a task.
  /// The states of the splits are then merged.
  private static func runSplits(_ call: AttentionCall<Element>, context: AttentionContext) throws {
    let (plan, columnCount) = (call.plan, call.shape.valueDimension)
    let stateByteCount = RowState<Element>.byteCount(rowCount: plan.rowsPerTile, valueDimension: columnCount)
    // At most `count` splits of each tile are computed at a time. So the memory is bounded, whatever the number of
    // keys.
    let most = max(1, Self.stateByteLimit / (plan.tileCount * stateByteCount))
    let count = min(plan.splitsPerTile, most)
    let sharedByteCount = plan.tileCount * (count + 1) * stateByteCount
    try withWorkers(call, context, sharedByteCount: sharedByteCount) { workers in
      func state(_ tile: Int, _ split: Int) -> RowState<Element> {
        RowState(
          base: workers.shared, index: tile * (count + 1) + split, rowCount: plan.rowsPerTile,
          valueDimension: columnCount)
      }
      for first in stride(from: 0, to: plan.splitsPerTile, by: count) {
        let splits = first..<min(first + count, plan.splitsPerTile)
        context.execute(taskCount: plan.tileCount * splits.count, threadCount: workers.count) { task, worker in
          Tiles.onWorker(call.kernels) {
            let (index, split) = task.quotientAndRemainder(dividingBy: splits.count)
            let (own, tile) = (workers.pass(worker), call.tile(index))
            own.attend(tile, split: first + split, into: state(index, 1 + split))
          }
        }
        let isLast = splits.upperBound == plan.splitsPerTile
        context.execute(taskCount: plan.tileCount, threadCount: workers.count) { index, worker in
          Tiles.onWorker(call.kernels) {
            let (own, tile, whole) = (workers.pass(worker), call.tile(index), state(index, 0))
            if first == 0 { whole.copy(state(index, 1), rowCount: tile.rowCount) }
            for split in (first == 0 ? 1 : 0)..<splits.count {
              whole.merge(state(index, 1 + split), rowCount: tile.rowCount, own.call.kernels)
            }
            if isLast {
              own.finish(tile, whole)
              own.clearEmptyQueries(tile)
            }
          }
        }
      }
    }
  }

  /// The most bytes that the states of splits may take before they are merged, unless one split of each tile takes
  /// more.
  private static var stateByteLimit: Int { 16 << 20 }

  /// The workers of a call, each with a pass in memory of its own.
  private struct Workers: @unchecked Sendable {
    let count: Int
    fileprivate let call: AttentionCall<Element>
    /// One copy of the call for each worker after the first. If threads counted references to the same call, they would
    /// wait for each other's caches. These waits took up to a fifth of the time of calls whose heads have 16 queries
    /// (Zen 4, 2026-11).
    fileprivate let copies: [AttentionCall<Element>]
    fileprivate let memory: UnsafeMutableRawPointer
    fileprivate let byteCount: Int

    func pass(_ worker: Int) -> ForwardPass {
      var arrays = ScratchArrays(base: memory + worker * byteCount)
      return ForwardPass(worker == 0 ? call : copies[worker - 1], &arrays)
    }

    /// The memory that all workers share.
    var shared: UnsafeMutableRawPointer { memory + count * byteCount }
  }

  /// Calls `body` with the workers of a call, and with `sharedByteCount` bytes that the workers share.
  private static func withWorkers(
    _ call: AttentionCall<Element>, _ context: AttentionContext, sharedByteCount: Int = 0, _ body: (Workers) -> Void
  ) throws {
    let count = call.plan.workerCount(threadCount: context.threadCount)
    var counter = ScratchArrays(base: nil)
    _ = ForwardPass(call, &counter)
    let byteCount = counter.byteCount
    let copies = (1..<count).map { _ in AttentionCall(copying: call) }
    try withScratch(byteCount: count * byteCount + sharedByteCount) { memory in
      body(Workers(count: count, call: call, copies: copies, memory: memory, byteCount: byteCount))
    }
  }
}
