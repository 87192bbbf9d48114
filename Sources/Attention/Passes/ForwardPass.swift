internal import AttentionTensors

/// The one way through attention, whatever the tile kernels.
///
/// For every tile of queries: walk over the tiles of keys that the mask leaves; scores, bias and masks,
/// online softmax, accumulate the values; at the end divide by the sum. Memory stays O(L): a tile of
/// scores per worker. Source: Dao et al. 2022 (arXiv:2205.14135), Algorithm 1, with the loops exchanged
/// as in Dao 2023 (arXiv:2307.08691), §3.1, so that results are written once; and, where there are few
/// queries and many keys, the keys split among pieces and merged by their maxima and sums.
struct AttentionDriver<Tiles: TileKernels> {
  typealias Element = Tiles.Element

  let call: AttentionCall<Element>
  let tiles: Tiles

  init(_ call: AttentionCall<Element>, _: Tiles.Type) {
    self.call = call
    tiles = Tiles(call)
  }

  func run(context: AttentionContext) throws {
    let plan = call.plan
    let width = plan.width(threadCount: context.threadCount)
    var counter = Carver(base: nil)
    _ = tiles.scratch(&counter)
    let scratchByteCount = counter.byteCount
    let stateByteCount = RowState<Element>.byteCount(rowCount: plan.rowsPerTile, valueWidth: call.shape.valueWidth)
    let partialByteCount = plan.splitCount > 1 ? plan.pieceCount * stateByteCount : 0
    let others = copies(width - 1)
    try withScratch(byteCount: width * scratchByteCount + partialByteCount) { memory in
      let scratches = UncheckedSendable(memory)
      let partials = UncheckedSendable(memory + width * scratchByteCount)
      func scratch(_ worker: Int) -> Tiles.Scratch {
        var carver = Carver(base: scratches.value + worker * scratchByteCount)
        return tiles.scratch(&carver)
      }
      func partial(_ tile: Int, _ split: Int) -> RowState<Element> {
        RowState(
          base: partials.value, index: tile * plan.splitCount + split, rowCount: plan.rowsPerTile,
          valueWidth: call.shape.valueWidth)
      }
      func driver(_ worker: Int) -> AttentionDriver { worker == 0 ? self : others[worker - 1] }
      if plan.splitCount == 1 {
        let runCount = (plan.pieceCount + plan.piecesPerRun - 1) / plan.piecesPerRun
        context.execute(pieceCount: runCount, width: width) { run, worker in
          Tiles.onWorker {
            let own = driver(worker)
            let ownScratch = scratch(worker)
            // Last tiles first: under a causal mask they are the longest.
            let first = (runCount - 1 - run) * plan.piecesPerRun
            for piece in first..<min(first + plan.piecesPerRun, plan.pieceCount) { own.attend(piece, ownScratch) }
          }
        }
        return
      }
      context.execute(pieceCount: plan.pieceCount, width: width) { piece, worker in
        Tiles.onWorker {
          let (index, split) = piece.quotientAndRemainder(dividingBy: plan.splitCount)
          driver(worker).attend(index, split: split, into: partial(index, split), scratch(worker))
        }
      }
      context.execute(pieceCount: plan.pieceCount / plan.splitCount, width: width) { index, worker in
        Tiles.onWorker {
          let own = driver(worker)
          let tile = own.call.tile(index)
          let whole = partial(index, 0)
          for split in 1..<plan.splitCount { own.call.merge(partial(index, split), into: whole, tile) }
          own.call.finish(tile, whole)
          own.writeWeights(tile, maximum: whole.maximum, sum: whole.sum, scratch(worker))
        }
      }
    }
  }

  /// One for each further thread: threads that count references to one call wait for one another's caches, which cost heads
  /// of 16 queries up to a fifth.
  private func copies(_ count: Int) -> [AttentionDriver] {
    (0..<max(count, 0)).map { _ in AttentionDriver(AttentionCall(copying: call), Tiles.self) }
  }

  /// A whole tile, from the first key to the results.
  private func attend(_ index: Int, _ scratch: Tiles.Scratch) {
    let tile = call.tile(index)
    tiles.attend(tile, split: 0, scratch)
    tiles.finish(tile, scratch)
    let state = tiles.state(scratch)
    writeWeights(tile, maximum: state.maximum, sum: state.sum, scratch)
  }

  /// A part of the keys of a tile.
  private func attend(_ index: Int, split: Int, into state: RowState<Element>, _ scratch: Tiles.Scratch) {
    let tile = call.tile(index)
    tiles.attend(tile, split: split, scratch)
    tiles.store(tile, scratch, into: state)
  }

  /// Writes the weights, if they are wanted: 0 where nothing is attended, then split by split as they were attended.
  private func writeWeights(
    _ tile: AttentionCall<Element>.Tile, maximum: UnsafePointer<Element>, sum: UnsafePointer<Element>,
    _ scratch: Tiles.Scratch
  ) {
    guard let weights = call.outputs.weights else { return }
    // What functions forbid in rows that are NaN, only the scores tell.
    var forbidden: [[Bool]] = []
    if !call.schedule.functions.isEmpty && (0..<tile.rowCount).contains(where: { sum[$0].isNaN }) {
      call.fill(weights, tile, with: -.infinity)
      for split in 0..<call.plan.splitCount { tiles.writeScores(weights, tile, split: split, scratch) }
      tile.forEachRow(0..<tile.rowCount) { row, head, query in
        let scores = call.row(of: weights, tile, head: head, query: query)
        forbidden.append(sum[row].isNaN ? (0..<call.shape.keyCount).map { scores[$0] == -.infinity } : [])
      }
    }
    call.fill(weights, tile, with: 0)
    for split in 0..<call.plan.splitCount {
      tiles.writeWeights(weights, tile, split: split, maximum: maximum, sum: sum, scratch)
    }
    call.correctWeights(weights, tile, sum: sum, forbidden)
  }

  /// The scores as they go into the softmax, −inf where they are masked; and nothing else.
  func writeScores(_ scores: UnsafeMutablePointer<Element>, context: AttentionContext) throws {
    let plan = call.plan
    let width = plan.width(threadCount: context.threadCount)
    var counter = Carver(base: nil)
    _ = tiles.scratch(&counter)
    let scratchByteCount = counter.byteCount
    try withScratch(byteCount: width * scratchByteCount) { memory in
      let scratches = UncheckedSendable(memory)
      let scores = UncheckedSendable(scores)
      context.execute(pieceCount: plan.pieceCount / plan.splitCount, width: width) { index, worker in
        Tiles.onWorker {
          var carver = Carver(base: scratches.value + worker * scratchByteCount)
          let scratch = tiles.scratch(&carver)
          let tile = call.tile(index)
          call.fill(scores.value, tile, with: -.infinity)
          for split in 0..<plan.splitCount { tiles.writeScores(scores.value, tile, split: split, scratch) }
        }
      }
    }
  }
}
