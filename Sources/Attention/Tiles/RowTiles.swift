internal import AttentionBLAS
internal import AttentionTensors

/// Tiles whose queries are rows, and whose keys run along the vectors.
struct RowTiles<Products: RowProducts>: TilePrimitives {
  typealias Element = Products.Element

  private let call: AttentionCall<Element>
  private let ownMemory: UnsafePointer<Memory>

  private struct Memory {
    let common: TileMemory<Element>
    /// Queries times the scale, row by row.
    let query: UnsafeMutablePointer<Element>
    /// The results: `[rows, Ev]`, where Ev is the width of values.
    let result: UnsafeMutablePointer<Element>
    let scores: UnsafeMutablePointer<Element>
    let scoreStride: Int
    /// One tile of keys and of values packed, where the products cannot read them as they lie.
    let key: UnsafeMutablePointer<Element>
    let value: UnsafeMutablePointer<Element>
  }

  init(_ call: AttentionCall<Element>, _ arrays: inout ScratchArrays) {
    self.call = call
    let isCounting = arrays.isCounting
    let own: UnsafeMutablePointer<Memory> = arrays.take(1)
    let (shape, rowCapacity) = (call.shape, call.plan.rowsPerTile)
    let keyCapacity = min(call.plan.keyTileLength, max(shape.keyCount, 1))
    // Rows of scores are padded. If they lay a power of two apart, they would compete for the same sets of the cache.
    let scoreStride = (keyCapacity + 15) / 16 * 16 + 16
    let memory = Memory(
      common: TileMemory(call, rowCapacity: rowCapacity, keyCapacity: keyCapacity, &arrays),
      query: arrays.take(rowCapacity * shape.headDimension), result: arrays.take(rowCapacity * shape.valueDimension),
      scores: arrays.take(rowCapacity * scoreStride), scoreStride: scoreStride,
      key: arrays.take(keyCapacity * shape.headDimension), value: arrays.take(keyCapacity * shape.valueDimension))
    if !isCounting { own.initialize(to: memory) }
    ownMemory = UnsafePointer(own)
  }

  private var own: Memory { ownMemory.pointee }
  var memory: TileMemory<Element> { own.common }
  var scores: RowScores<Element> { RowScores(call: call, memory: memory.modifiers) }

  static func onWorker(_ kernels: Kernels<Element>, _ body: () -> Void) { Products.onWorker(kernels, body) }

  // MARK: Rows

  /// The rows of a group are one strip.
  var stripLength: Int { call.plan.rowsPerTile }

  static var cutsRows: Bool { Products.cutsRows }

  func paddedCount(_ rows: Range<Int>) -> Int { rows.count }

  func forEachGroup(_ tile: QueryTile, isRagged: Bool, _ body: (Range<Int>) -> Void) {
    let length = isRagged && Products.cutsRows ? call.plan.blockLength : tile.rowCount
    for first in stride(from: 0, to: tile.rowCount, by: length) { body(first..<min(first + length, tile.rowCount)) }
  }

  /// Queries are scaled before the product: q·k may overflow where scale·q·k does not.
  func begin(_ tile: QueryTile) {
    let columnCount = call.shape.headDimension
    own.result.update(repeating: 0, count: tile.rowCount * call.shape.valueDimension)
    tile.forEachRow(0..<tile.rowCount) { row, head, query in
      let target = own.query + row * columnCount
      let source = call.query.row(batch: tile.batch, head: head, index: query)
      if call.query.half == nil && call.query.columnStride == 1 {
        return call.kernels.scale(columnCount, source.assumingMemoryBound(to: Element.self), call.scale, target)
      }
      call.query.copyRow(call.kernels, count: columnCount, from: source, to: target)
      call.kernels.scale(columnCount, target, call.scale, target)
    }
  }

  // MARK: Keys and values

  func keys(_ tile: QueryTile, _ keys: Range<Int>, _ set: IntervalSet) -> StoredMatrix<Element> {
    matrix(call.key, tile, keys, set, columnCount: call.shape.headDimension, packedAt: own.key, isNative: false)
  }

  func values(_ tile: QueryTile, _ keys: Range<Int>, _ set: IntervalSet, isNative: Bool) -> StoredMatrix<Element> {
    matrix(call.value, tile, keys, set, columnCount: call.shape.valueDimension, packedAt: own.value, isNative: isNative)
  }

  private func matrix(
    _ operand: Operand, _ tile: QueryTile, _ keys: Range<Int>, _ set: IntervalSet, columnCount: Int,
    packedAt pack: UnsafeMutablePointer<Element>, isNative: Bool
  ) -> StoredMatrix<Element> {
    // The address of the row after the last key of the tile, if the rows lie in pages; nil if they do not, or if there
    // is no such row.
    let next =
      operand.pages == nil || keys.upperBound >= call.shape.keyCount
      ? nil : operand.row(batch: tile.batch, head: tile.keyValueHead, index: keys.upperBound)
    if Products.readsHalves, !isNative, let half = operand.half, operand.columnStride == 1 {
      return StoredMatrix(
        base: operand.row(batch: tile.batch, head: tile.keyValueHead, index: keys.lowerBound), half: half,
        rowCount: keys.count, columnCount: columnCount, rowStride: operand.lengthStride, columnStride: 1, next: next)
    }
    return StoredMatrix(
      call.matrix(operand, tile, keys, set, columnCount: columnCount, packedAt: pack, unless: Products.reads),
      next: next)
  }

