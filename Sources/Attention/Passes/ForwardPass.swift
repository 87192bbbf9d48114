internal import AttentionTensors

/// Attention forward: the loops over tiles of queries, over their keys, and over blocks of scores.
///
/// Memory stays O(L): a block of scores for each worker. Source: Dao et al. 2022 (arXiv:2205.14135), Algorithm 1, with the
/// loops exchanged as in Dao 2023 (arXiv:2307.08691), §3.1, so that results are written once.
///
/// **The same bits, whatever else is computed.** A row's keys are reduced in an order that depends on nothing but its own keys:
/// tiles of keys, and splits of several tiles, begin at multiples of their length in the row's sequence; a tile's softmax and its
/// sum of values are one step for each row, however the tile is cut into blocks; and each split starts from nothing and is then
/// merged into those before it, whether one worker computes them in turn or several do at once.
struct ForwardPass<Tiles: TilePrimitives> {
  typealias Element = Tiles.Element

  let call: AttentionCall<Element>
  let tiles: Tiles
  /// What several splits of a tile's keys gave together, and one of them by itself; nil where no tile has several.
  let whole: RowState<Element>?
  let part: RowState<Element>?

  var modifiers: ScoreModifiers<Tiles.Scores> { ScoreModifiers(layout: tiles.scores) }

  /// A worker's pass, in memory that `carver` takes from a block; without a block it only counts.
  private init(_ call: AttentionCall<Element>, _ carver: inout Carver) {
    self.call = call
    tiles = Tiles(call, &carver)
    func state(_ carver: inout Carver) -> RowState<Element>? {
      call.plan.needsStates
        ? RowState(&carver, rowCount: call.plan.rowsPerTile, valueWidth: call.shape.valueWidth) : nil
    }
    whole = state(&carver)
    part = state(&carver)
  }

  // MARK: Workers

  static func run(
    _ call: AttentionCall<Element>, _ work: AttentionCall<Element>.Work, context: AttentionContext
  ) throws {
    switch work {
    case .scores(let scores): try writeScores(scores, call, context: context)
    case .results where call.plan.splitsPerTile > 1: try runSplits(call, context: context)
    case .results: try runTiles(call, context: context)
    }
  }

  /// Computes the outputs of a call, each task some tiles of queries.
  private static func runTiles(_ call: AttentionCall<Element>, context: AttentionContext) throws {
    try withWorkers(call, context) { workers in
      let plan = call.plan
      let taskCount = (plan.tileCount + plan.tilesPerTask - 1) / plan.tilesPerTask
      context.execute(pieceCount: taskCount, width: workers.count) { task, worker in
        Tiles.onWorker {
          let own = workers.pass(worker)
          // Last tiles first: under a causal mask they are the longest.
          let first = (taskCount - 1 - task) * plan.tilesPerTask
          for index in first..<min(first + plan.tilesPerTask, plan.tileCount) { own.attend(call.tile(index)) }
        }
      }
    }
  }

  /// The scores as they go into the softmax, −inf where they are masked; and nothing else.
  private static func writeScores(
    _ scores: UnsafeMutablePointer<Element>, _ call: AttentionCall<Element>, context: AttentionContext
  ) throws {
    let scores = UncheckedSendable(scores)
    try withWorkers(call, context) { workers in
      context.execute(pieceCount: call.plan.tileCount, width: workers.count) { index, worker in
        Tiles.onWorker { workers.pass(worker).writeScores(scores.value, call.tile(index)) }
      }
    }
  }

