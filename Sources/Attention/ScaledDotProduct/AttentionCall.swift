internal import AttentionBLAS
internal import AttentionTensors

// B batch, H query heads, Hk key/value heads, L queries, S keys, E width, Ev width of values.
// A tile: some rows (queries of one or several heads of a group) by some keys.

/// Everything that one call is about, whatever carries it out: operands, mask, plan, where results go.
struct AttentionCall<Element: AttentionElement>: @unchecked Sendable {
  // Sendable: pieces read the inputs and write disjoint parts of the outputs, for the length of the call.
  let kernels: Kernels<Element>
  let shape: AttentionShape
  let plan: AttentionPlan
  let schedule: MaskSchedule<Element>
  let scale: Element
  let query: Operand<Element>
  let key: Operand<Element>
  let value: Operand<Element>
  let outputs: AttentionOutputs<Element>

  // MARK: Tiles of queries

  /// Queries `queries` of heads `heads`, which share key/value head `keyValueHead`. Row r is query
  /// r mod Q of head r div Q, Q being the number of queries.
  struct Tile {
    let batch: Int
    let keyValueHead: Int
    let heads: Range<Int>
    let queries: Range<Int>

    var rowCount: Int { heads.count * queries.count }
    func head(ofRow row: Int) -> Int { heads.lowerBound + row / queries.count }
    func query(ofRow row: Int) -> Int { queries.lowerBound + row % queries.count }

    /// Calls `body` for some rows with their head and query; no division for each.
    func forEachRow(_ rows: Range<Int>, _ body: (_ row: Int, _ head: Int, _ query: Int) -> Void) {
      if rows.isEmpty { return }
      var head = head(ofRow: rows.lowerBound)
      var query = query(ofRow: rows.lowerBound)
      for row in rows {
        body(row, head, query)
        query += 1
        if query == queries.upperBound {
          query = queries.lowerBound
          head += 1
        }
      }
    }

    /// The least range of queries that holds those of some rows.
    func queries(ofRows rows: Range<Int>) -> Range<Int> {
      let last = rows.upperBound - 1
      if head(ofRow: rows.lowerBound) != head(ofRow: last) { return queries }
      return query(ofRow: rows.lowerBound)..<query(ofRow: last) + 1
    }
  }

  func tile(_ index: Int) -> Tile {
    var rest = index
    func next(_ count: Int) -> Int {
      defer { rest /= count }
      return rest % count
    }
    let queryTile = next(plan.queryTileCount)
    let headTile = next(plan.headTileCount)
    let keyValueHead = next(shape.keyValueHeadCount)
    let firstHead = keyValueHead * shape.groupSize
    let heads = headTile * plan.headsPerTile..<min((headTile + 1) * plan.headsPerTile, shape.groupSize)
    return Tile(
      batch: rest, keyValueHead: keyValueHead,
      heads: firstHead + heads.lowerBound..<firstHead + heads.upperBound,
      queries: queryTile * plan.queryTileLength..<min((queryTile + 1) * plan.queryTileLength, shape.queryCount))
  }

  /// One of the equal parts into which the keys that a tile needs are split.
  func keys(of tile: Tile, split: Int) -> Range<Int> {
    if plan.splitCount == 1 { return 0..<shape.keyCount }
    let union = schedule.union(batch: tile.batch, queries: tile.queries)
    // Whole vectors of keys.
    let length = ((union.count + plan.splitCount - 1) / plan.splitCount + 15) / 16 * 16
    let low = min(union.lowerBound + split * length, union.upperBound)
    let high = min(low + length, union.upperBound)
    // Keys behind the masked ones belong to the last part.
    return split == plan.splitCount - 1 && schedule.maskedKeyCount < shape.keyCount ? low..<shape.keyCount : low..<high
  }

  // MARK: Tiles of keys

  /// Calls `body` for every tile of those of `keys` that the mask leaves to some query of `tile`.
  func forEachKeyTile(_ tile: Tile, _ keys: Range<Int>, _ body: (_ keys: Range<Int>, _ isMasked: Bool) -> Void) {
    let masked = schedule.union(batch: tile.batch, queries: tile.queries).clamped(to: keys)
    for low in stride(from: masked.lowerBound, to: masked.upperBound, by: plan.keyTileLength) {
      body(low..<min(low + plan.keyTileLength, masked.upperBound), true)
    }
    let trailing = (schedule.maskedKeyCount..<shape.keyCount).clamped(to: keys)
    for low in stride(from: trailing.lowerBound, to: trailing.upperBound, by: plan.keyTileLength) {
      body(low..<min(low + plan.keyTileLength, trailing.upperBound), false)
    }
  }

  /// True if every one of `queries` attends to every one of `keys`, boolean masks and biases aside.
  func attendAll(batch: Int, queries: Range<Int>, to keys: Range<Int>) -> Bool {
    !schedule.isRagged || schedule.common(batch: batch, queries: queries).contains(keys)
  }

  /// A tile of keys or values in place if `isReadable`, else packed row by row.
  func matrix(
    _ operand: Operand<Element>, _ tile: Tile, _ keys: Range<Int>, width: Int,
    packedAt pack: UnsafeMutablePointer<Element>, unless isReadable: (StridedMatrix<Element>) -> Bool
  ) -> StridedMatrix<Element> {
    let matrix = StridedMatrix(
      base: operand.row(batch: tile.batch, head: tile.keyValueHead, index: keys.lowerBound),
      rowCount: keys.count, columnCount: width, rowStride: operand.lengthStride, columnStride: operand.widthStride)
    return isReadable(matrix) ? matrix : matrix.pack(into: pack)
  }

  func isFinite(_ matrix: StridedMatrix<Element>) -> Bool {
    if matrix.rowCount == 0 || matrix.columnCount == 0 { return true }
    if matrix.columnStride == 1 && matrix.rowStride == matrix.columnCount {
      return kernels.isFinite(matrix.rowCount * matrix.columnCount, matrix.base)
    }
    // Whole rows are contiguous, also those of one element; else it is the columns.
    if matrix.columnStride == 1 || matrix.columnCount == 1 {
      return (0..<matrix.rowCount).allSatisfy { kernels.isFinite(matrix.columnCount, matrix.rows($0..<$0 + 1).base) }
    }
    assert(matrix.rowStride == 1 || matrix.rowCount == 1)
    return (0..<matrix.columnCount).allSatisfy { kernels.isFinite(matrix.rowCount, matrix.columns($0..<$0 + 1).base) }
  }
}

extension Range<Int> {
  /// True if every element of `other` is one of this range's; an empty range has none that is not.
  func contains(_ other: Range<Int>) -> Bool {
    other.isEmpty || (lowerBound <= other.lowerBound && other.upperBound <= upperBound)
  }
}
