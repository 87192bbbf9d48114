internal import AttentionTensors

/// Scores whose keys run along the vectors: `[rows, keys]`.
struct RowScores<Element: AttentionElement>: ScoreLayout {
  let call: AttentionCall<Element>
  let memory: ModifierMemory<Element>

  func softcap(_ block: Block<Element>, _ cap: Element) {
    for row in 0..<block.rows.count {
      call.kernels.softcap(block.keys.count, block.scores + row * block.rowStride, cap)
    }
  }

  func subtractDistances(_ block: Block<Element>) {
    call.kernels.subtractDistances(
      rowCount: block.rows.count, keyCount: block.keys.count, rows: block.scores, stride: block.rowStride,
      slope: memory.slope, position: memory.position)
  }

  static var findsMaximum: Bool { false }

  func add(_ bias: Operand, to block: Block<Element>, _ tile: QueryTile, maximum _: UnsafeMutablePointer<Element>?) {
    forEachRow(block, tile) { head, query, keys, scores in
      let source = bias.row(batch: tile.batch, head: head, index: query, from: keys.lowerBound)
      if bias.half == nil && bias.columnStride == 1 {
        call.kernels.addBias(keys.count, scores, source.assumingMemoryBound(to: Element.self))
      } else {
        bias.copyRow(call.kernels, count: keys.count, from: source, to: memory.converted)
        call.kernels.addBias(keys.count, scores, memory.converted)
      }
    }
  }

  func hide(_ boolean: Operand, in block: Block<Element>, _ tile: QueryTile, maximum _: UnsafeMutablePointer<Element>?)
  {
    forEachRow(block, tile) { head, query, keys, scores in
      var source = boolean.row(batch: tile.batch, head: head, index: query, from: keys.lowerBound)
      if boolean.columnStride != 1 {
        copyStridedRow(
          count: keys.count, elementByteCount: 1, from: source, stride: boolean.columnStride, to: memory.flags,
          stride: 1
        )
        source = UnsafeRawPointer(memory.flags)
      }
      call.kernels.mask(keys.count, scores, source.assumingMemoryBound(to: UInt8.self))
    }
  }

  func hide(_ mask: BlockMask, in block: Block<Element>, _ tile: QueryTile) {
    forEachRow(block, tile) { head, query, keys, scores in
      mask.forEachColumn(of: keys) { column, own in
        call.kernels.mask(
          own.count, scores + (own.lowerBound - keys.lowerBound),
          mask.row(batch: tile.batch, head: head, query: query, column: column)
            + (own.lowerBound - column * mask.blockLength))
      }
    }
  }

  func dropOut(_ rule: DropoutRule, _ numbers: UnsafeMutablePointer<Element>, of block: Block<Element>, batch: Int) {
    call.kernels.dropOut(
      rule, batch: batch, rowCount: block.rows.count, heads: memory.heads, queries: memory.queries, keys: block.keys,
      rows: numbers, stride: block.rowStride)
  }

  func forEachLine(of block: Block<Element>, _ body: (_ offset: Int, _ count: Int) -> Void) {
    for row in 0..<block.rows.count { body(row * block.rowStride, block.keys.count) }
  }

  func forEachRow(
    of block: Block<Element>, _ tile: QueryTile, _ numbers: UnsafeMutablePointer<Element>,
    _: GradientMemory<Element>,
    _ body: (
      _ row: Int, _ head: Int, _ query: Int, _ keys: Range<Int>, _ numbers: UnsafePointer<Element>
    ) -> Void
  ) {
    tile.forEachRow(block.rows) { row, head, query in
      let keys = block.keys(ofQuery: query, batch: tile.batch)
      if !keys.isEmpty { body(row, head, query, keys, numbers + block.place(row: row, key: keys.lowerBound)) }
    }
  }

  /// Calls `body` for every row of a block with the keys of its interval and the scores of these keys. Rows without
  /// keys in the block are left out.
  private func forEachRow(
    _ block: Block<Element>, _ tile: QueryTile,
    _ body: (_ head: Int, _ query: Int, _ keys: Range<Int>, _ scores: UnsafeMutablePointer<Element>) -> Void
  ) {
    tile.forEachRow(block.rows) { row, head, query in
      let keys = block.keys(ofQuery: query, batch: tile.batch)
      if !keys.isEmpty { body(head, query, keys, block.scores + block.place(row: row, key: keys.lowerBound)) }
    }
  }
}
