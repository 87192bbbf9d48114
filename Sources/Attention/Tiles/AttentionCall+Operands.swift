internal import AttentionBLAS
internal import AttentionTensors

extension AttentionCall {
  /// Some keys or values as a matrix. They are used in place if they have the type that attention computes in and
  /// `isReadable` is true for them. Otherwise they are packed row by row. Keys that the block masks hide from all rows
  /// of the tile are not packed; their rows are 0.
  func matrix(
    _ operand: Operand, _ tile: QueryTile, _ keys: Range<Int>, _ set: IntervalSet, columnCount: Int,
    packedAt pack: UnsafeMutablePointer<Element>, unless isReadable: (StridedMatrix<Element>) -> Bool
  ) -> StridedMatrix<Element> {
    let row = operand.row(batch: tile.batch, head: tile.keyValueHead, index: keys.lowerBound)
    let matrix = StridedMatrix(
      base: row.assumingMemoryBound(to: Element.self), rowCount: keys.count, columnCount: columnCount,
      rowStride: operand.lengthStride, columnStride: operand.columnStride)
    if operand.half == nil, isReadable(matrix) { return matrix }
    func packRows(_ rows: Range<Int>) {
      let target = pack + rows.lowerBound * columnCount
      if operand.half == nil {
        _ = matrix.rows(rows).pack(into: target)
        return
      }
      for (place, i) in rows.enumerated() {
        operand.copyRow(
          kernels, count: columnCount, from: row + i * operand.lengthStride * operand.elementByteCount,
          to: target + place * columnCount)
      }
    }
    if schedule.blocks(in: set).isEmpty {
      packRows(0..<keys.count)
    } else {
      pack.update(repeating: 0, count: keys.count * columnCount)
      schedule.forEachAttendedRange(batch: tile.batch, heads: tile.heads, queries: tile.queries, keys: keys) {
        range, _ in
        packRows(range.counted(from: keys))
      }
    }
    return StridedMatrix(
      base: pack, rowCount: keys.count, columnCount: columnCount, rowStride: columnCount, columnStride: 1)
  }

  func isFinite(_ matrix: StridedMatrix<Element>) -> Bool {
    if matrix.rowCount == 0 || matrix.columnCount == 0 { return true }
    if matrix.columnStride == 1 && matrix.rowStride == matrix.columnCount {
      return kernels.isFinite(matrix.rowCount * matrix.columnCount, matrix.base)
    }
    // Either all rows are contiguous, as rows of one element always are, or all columns are.
    if matrix.columnStride == 1 || matrix.columnCount == 1 {
      return (0..<matrix.rowCount).allSatisfy { kernels.isFinite(matrix.columnCount, matrix.rows($0..<$0 + 1).base) }
    }
    assert(matrix.rowStride == 1 || matrix.rowCount == 1)
    return (0..<matrix.columnCount).allSatisfy { kernels.isFinite(matrix.rowCount, matrix.columns($0..<$0 + 1).base) }
  }
}