  // MARK: Scores

  func block(group: Range<Int>, _ keyTile: KeyTile, isRagged: Bool, hasBlocks: Bool) -> Block<Element> {
    Block(
      rows: group, keys: keyTile.keys, set: keyTile.set, isRagged: isRagged, hasBlocks: hasBlocks,
      firstIndex: keyTile.firstIndex, group: group, scores: own.scores, rowStride: own.scoreStride, keyStride: 1)
  }

  func computeScores(
    _ block: Block<Element>, _: QueryTile, _ key: StoredMatrix<Element>, adding _: Operand?,
    maximum _: UnsafeMutablePointer<Element>?, next _: StoredMatrix<Element>?
  ) -> ScoreMaximum {
    let columnCount = call.shape.headDimension
    let queries = StridedMatrix(
      base: UnsafePointer(own.query + block.rows.lowerBound * columnCount), rowCount: block.rows.count,
      columnCount: columnCount,
      rowStride: columnCount, columnStride: 1)
    Products.computeScores(call.kernels, query: queries, key: key, into: block.scores, stride: block.rowStride)
    return .unknown
  }

  func addsBias(_: Operand) -> Bool { false }

  func softmax(_ block: Block<Element>, _ tile: QueryTile, _ cut: BlockCut?, _: ScoreMaximum) {
    computeWeights(
      block, tile, cut, maximum: memory.maximum + block.rows.lowerBound, sum: memory.sum + block.rows.lowerBound)
  }

  /// The online softmax of a block. `maximum` and `sum` have an element for each row of the block, and are updated.
  func computeWeights(
    _ block: Block<Element>, _ tile: QueryTile, _ cut: BlockCut?, maximum: UnsafeMutablePointer<Element>,
    sum: UnsafeMutablePointer<Element>
  ) {
    if cut != nil {
      tile.forEachRow(block.rows) { row, _, query in
        let attended = block.keys(ofQuery: query, batch: tile.batch)
        memory.begin[row - block.rows.lowerBound] = Element(attended.lowerBound - block.keys.lowerBound)
        memory.end[row - block.rows.lowerBound] = Element(attended.upperBound - block.keys.lowerBound)
      }
    }
    call.kernels.softmaxRows(
      rowCount: block.rows.count, columnCount: block.keys.count, scores: block.scores, stride: block.rowStride,
      begin: cut == nil ? nil : UnsafePointer(memory.begin), end: cut == nil ? nil : UnsafePointer(memory.end),
      maximum: maximum, sum: sum, rescale: memory.rescale)
  }

  // MARK: Results

  func accumulate(_ block: Block<Element>, _: BlockCut?, _ value: StoredMatrix<Element>) {
    let columnCount = call.shape.valueDimension
    let result = own.result + block.rows.lowerBound * columnCount
    for row in 0..<block.rows.count where memory.rescale[row] != 1 {
      call.kernels.scale(columnCount, result + row * columnCount, memory.rescale[row], result + row * columnCount)
    }
    let weights = StridedMatrix(
      base: UnsafePointer(block.scores), rowCount: block.rows.count, columnCount: block.keys.count,
      rowStride: block.rowStride, columnStride: 1)
    Products.accumulateValues(
      call.kernels, weights: weights, value: value, firstIndex: block.firstIndex, into: result, stride: columnCount)
  }

  func end(_: QueryTile) {}

  func hasFiniteResult(_ tile: QueryTile) -> Bool {
    call.kernels.isFinite(tile.rowCount * call.shape.valueDimension, own.result)
  }

  func result(ofRow row: Int, group _: Range<Int>) -> (base: UnsafeMutablePointer<Element>, columnStride: Int) {
    (own.result + row * call.shape.valueDimension, 1)
  }

  func expect(_: QueryTile) {}

  func writeResult(_ tile: QueryTile, columnStride: Int) -> Bool {
    let columnCount = call.shape.valueDimension
    // The results are checked before the loop, which may scale them in place.
    let isFinite = hasFiniteResult(tile)
    for row in 0..<tile.rowCount {
      let target = memory.targets[row].assumingMemoryBound(to: Element.self)
      let result = own.result + row * columnCount
      if columnStride == 1 {
        call.kernels.scale(columnCount, result, memory.factor[row], target)
      } else {
        call.kernels.scale(columnCount, result, memory.factor[row], result)
        copyStridedRow(
          count: columnCount, elementByteCount: MemoryLayout<Element>.stride, from: result, stride: 1, to: target,
          stride: columnStride)
      }
    }
    return isFinite
  }

  func writeScores(_ block: Block<Element>, _ tile: QueryTile) {
    tile.forEachRow(block.rows) { row, _, query in
      let keys = block.keys(ofQuery: query, batch: tile.batch)
      memory.targets[row].assumingMemoryBound(to: Element.self).update(
        from: block.scores + block.place(row: row, key: keys.lowerBound), count: keys.count)
    }
  }
}
