internal import AttentionTensors

extension LaneTiles {
  func accumulate(_ block: Block<Element>, _ cut: BlockCut?, _ value: StoredMatrix<Element>) {
    let columnCount = call.shape.valueDimension
    let result = own.result + block.group.lowerBound * columnCount
    let isFirst = start(block.group)
    let values = value.native
    guard let cut else {
      return multiply(
        block, values, into: result, rescale: isFirst ? nil : UnsafePointer(memory.rescale), next: takeExpectedKeys())
    }
    // In the first block of a panel, the sum is written to the panel's result. In later blocks it is computed in memory
    // of its own and then added to the result.
    let target = isFirst ? result : own.blockResult
    var continues = cut.common.isEmpty || cut.hasEdgeBefore(of: block)
    if continues { target.update(repeating: 0, count: block.keyStride * columnCount) }
    cut.forEachSlice(of: block) { slice in
      multiply(
        slice, values.rows(slice.keys.counted(from: block.keys)), into: target + lane(slice), rescale: nil,
        continues: continues)
      continues = true
    }
    if isFirst { return }
    call.kernels.addRescaled(
      vectorCount: vectorCount(block.rows.count), rowCount: columnCount, into: result, stride: block.keyStride,
      rescale: memory.rescale, target, xStride: block.keyStride)
  }

  /// Marks a panel as one that has a result. Returns true if it had none before.
  func start(_ panel: Range<Int>) -> Bool {
    let index = panel.lowerBound / own.laneCount
    if own.isStarted[index] { return false }
    own.isStarted[index] = true
    return true
  }

  private func multiply(
    _ block: Block<Element>, _ values: StridedMatrix<Element>, into result: UnsafeMutablePointer<Element>,
    rescale: UnsafePointer<Element>?, continues: Bool = false, next: RowsAhead? = nil
  ) {
    call.kernels.multiply(
      vectorCount: vectorCount(block.rows.count), values.transposed, block.scores, bStride: block.keyStride,
      into: result, stride: block.keyStride, rescale: rescale, continues: continues, next: next)
  }

  // MARK: The next tile

  func expect(_ next: QueryTile) {
    let key = call.key
    if next.rowCount == 0 || key.columnStride != 1 || key.pages != nil { return }
    ownMemory.pointee.expectedKeys = RowsAhead(
      base: key.row(batch: next.batch, head: next.keyValueHead, index: 0), rowCount: call.shape.keyCount,
      stride: key.lengthStride * key.elementByteCount, byteCount: call.shape.headDimension * key.elementByteCount)
  }

  /// Returns the keys of the tile that ``expect(_:)`` has announced, and forgets them.
  private func takeExpectedKeys() -> RowsAhead? {
    guard let keys = own.expectedKeys else { return nil }
    ownMemory.pointee.expectedKeys = nil
    return keys
  }

  func end(_ tile: QueryTile) {
    let columnCount = call.shape.valueDimension
    forEachGroup(tile) { panel in
      if start(panel) {
        (own.result + panel.lowerBound * columnCount).update(repeating: 0, count: paddedCount(panel) * columnCount)
      }
    }
  }

  func hasFiniteResult(_ tile: QueryTile) -> Bool {
    call.kernels.isFinite(paddedCount(0..<tile.rowCount) * call.shape.valueDimension, own.result)
  }

  func result(ofRow row: Int, group: Range<Int>) -> (base: UnsafeMutablePointer<Element>, columnStride: Int) {
    (own.result + group.lowerBound * call.shape.valueDimension + row - group.lowerBound, paddedCount(group))
  }

  func writeResult(_ tile: QueryTile, columnStride: Int) -> Bool {
    let columnCount = call.shape.valueDimension
    var isFinite = true
    forEachGroup(tile) { panel in
      let isOwnFinite = unpack(
        panel, columnCount: columnCount, own.result + panel.lowerBound * columnCount, stride: paddedCount(panel),
        factor: memory.factor + panel.lowerBound, columnStride: columnStride)
      isFinite = isFinite && isOwnFinite
    }
    return isFinite
  }

  private func unpack(
    _ rows: Range<Int>, columnCount: Int, _ x: UnsafePointer<Element>, stride: Int, factor: UnsafePointer<Element>,
    columnStride: Int
  ) -> Bool {
    call.kernels.unpack(
      rowCount: rows.count, columnCount: columnCount, x, stride: stride, factor: factor,
      rows: memory.targets + rows.lowerBound, columnStride: columnStride)
  }

  func writeScores(_ block: Block<Element>, _ tile: QueryTile) {
    if !block.isRagged {
      own.ones.update(repeating: 1, count: block.rows.count)
      _ = unpack(
        block.rows, columnCount: block.keys.count, block.scores, stride: block.keyStride, factor: own.ones,
        columnStride: 1)
      return
    }
    tile.forEachRow(block.rows) { row, _, query in
      let keys = block.keys(ofQuery: query, batch: tile.batch)
      copyStridedRow(
        count: keys.count, elementByteCount: MemoryLayout<Element>.stride,
        from: block.scores + block.place(row: row, key: keys.lowerBound), stride: block.keyStride,
        to: memory.targets[row], stride: 1)
    }
  }
}
