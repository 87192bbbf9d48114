extension MaskSchedule {
  /// The block masks that apply to the keys of a set.
  func blocks(in set: IntervalSet) -> [BlockMask] { set.isMasked ? terms?.blocks ?? [] : [] }

  /// Leaves out the blocks of `keys` that some block mask leaves empty for all `queries` of all `heads`, and calls
  /// `body` for each range of the keys that remain. `isFull` is true if the block masks let every query of every head
  /// attend to the whole range.
  func forEachAttendedRange(
    batch: Int, heads: Range<Int>, queries: Range<Int>, keys: Range<Int>,
    _ body: (_ keys: Range<Int>, _ isFull: Bool) -> Void
  ) {
    let blocks = terms?.blocks ?? []
    func state(at key: Int) -> Int32 {
      var result = BlockMask.full
      for mask in blocks {
        let column = key / mask.blockLength
        let blockRows = queries.lowerBound / mask.blockLength...(queries.upperBound - 1) / mask.blockLength
        var (empties, fulls, count) = (0, 0, 0)
        for head in heads {
          for row in blockRows {
            let state = mask.state(batch: batch, head: head, row: row, column: column)
            if state == BlockMask.empty { empties += 1 }
            if state == BlockMask.full { fulls += 1 }
            count += 1
          }
        }
        if empties == count { return BlockMask.empty }
        if fulls < count { result = 0 }
      }
      return result
    }
    var range = keys.lowerBound..<keys.lowerBound
    var rangeState = BlockMask.empty
    func finish() {
      if !range.isEmpty && rangeState != BlockMask.empty { body(range, rangeState == BlockMask.full) }
    }
    var low = keys.lowerBound
    while low < keys.upperBound {
      let high = blocks.reduce(keys.upperBound) { min($0, (low / $1.blockLength + 1) * $1.blockLength) }
      let own = state(at: low)
      if own != rangeState {
        finish()
        range = low..<low
        rangeState = own
      }
      range = range.lowerBound..<high
      low = high
    }
    finish()
  }
}
