internal import AttentionTensors

/// The scores of some rows of a tile for some keys of one interval set, which are computed at once, and their place in
/// memory.
struct Block<Element: AttentionElement> {
  /// The rows of the block, numbered as rows of the tile.
  let rows: Range<Int>
  let keys: Range<Int>
  let set: IntervalSet
  /// True if some row's interval may hold only some of the keys.
  let isRagged: Bool
  /// True if block masks may forbid some of these keys to some row.
  let hasBlocks: Bool
  /// Where the first key stands in its sequence.
  let firstIndex: Int
  /// The rows that are computed together. `rows` are all or some of them.
  let group: Range<Int>
  /// The score of row r and key k: `scores[(r − rows.lowerBound) · rowStride + (k − keys.lowerBound) · keyStride]`.
  let scores: UnsafeMutablePointer<Element>
  let rowStride: Int
  let keyStride: Int
  /// Where scores are saved after softcap, before functions change them, in the same layout. Nil: nowhere.
  var cappedScores: UnsafeMutablePointer<Element>?

  /// The part of the block with some of its rows and keys.
  func slice(rows: Range<Int>, keys: Range<Int>, isRagged: Bool) -> Block {
    let place = place(row: rows.lowerBound, key: keys.lowerBound)
    return Block(
      rows: rows, keys: keys, set: set, isRagged: isRagged, hasBlocks: hasBlocks,
      firstIndex: firstIndex + keys.lowerBound - self.keys.lowerBound, group: group, scores: scores + place,
      rowStride: rowStride, keyStride: keyStride, cappedScores: cappedScores.map { $0 + place })
  }

  func place(row: Int, key: Int) -> Int {
    (row - rows.lowerBound) * rowStride + (key - keys.lowerBound) * keyStride
  }

  /// The keys of the block that lie in a query's interval.
  func keys(ofQuery query: Int, batch: Int) -> Range<Int> {
    isRagged ? set.intervals[batch, query].clamped(to: keys) : keys
  }
}

extension Range<Int> {
  /// The same places, counted from the first place of another range.
  func counted(from other: Range<Int>) -> Range<Int> {
    lowerBound - other.lowerBound..<upperBound - other.lowerBound
  }
}

/// How a block is cut where an edge of the mask crosses it.
///
/// A strip is a number of rows that lie side by side, and the keys that some of them attend to. The keys that all rows
/// of the block attend to are computed for all strips at once. The keys before and after these are computed strip by
/// strip.
struct BlockCut {
  /// The keys that every row of the block attends to; may be empty.
  let common: Range<Int>
  /// For each strip, the keys that some of its rows attend to. They are empty or include `common`.
  let strips: UnsafePointer<Range<Int>>
  let stripLength: Int

  /// Calls `body` for each strip that has keys, with its rows and keys.
  func forEachStrip<Element>(
    of block: Block<Element>, _ body: (_ rows: Range<Int>, _ keys: Range<Int>) -> Void
  ) {
    var index = 0
    var row = block.rows.lowerBound
    while row < block.rows.upperBound {
      let end = min(row + stripLength, block.rows.upperBound)
      if !strips[index].isEmpty { body(row..<end, strips[index]) }
      row = end
      index += 1
    }
  }

  /// The keys of a strip before those that all rows attend to; all keys of the strip if `common` is empty.
  func edgeBefore(_ keys: Range<Int>) -> Range<Int> {
    common.isEmpty ? keys : keys.lowerBound..<common.lowerBound
  }

  /// The keys of a strip after those that all rows attend to; none if `common` is empty.
  func edgeAfter(_ keys: Range<Int>) -> Range<Int> {
    common.isEmpty ? keys.upperBound..<keys.upperBound : common.upperBound..<keys.upperBound
  }

  /// True if some strip has keys before those that all rows attend to.
  func hasEdgeBefore<Element>(of block: Block<Element>) -> Bool {
    var result = false
    forEachStrip(of: block) { _, keys in result = result || !edgeBefore(keys).isEmpty }
    return result
  }

  /// Calls `body` for each slice of the block that is computed at once. For each row, slices come in the order of the
  /// keys.
  func forEachSlice<Element>(of block: Block<Element>, _ body: (Block<Element>) -> Void) {
    forEachStrip(of: block) { rows, keys in
      let edge = edgeBefore(keys)
      if !edge.isEmpty { body(block.slice(rows: rows, keys: edge, isRagged: true)) }
    }
    if common.isEmpty { return }
    body(block.slice(rows: block.rows, keys: common, isRagged: false))
    forEachStrip(of: block) { rows, keys in
      let edge = edgeAfter(keys)
      if !edge.isEmpty { body(block.slice(rows: rows, keys: edge, isRagged: true)) }
    }
  }
}
