internal import AttentionTensors

/// The forward pass of attention: the loops over tiles of queries, over their keys, and over blocks of scores.
///
/// Memory stays O(L) for L queries: each worker holds one block of scores. Source: Dao et al. 2022 (arXiv:2205.14135),
/// Algorithm 1, with the loops exchanged as in Dao 2023 (arXiv:2307.08691), §3.1, so that results are written once.
///
/// **The same bits, whatever else is computed.** The order in which a row's keys are reduced depends only on the row's
/// own keys. Tiles of keys end at multiples of the tile length, and splits, which have several tiles, at multiples of
/// the split length. Both are counted from the first key of the row's sequence. A tile also ends at the end of a page
/// of a cache. For each row, the softmax of a tile and its sum of values are one step, however the tile is cut into
/// blocks. Each split starts from an empty state and is then merged into the splits before it, whether one worker
/// computes the splits in turn or several workers compute them at once. There are two exceptions: a ``BlockMask`` and
/// the products of OpenBLAS.
struct ForwardPass<Tiles: TilePrimitives>: ScorePass {
  typealias Element = Tiles.Element

  let call: AttentionCall<Element>
  let tiles: Tiles
  /// The merged state of the splits of a tile's keys that are computed so far; nil if no tile of the call needs to
  /// merge states.
  let whole: RowState<Element>?
  /// The state of the last split, before it is merged into `whole`.
  let splitState: RowState<Element>?

  /// The pass of one worker. `arrays` cuts its working memory out of one allocation; without an allocation, `arrays`
  /// only counts the bytes.
  init(_ call: AttentionCall<Element>, _ arrays: inout ScratchArrays) {
    self.call = call
    tiles = Tiles(call, &arrays)
    func state(_ arrays: inout ScratchArrays) -> RowState<Element>? {
      call.plan.needsStates
        ? RowState(&arrays, rowCount: call.plan.rowsPerTile, valueDimension: call.shape.valueDimension) : nil
    }
    whole = state(&arrays)
    splitState = state(&arrays)
  }

  // MARK: Tiles of queries

  /// Computes a tile of queries over all of its keys, and writes its results.
  func attend(_ tile: QueryTile) {
    defer { clearEmptyQueries(tile) }
    if tile.rowCount == 0 { return }
    guard let whole, let splitState else { return attend(tile, in: 0..<call.shape.keyCount) { finish(tile, $0) } }
    // A split reaches from its first key to the first key of the next split.
    var first = 0
    var (hasKeys, isFirst) = (false, true)
    func add(_ keys: Range<Int>) {
      attend(tile, in: keys) { _ in store(tile, into: isFirst ? whole : splitState) }
      if !isFirst { whole.merge(splitState, rowCount: tile.rowCount, call.kernels) }
      isFirst = false
    }
    call.forEachKeyTile(tile, in: 0..<call.shape.keyCount) { keyTile in
      defer { hasKeys = true }
      // A split without keys is not computed.
      guard let start = keyTile.splitStart, hasKeys else { return }
      add(first..<start)
      first = start
    }
    let last = first..<call.shape.keyCount
    // If only one split has keys, and there are no sinks, there is nothing to merge.
    if isFirst && call.sinks == nil { return attend(tile, in: last) { finish(tile, $0) } }
    add(last)
    finish(tile, whole)
  }

  /// Computes one split of a tile's keys.
  func attend(_ tile: QueryTile, split: Int, into state: RowState<Element>) {
    if tile.rowCount == 0 { return }
    let keys = call.schedule.split(split, batch: tile.batch, queries: tile.queries, length: call.plan.splitLength)
    attend(tile, in: keys) { _ in store(tile, into: state) }
  }

  /// Computes the maximum, sum and result of every row over a range of keys, starting from an empty state, and writes
  /// them.
  ///
  /// `write` returns false if a result is not finite. The tile is then computed again, and its results are written
  /// whether they are finite or not.
  @inline(__always)
  private func attend(_ tile: QueryTile, in keys: Range<Int>, write: (ResultCheck) -> Bool) {
    attend(tile, in: keys, TileCare())
    if write(.finite) { return }
    attendAgain(tile, in: keys)
    _ = write(.any)
  }

  /// Computes the maximum, sum and result of every row over a range of keys once, without writing them, and guards
  /// against the hazards that `care` names.
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
          let keys = block.keys.counted(from: keyTile.keys)
          (ownKey, ownValue) = (key.rows(keys), value.rows(keys))
        }
        let maximum = computeScores(block, cut, tile, ownKey, next: ownValue)
        if hasHazards && isHiding(block) {
          return accumulateWithoutHazards(block, cut, tile, ownValue.native, maximum, care)
        }
        tiles.softmax(block, tile, cut, maximum)
        if care.normalizesWeights { normalizeWeights(block) }
        if call.dropout != nil { modifiers.dropOut(block.scores, of: block, tile) }
        tiles.accumulate(block, cut, ownValue)
      }
    }
    tiles.end(tile)
    if care.normalizesWeights { memory.normalized.restoreSums(rowCount: tile.rowCount, memory.sum) }
    for row in 0..<tile.rowCount { memory.factor[row] = memory.sum[row] == 0 ? 0 : 1 / memory.sum[row] }
    if care.normalizesWeights { finishNormalizedRows(tile) }
  }
}
