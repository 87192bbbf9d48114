internal import AttentionTensors

/// Scores whose queries run along the lanes of vectors: `[keys, lanes]`.
struct LaneScores<Element: AttentionElement>: ScoreLayout {
  let call: AttentionCall<Element>
  let memory: ModifierMemory<Element>
  /// The number of elements in a vector.
  let laneCount: Int

  static var findsMaximum: Bool { true }

  /// How many vectors some rows fill. The last vector may be filled only in part.
  func vectorCount(_ rows: Range<Int>) -> Int { (rows.count + laneCount - 1) / laneCount }

  func softcap(_ block: Block<Element>, _ cap: Element) {
    let count = vectorCount(block.rows) * laneCount
    if count == block.keyStride { return call.kernels.softcap(block.keys.count * count, block.scores, cap) }
    for key in 0..<block.keys.count { call.kernels.softcap(count, block.scores + key * block.keyStride, cap) }
  }

  func subtractDistances(_ block: Block<Element>) {
    let vectorCount = vectorCount(block.rows)
    // Lanes after the last row are computed too, so they also need a slope and a position.
    for lane in block.rows.count..<vectorCount * laneCount {
      memory.slope[lane] = 0
      memory.position[lane] = 0
    }
    call.kernels.subtractDistances(
      vectorCount: vectorCount, keyCount: block.keys.count, lanes: block.scores, stride: block.keyStride,
      slope: memory.slope, position: memory.position)
  }

  func add(_ bias: Operand, to block: Block<Element>, _ tile: QueryTile, maximum: UnsafeMutablePointer<Element>?) {
    pack(.bias, bias, block, tile, maximum)
  }

  func hide(_ boolean: Operand, in block: Block<Element>, _ tile: QueryTile, maximum: UnsafeMutablePointer<Element>?) {
    pack(.boolean, boolean, block, tile, maximum)
  }

  private func pack(
    _ packing: Packing, _ operand: Operand, _ block: Block<Element>, _ tile: QueryTile,
    _ maximum: UnsafeMutablePointer<Element>?
  ) {
    let stride = gatherRows(operand, tile, block.rows, from: block.keys.lowerBound, count: block.keys.count)
    call.kernels.pack(
      packing, rowCount: block.rows.count, columnCount: block.keys.count, rows: memory.rows, columnStride: stride,
      into: block.scores, stride: block.keyStride, maximum: maximum)
  }

  func hide(_ mask: BlockMask, in block: Block<Element>, _ tile: QueryTile) {
    mask.forEachColumn(of: block.keys) { column, keys in
      tile.forEachRow(block.rows) { row, head, query in
        memory.rows[row - block.rows.lowerBound] = UnsafeRawPointer(
          mask.row(batch: tile.batch, head: head, query: query, column: column)
            + (keys.lowerBound - column * mask.blockLength))
      }
      call.kernels.pack(
        .boolean, rowCount: block.rows.count, columnCount: keys.count, rows: memory.rows, columnStride: 1,
        into: block.scores + (keys.lowerBound - block.keys.lowerBound) * block.keyStride, stride: block.keyStride)
    }
  }

  func dropOut(_ rule: DropoutRule, _ numbers: UnsafeMutablePointer<Element>, of block: Block<Element>, batch: Int) {
    let vectorCount = vectorCount(block.rows)
    for lane in block.rows.count..<vectorCount * laneCount {
      memory.heads[lane] = 0
      memory.queries[lane] = 0
    }
    call.kernels.dropOut(
      rule, batch: batch, vectorCount: vectorCount, heads: memory.heads, queries: memory.queries, keys: block.keys,
      lanes: numbers, stride: block.keyStride)
  }

  func forEachLine(of block: Block<Element>, _ body: (_ offset: Int, _ count: Int) -> Void) {
    let count = vectorCount(block.rows) * laneCount
    for key in 0..<block.keys.count { body(key * block.keyStride, count) }
  }

  func forEachRow(
    of block: Block<Element>, _ tile: QueryTile, _ numbers: UnsafeMutablePointer<Element>,
    _ memory: GradientMemory<Element>,
    _ body: (
      _ row: Int, _ head: Int, _ query: Int, _ keys: Range<Int>, _ numbers: UnsafePointer<Element>
    ) -> Void
  ) {
    for row in 0..<block.rows.count {
      memory.ones[row] = 1
      memory.addresses[row] = UnsafeMutableRawPointer(memory.rows + row * memory.rowStride)
    }
    call.kernels.unpack(
      rowCount: block.rows.count, columnCount: block.keys.count, numbers, stride: block.keyStride, factor: memory.ones,
      rows: memory.addresses, columnStride: 1)
    tile.forEachRow(block.rows) { row, head, query in
      let keys = block.keys(ofQuery: query, batch: tile.batch)
      if keys.isEmpty { return }
      let first = memory.rows + (row - block.rows.lowerBound) * memory.rowStride
      body(row, head, query, keys, first + (keys.lowerBound - block.keys.lowerBound))
    }
  }

  /// Stores the address of each row of an operand in ``ModifierMemory/rows``, from element `column` on. `count`
  /// elements of each row are used.
  ///
  /// Rows of a two-byte type are first converted to the type that attention computes in.
  /// - Returns: The distance between the elements of a row, in elements.
  func gatherRows(_ operand: Operand, _ tile: QueryTile, _ rows: Range<Int>, from column: Int, count: Int) -> Int {
    assert(operand.pages == nil)
    let byteStride = operand.lengthStride * operand.elementByteCount
    tile.forEachHead(rows) { headRows, head, query in
      let first = operand.row(batch: tile.batch, head: head, index: query, from: column)
      for row in headRows {
        let index = row - rows.lowerBound
        let source = first + (row - headRows.lowerBound) * byteStride
        if operand.half == nil {
          memory.rows[index] = source
        } else {
          let target = memory.converted + index * count
          operand.copyRow(call.kernels, count: count, from: source, to: target)
          memory.rows[index] = UnsafeRawPointer(target)
        }
      }
    }
    return operand.half == nil ? operand.columnStride : 1
  }

  /// The address of a bias's row for every lane of a block. Lanes after the last row repeat the last row's address.
  func gatherLanes(_ bias: Operand, _ block: Block<Element>, _ tile: QueryTile) -> UnsafePointer<UnsafeRawPointer> {
    _ = gatherRows(bias, tile, block.rows, from: block.keys.lowerBound, count: block.keys.count)
    for lane in block.rows.count..<vectorCount(block.rows) * laneCount {
      memory.rows[lane] = memory.rows[block.rows.count - 1]
    }
    return UnsafePointer(memory.rows)
  }
}
