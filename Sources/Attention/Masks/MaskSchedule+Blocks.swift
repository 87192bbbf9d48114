extension MaskSchedule {
  /// The block masks that apply to the keys of a set.
  func blocks(in set: IntervalSet) -> [BlockMask] { set.isMasked ? terms?.blocks ?? [] : [] }

  /// Calls `body` for runs of keys of which the block masks leave everything, or a part, to some queries of some heads.
  func forEachBlockRun(
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
    var run = keys.lowerBound..<keys.lowerBound
    var runState = BlockMask.empty
    func finish() {
      if !run.isEmpty && runState != BlockMask.empty { body(run, runState == BlockMask.full) }
    }
    var low = keys.lowerBound
    while low < keys.upperBound {
      let high = blocks.reduce(keys.upperBound) { min($0, (low / $1.blockLength + 1) * $1.blockLength) }
      let own = state(at: low)
      if own != runState {
        finish()
        run = low..<low
        runState = own
      }
      run = run.lowerBound..<high
      low = high
    }
    finish()
  }
}
