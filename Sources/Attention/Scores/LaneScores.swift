internal import AttentionTensors

// The scores of a panel: the product and what the call makes of it.

extension LaneTiles {
  /// scores ← the scores of attended keys, −inf where something other than their interval forbids; and each lane's
  /// interval. True if newMaximum ← the maximum raised to them: whoever writes them last does so in passing, if they are
  /// all attended to.
  ///
  /// What is wanted next is prefetched: the values, for a tile's first panel, and a bias or a boolean mask. Columns taken
  /// from one row after the other are no stream that the CPU would foresee.
  func computeScores(
    _ piece: Piece, _ tile: Call.Tile, _ key: StridedMatrix<Element>, next value: StridedMatrix<Element>?,
    _ scratch: Scratch
  ) -> Bool {
    let panel = piece.panel
    let maximum = piece.isRagged ? nil : scratch.newMaximum
    maximum?.update(from: scratch.maximum + panel.rows.lowerBound, count: panel.vectorCount * lanes)
    let addend = piece.hasTerms && addsBias ? gatherLanes(call.schedule.biases[0], piece, tile, scratch) : nil
    let isFinal = call.softcap == nil && !hasTerms(piece, after: addend)
    if call.scale == 0 {
      // Whatever the query and the key hold: 0·NaN is NaN.
      scratch.scores.update(repeating: 0, count: key.rowCount * panel.stride)
    } else {
      call.kernels.multiply(
        vectorCount: panel.vectorCount, key, scratch.query + panel.firstRow * call.shape.width + panel.lane,
        bStride: panel.stride, into: scratch.scores, stride: panel.stride, rescale: nil, addend: addend,
        maximum: isFinal ? maximum : nil,
        next: panel.firstRow == 0 ? value.flatMap(ahead) : nil, after: piece.hasTerms ? maskAhead(piece, tile) : nil)
    }
    if let cap = call.softcap { applySoftcap(cap, piece, scratch) }
    if piece.isRagged {
      let first = piece.keys.lowerBound
      tile.forEachRow(panel.rows) { row, _, query in
        let keys = piece.region.layer.intervals[tile.batch, query].clamped(to: piece.keys)
        scratch.begin[row - panel.rows.lowerBound] = Element(keys.lowerBound - first)
        scratch.end[row - panel.rows.lowerBound] = Element(keys.upperBound - first)
      }
      for lane in panel.rows.count..<panel.vectorCount * lanes {
        scratch.begin[lane] = 0
        scratch.end[lane] = 0
      }
    }
    if hasTerms(piece, after: addend) {
      let rest = call.schedule.biases.dropFirst(addend == nil ? 0 : 1)
      return applyTerms(piece, tile, biases: rest, maximum: maximum, scratch) && maximum != nil
    }
    return isFinal && call.scale != 0 && maximum != nil
  }

  /// True if the first bias is what comes first after the product, which then adds it.
  private var addsBias: Bool {
    let schedule = call.schedule
    guard let bias = schedule.biases.first else { return false }
    return call.scale != 0 && call.softcap == nil && schedule.functions.isEmpty && schedule.distances.isEmpty
      && (bias.widthStride == 1 || bias.half != nil)
  }

  /// True if something is left to be done to scores to which the product has added `addend`.
  private func hasTerms(_ piece: Piece, after addend: UnsafePointer<UnsafeRawPointer>?) -> Bool {
    piece.hasTerms
      && (addend == nil || call.schedule.biases.count > 1 || !call.schedule.booleans.isEmpty || piece.region.hasBlocks)
  }

  /// A bias's row for each lane. Lanes behind the last row repeat it.
  private func gatherLanes(
    _ operand: Operand, _ piece: Piece, _ tile: Call.Tile, _ scratch: Scratch
  ) -> UnsafePointer<UnsafeRawPointer> {
    let panel = piece.panel
    _ = gatherRows(operand, tile, panel.rows, from: piece.keys.lowerBound, count: piece.keys.count, scratch)
    for lane in panel.rows.count..<panel.vectorCount * lanes { scratch.rows[lane] = scratch.rows[panel.rows.count - 1] }
    return UnsafePointer(scratch.rows)
  }

  /// Values, as they are read in place.
  private func ahead(_ value: StridedMatrix<Element>) -> RowsAhead? {
    if value.columnStride != 1 { return nil }
    let size = MemoryLayout<Element>.stride
    return RowsAhead(
      base: value.base, rowCount: value.rowCount, stride: value.rowStride * size, byteCount: value.columnCount * size)
  }