  /// As ``runTiles``, where tiles are few and keys many: each split of a tile's keys is a task.
  private static func runSplits(_ call: AttentionCall<Element>, context: AttentionContext) throws {
    let (plan, width) = (call.plan, call.shape.valueWidth)
    let stateByteCount = RowState<Element>.byteCount(rowCount: plan.rowsPerTile, valueWidth: width)
    // Bounded, whatever the number of keys: splits are computed some at a time.
    let most = max(1, Self.stateByteLimit / (plan.tileCount * stateByteCount))
    let count = min(plan.splitsPerTile, most)
    let sharedByteCount = plan.tileCount * (count + 1) * stateByteCount
    try withWorkers(call, context, sharedByteCount: sharedByteCount) { workers in
      func state(_ tile: Int, _ split: Int) -> RowState<Element> {
        RowState(base: workers.shared, index: tile * (count + 1) + split, rowCount: plan.rowsPerTile, valueWidth: width)
      }
      for first in stride(from: 0, to: plan.splitsPerTile, by: count) {
        let splits = first..<min(first + count, plan.splitsPerTile)
        context.execute(pieceCount: plan.tileCount * splits.count, width: workers.count) { task, worker in
          Tiles.onWorker {
            let (index, split) = task.quotientAndRemainder(dividingBy: splits.count)
            let (own, tile) = (workers.pass(worker), call.tile(index))
            own.attend(tile, split: first + split)
            own.store(tile, into: state(index, 1 + split))
          }
        }
        let isLast = splits.upperBound == plan.splitsPerTile
        context.execute(pieceCount: plan.tileCount, width: workers.count) { index, worker in
          Tiles.onWorker {
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

  /// Memory for the states of splits that are not merged yet.
  private static var stateByteLimit: Int { 16 << 20 }

  /// The workers of a call, each with a pass in memory of its own.
  private struct Workers: @unchecked Sendable {
    let count: Int
    fileprivate let call: AttentionCall<Element>
    /// One for each further thread: threads that count references to one call wait for one another's caches, which cost heads of
    /// 16 queries up to a fifth of their time (Zen 4, 2026-11).
    fileprivate let copies: [AttentionCall<Element>]
    fileprivate let memory: UnsafeMutableRawPointer
    fileprivate let byteCount: Int

    func pass(_ worker: Int) -> ForwardPass {
      var carver = Carver(base: memory + worker * byteCount)
      return ForwardPass(worker == 0 ? call : copies[worker - 1], &carver)
    }

    /// Memory for all of them.
    var shared: UnsafeMutableRawPointer { memory + count * byteCount }
  }

  /// Calls `body` with the workers of a call, and `sharedByteCount` bytes for all of them.
  private static func withWorkers(
    _ call: AttentionCall<Element>, _ context: AttentionContext, sharedByteCount: Int = 0, _ body: (Workers) -> Void
  ) throws {
    let count = call.plan.width(threadCount: context.threadCount)
    var counter = Carver(base: nil)
    _ = ForwardPass(call, &counter)
    let byteCount = counter.byteCount
    let copies = (1..<count).map { _ in AttentionCall(copying: call) }
    try withScratch(byteCount: count * byteCount + sharedByteCount) { memory in
      body(Workers(count: count, call: call, copies: copies, memory: memory, byteCount: byteCount))
    }
  }

  // MARK: Tiles of queries

  /// A whole tile, from the first key to the results.
  private func attend(_ tile: QueryTile) {
    defer { clearEmptyQueries(tile) }
    if tile.rowCount == 0 { return }
    guard let whole, let part else {
      attend(tile, in: 0..<call.shape.keyCount)
      return finish(tile)
    }
    // Splits are as many ranges of keys: each ends where the next one begins.
    var first = 0
    var isFirst = true
    func add(_ keys: Range<Int>) {
      attend(tile, in: keys)
      store(tile, into: isFirst ? whole : part)
      if !isFirst { whole.merge(part, rowCount: tile.rowCount, call.kernels) }
      isFirst = false
    }
    call.forEachKeyTile(tile, in: 0..<call.shape.keyCount) { keyTile in
      guard let start = keyTile.splitStart else { return }
      if start > first { add(first..<start) }
      first = start
    }
    add(first..<call.shape.keyCount)
    finish(tile, whole)
  }

  /// One split of a tile's keys.
  private func attend(_ tile: QueryTile, split: Int) {
    if tile.rowCount == 0 { return }
    attend(
      tile,
      in: call.schedule.split(split, batch: tile.batch, queries: tile.queries, length: call.plan.splitLength))
  }

  /// Maximum, sum and result of every row over some keys, from nothing.
  private func attend(_ tile: QueryTile, in keys: Range<Int>) {
    attend(tile, in: keys, TileCare())
    if !tiles.hasFiniteResult(tile) { attendAgain(tile, in: keys) }
  }

  /// The same, and what it takes care of.
  func attend(_ tile: QueryTile, in keys: Range<Int>, _ care: TileCare) {
    let memory = tiles.memory
    if care.normalizesWeights { findNormalizedRows(tile) }
    memory.maximum.update(repeating: -.infinity, count: tile.rowCount)
    memory.sum.update(repeating: 0, count: tile.rowCount)
    if care.normalizesWeights { memory.normalized.restoreMaxima(rowCount: tile.rowCount, memory.maximum) }
    tiles.begin(tile)
    call.forEachKeyTile(tile, in: keys) { keyTile in
      let key = tiles.keys(tile, keyTile.keys, keyTile.set)
      let value = tiles.values(tile, keyTile.keys, keyTile.set, isNative: care.leavesOutHazards)
      let hasHazards = care.leavesOutHazards && !call.isFinite(value.native)
      forEachBlock(tile, keyTile) { block, cut in
        var (ownKey, ownValue) = (key, value)
        if block.keys != keyTile.keys {
          let keys =
            block.keys.lowerBound - keyTile.keys.lowerBound..<block.keys.upperBound - keyTile.keys.lowerBound
          (ownKey, ownValue) = (key.rows(keys), value.rows(keys))
        }
        let maximum = computeScores(block, cut, tile, ownKey, next: ownValue)
        if hasHazards && isHiding(block) {
          return accumulateWithoutHazards(block, cut, tile, ownValue.native, maximum, care)
        }
        tiles.softmax(block, tile, cut, maximum)
        if care.normalizesWeights { normalizeWeights(block) }
        tiles.accumulate(block, cut, ownValue)
      }
    }
    tiles.end(tile)
    if care.normalizesWeights { memory.normalized.restoreSums(rowCount: tile.rowCount, memory.sum) }
    for row in 0..<tile.rowCount { memory.factor[row] = memory.sum[row] == 0 ? 0 : 1 / memory.sum[row] }
    if care.normalizesWeights { finishNormalizedRows(tile) }
  }

  // MARK: Blocks

  /// Calls `body` for every part of a tile of keys that the mask does not leave empty, and how it is cut where an edge of the
  /// mask crosses it.
  @inline(__always)
  func forEachBlock(
    _ tile: QueryTile, _ keyTile: KeyTile, _ body: (_ block: Block<Element>, _ cut: BlockCut?) -> Void
  ) {
    let intervals = keyTile.set.intervals
    let isRagged =
      Tiles.cutsRows && intervals.isRagged
      && intervals.common(batch: tile.batch, queries: tile.queries).clamped(to: keyTile.keys) != keyTile.keys
    tiles.forEachGroup(tile, isRagged: isRagged) { group in
      if call.schedule.blocks(in: keyTile.set).isEmpty { return cut(tile, group, keyTile, hasBlocks: false, body) }
      call.schedule.forEachBlockRun(
        batch: tile.batch, heads: tile.heads(ofRows: group), queries: tile.queries(ofRows: group), keys: keyTile.keys
      ) { keys, isFull in cut(tile, group, keyTile.part(keys), hasBlocks: !isFull, body) }
    }
  }

  @inline(__always)
  private func cut(
    _ tile: QueryTile, _ group: Range<Int>, _ keyTile: KeyTile, hasBlocks: Bool,
    _ body: (_ block: Block<Element>, _ cut: BlockCut?) -> Void
  ) {
    let intervals = keyTile.set.intervals
    if !intervals.isRagged {
      return body(tiles.block(group: group, keyTile, isRagged: false, hasBlocks: hasBlocks), nil)
    }
    let queries = tile.queries(ofRows: group)
    let union = intervals.union(batch: tile.batch, queries: queries).clamped(to: keyTile.keys)
    if union.isEmpty { return }
    let common = intervals.common(batch: tile.batch, queries: queries).clamped(to: union)
    let own = keyTile.part(union)
    if common == union {
      return body(tiles.block(group: group, own, isRagged: false, hasBlocks: hasBlocks), nil)
    }
    let strips = tiles.memory.strips
    var index = 0
    for first in stride(from: group.lowerBound, to: group.upperBound, by: tiles.stripLength) {
      let rows = first..<min(first + tiles.stripLength, group.upperBound)
      strips[index] = intervals.union(batch: tile.batch, queries: tile.queries(ofRows: rows)).clamped(to: union)
      index += 1
    }
    // One strip is its own block.
    let isWhole = index == 1
    body(
      tiles.block(group: group, own, isRagged: true, hasBlocks: hasBlocks),
      BlockCut(
        common: isWhole ? union.lowerBound..<union.lowerBound : common, strips: strips, stripLength: tiles.stripLength))
  }

  /// scores ← the scores of attended keys, −inf where something other than their interval forbids.
  /// - Returns: Whether ``TileMemory/newMaximum`` is the maximum of those that every row attends to.
  func computeScores(
    _ block: Block<Element>, _ cut: BlockCut?, _ tile: QueryTile, _ key: StoredMatrix<Element>,
    next: StoredMatrix<Element>?
  ) -> ScoreMaximum {
    let memory = tiles.memory
    var maximum: UnsafeMutablePointer<Element>?
    if Tiles.Scores.findsMaximum {
      memory.newMaximum.update(
        from: memory.maximum + block.rows.lowerBound, count: tiles.paddedCount(block.rows))
      maximum = memory.newMaximum
    }
    guard let cut else { return computeScores(block, tile, key, maximum: maximum, next: next) }
    var result = ScoreMaximum.unknown
    cut.forEachPart(of: block) { part in
      let keys = part.keys.lowerBound - block.keys.lowerBound..<part.keys.upperBound - block.keys.lowerBound
      if part.isRagged {
        _ = computeScores(part, tile, key.rows(keys), maximum: nil, next: next)
      } else {
        result = computeScores(part, tile, key.rows(keys), maximum: maximum, next: next)
      }
    }
    return result
  }

  private func computeScores(
    _ block: Block<Element>, _ tile: QueryTile, _ key: StoredMatrix<Element>, maximum: UnsafeMutablePointer<Element>?,
    next: StoredMatrix<Element>?
  ) -> ScoreMaximum {
    if call.scale != 0 && modifiers.areNone(block) {
      return tiles.computeScores(block, tile, key, adding: nil, maximum: maximum, next: next)
    }
    if call.scale == 0 {
      // Whatever the query and the key hold: 0·NaN is NaN.
      fill(block, with: 0)
      return modifiers.apply(to: block, tile, after: nil, maximum: maximum)
    }
    let bias = modifiers.leadingBias(block).flatMap { tiles.addsBias($0) ? $0 : nil }
    let isDone = modifiers.areDone(block, after: bias)
    let found = tiles.computeScores(block, tile, key, adding: bias, maximum: isDone ? maximum : nil, next: next)
    return isDone ? found : modifiers.apply(to: block, tile, after: bias, maximum: maximum)
  }

  private func fill(_ block: Block<Element>, with element: Element) {
    let count = tiles.paddedCount(block.rows)
    if block.rowStride == 1 {
      for key in 0..<block.keys.count {
        (block.scores + key * block.keyStride).update(repeating: element, count: count)
      }
    } else {
      for row in 0..<count {
        (block.scores + row * block.rowStride).update(repeating: element, count: block.keys.count)
      }
    }
  }

  /// True if some row may not attend to some key of a block.
  func isHiding(_ block: Block<Element>) -> Bool {
    block.isRagged || (block.set.isMasked && call.schedule.hidesWithinIntervals)
  }
}
