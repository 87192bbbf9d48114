internal import AttentionTensors

/// A pass over the blocks of scores of a tile of queries, forward or backward.
protocol ScorePass {
  associatedtype Tiles: ScoreTiles
  typealias Element = Tiles.Element

  var call: AttentionCall<Element> { get }
  var tiles: Tiles { get }
}

extension ScorePass {
  var modifiers: ScoreModifiers<Tiles.Scores> { ScoreModifiers(layout: tiles.scores) }

  /// Calls `body` for every block of scores of a tile of keys. Blocks in which no row attends to any key are left out.
  /// The second argument says how a block is cut where an edge of the mask crosses it; it is nil if the intervals of
  /// all rows hold all keys of the block.
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
      call.schedule.forEachAttendedRange(
        batch: tile.batch, heads: tile.heads(ofRows: group), queries: tile.queries(ofRows: group), keys: keyTile.keys
      ) { keys, isFull in cut(tile, group, keyTile.slice(keys), hasBlocks: !isFull, body) }
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
    let own = keyTile.slice(union)
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
    // If the block is one strip, it is computed as a whole.
    let isWhole = index == 1
    body(
      tiles.block(group: group, own, isRagged: true, hasBlocks: hasBlocks),
      BlockCut(
        common: isWhole ? union.lowerBound..<union.lowerBound : common, strips: strips, stripLength: tiles.stripLength))
  }

  /// Computes the scores of the attended keys of a block. A score is −inf where a bias, a boolean or block mask, or a
  /// function forbids the key. The scores of keys outside a row's interval may hold anything.
  /// - Returns: `known` if ``TileMemory/newMaximum`` holds, for each row, the greater of ``TileMemory/maximum`` and the
  ///   scores of the keys that every row attends to.
  func computeScores(
    _ block: Block<Element>, _ cut: BlockCut?, _ tile: QueryTile, _ key: StoredMatrix<Element>,
    next: StoredMatrix<Element>?
  ) -> ScoreMaximum {
    let memory = tiles.memory
    var maximum: UnsafeMutablePointer<Element>?
    if Tiles.needsMaximum {
      memory.newMaximum.update(
        from: memory.maximum + block.rows.lowerBound, count: tiles.paddedCount(block.rows))
      maximum = memory.newMaximum
    }
    guard let cut else { return computeScores(block, tile, key, maximum: maximum, next: next) }
    var result = ScoreMaximum.unknown
    cut.forEachSlice(of: block) { slice in
      let keys = slice.keys.counted(from: block.keys)
      if slice.isRagged {
        _ = computeScores(slice, tile, key.rows(keys), maximum: nil, next: next)
      } else {
        result = computeScores(slice, tile, key.rows(keys), maximum: maximum, next: next)
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
      // Scores are 0 whatever the query and the key hold. The product is not computed, because 0·NaN is NaN.
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

  // MARK: Hazards

  /// The places of the scores that a function forbids. A function forbids a key by setting its score to −inf, which the
  /// softmax replaces by a weight. So these places must be found before the softmax.
  func placesForbiddenByFunctions(_ block: Block<Element>) -> Set<Int> {
    var forbidden: Set<Int> = []
    if call.schedule.terms?.functions.isEmpty == false {
      for row in block.rows {
        for key in block.keys where block.scores[block.place(row: row, key: key)] == -.infinity {
          forbidden.insert(block.place(row: row, key: key))
        }
      }
    }
    return forbidden
  }

  /// True if a key lies in a query's interval of this set, and no boolean mask, block mask or bias forbids it.
  /// Functions of scores are not considered.
  func attends(_ set: IntervalSet, _ tile: QueryTile, head: Int, query: Int, key: Int) -> Bool {
    set.intervals[tile.batch, query].contains(key)
      && (!set.isMasked || call.schedule.terms?.allows(batch: tile.batch, head: head, query: query, key: key) != false)
  }
}