  /// What the panel after a piece takes of the first bias or boolean mask: the piece itself takes its own while this comes.
  private func maskAhead(_ piece: Piece, _ tile: Call.Tile) -> RowsAhead? {
    guard let operand = call.schedule.firstMatrix, operand.widthStride == 1, call.plan.headsPerTile == 1,
      !piece.isRagged
    else { return nil }
    var keys = piece.keys
    var rows = piece.panel.rows.upperBound..<min(piece.panel.rows.upperBound + piece.panel.stride, tile.rowCount)
    if rows.isEmpty {
      rows = 0..<min(piece.panel.stride, tile.rowCount)
      keys = keys.upperBound..<min(keys.upperBound + keys.count, call.shape.keyCount)
      if keys.isEmpty { return nil }
    }
    let queries = tile.queries(ofRows: rows)
    return RowsAhead(
      base: operand.row(
        batch: tile.batch, head: tile.head(ofRow: rows.lowerBound), index: queries.lowerBound, from: keys.lowerBound),
      rowCount: operand.lengthStride == 0 ? 1 : queries.count, stride: operand.lengthStride * operand.elementByteCount,
      byteCount: keys.count * operand.elementByteCount)
  }

  private func applySoftcap(_ cap: Element, _ piece: Piece, _ scratch: Scratch) {
    let laneCount = piece.panel.vectorCount * lanes
    if laneCount == piece.panel.stride {
      return call.kernels.softcap(piece.keys.count * laneCount, scratch.scores, cap)
    }
    for key in 0..<piece.keys.count {
      call.kernels.softcap(laneCount, scratch.scores + key * piece.panel.stride, cap)
    }
  }

  /// True if the last term raised `maximum` to the scores.
  private func applyTerms(
    _ piece: Piece, _ tile: Call.Tile, biases: ArraySlice<Operand>, maximum: UnsafeMutablePointer<Element>?,
    _ scratch: Scratch
  ) -> Bool {
    let panel = piece.panel
    let schedule = call.schedule
    call.applyFunctions(
      tile, rows: panel.rows, keys: piece.keys, scratch.scores, rowStride: 1, keyStride: panel.stride,
      heads: scratch.heads, queries: scratch.queries)
    if !schedule.distances.isEmpty {
      // Lanes that are no rows have a place too.
      scratch.slope.update(repeating: 0, count: panel.vectorCount * lanes)
      scratch.position.update(repeating: 0, count: panel.vectorCount * lanes)
    }
    call.forEachDistances(
      tile, rows: panel.rows, keys: piece.keys, slope: scratch.slope, position: scratch.position
    ) {
      call.kernels.subtractDistances(
        vectorCount: panel.vectorCount, keyCount: piece.keys.count, lanes: scratch.scores, stride: panel.stride,
        slope: scratch.slope, position: scratch.position)
    }
    let hasBlocks = piece.region.hasBlocks
    var rest = biases.count + schedule.booleans.count
    let isTracked = rest > 0 && !hasBlocks
    func apply(_ operand: Operand, _ packing: Packing) {
      rest -= 1
      let stride = gatherRows(
        operand, tile, panel.rows, from: piece.keys.lowerBound, count: piece.keys.count, scratch)
      call.kernels.pack(
        packing, rowCount: panel.rows.count, columnCount: piece.keys.count, rows: scratch.rows,
        columnStride: stride, into: scratch.scores, stride: panel.stride,
        maximum: isTracked && rest == 0 ? maximum : nil)
    }
    for bias in biases { apply(bias, .bias) }
    for boolean in schedule.booleans { apply(boolean, .boolean) }
    if hasBlocks { applyBlocks(piece, tile, scratch) }
    return isTracked
  }

  private func applyBlocks(_ piece: Piece, _ tile: Call.Tile, _ scratch: Scratch) {
    let panel = piece.panel
    for block in call.schedule.blocks {
      block.forEachColumn(of: piece.keys) { column, part in
        tile.forEachRow(panel.rows) { row, head, query in
          scratch.rows[row - panel.rows.lowerBound] = UnsafeRawPointer(
            block.row(batch: tile.batch, head: head, query: query, column: column)
              + (part.lowerBound - column * block.blockLength))
        }
        call.kernels.pack(
          .boolean, rowCount: panel.rows.count, columnCount: part.count, rows: scratch.rows, columnStride: 1,
          into: scratch.scores + (part.lowerBound - piece.keys.lowerBound) * panel.stride, stride: panel.stride)
      }
    }
  }

  /// Where `count` elements of each row of an operand lie, from a column on, and their stride: in the type that is
  /// computed with, if they are numbers.
  func gatherRows(
    _ operand: Operand, _ tile: Call.Tile, _ rows: Range<Int>, from column: Int, count: Int, _ scratch: Scratch
  ) -> Int {
    assert(operand.pages == nil)
    let byteStride = operand.lengthStride * operand.elementByteCount
    tile.forEachRun(rows) { run, head, query in
      let first = operand.row(batch: tile.batch, head: head, index: query, from: column)
      for row in run {
        let index = row - rows.lowerBound
        let source = first + (row - run.lowerBound) * byteStride
        if operand.half == nil {
          scratch.rows[index] = source
        } else {
          let target = scratch.converted + index * count
          operand.copyRow(call.kernels, count: count, from: source, to: target)
          scratch.rows[index] = UnsafeRawPointer(target)
        }
      }
    }
    return operand.half == nil ? operand.widthStride : 1
  }
}
