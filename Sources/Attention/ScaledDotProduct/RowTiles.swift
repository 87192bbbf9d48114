internal import AttentionBLAS
internal import AttentionTensors

/// The two products of a tile whose queries are rows.
///
/// R rows (queries), N keys, E width, Ev width of values.
protocol RowProducts: Sendable {
  associatedtype Element: AttentionElement

  /// True if the products read a matrix of keys, values or queries where it lies.
  static func reads(_ matrix: StridedMatrix<Element>) -> Bool

  static func onWorker(_ body: () -> Void)

  /// scores[R, N] ← scale · Q[R, E] · K[N, E]ᵀ.
  static func computeScores(
    _ kernels: Kernels<Element>, query: StridedMatrix<Element>, key: StridedMatrix<Element>, scale: Element,
    into scores: UnsafeMutablePointer<Element>, stride: Int)

  /// result[R, Ev] += weights[R, N] · V[N, Ev].
  static func accumulateValues(
    _ kernels: Kernels<Element>, weights: StridedMatrix<Element>, value: StridedMatrix<Element>,
    into result: UnsafeMutablePointer<Element>, stride: Int)
}

/// Tiles by OpenBLAS: any number of rows, on any machine.
enum OpenBLASProducts<Element: AttentionElement>: RowProducts {
  static func reads(_ matrix: StridedMatrix<Element>) -> Bool { matrix.blasLayout != nil }

  static func onWorker(_ body: () -> Void) { OpenBLAS.withOneThread(body) }

  static func computeScores(
    _: Kernels<Element>, query: StridedMatrix<Element>, key: StridedMatrix<Element>, scale: Element,
    into scores: UnsafeMutablePointer<Element>, stride: Int
  ) {
    multiply(alpha: scale, query, key.transposed, .replacing, into: scores, stride: stride)
  }

  static func accumulateValues(
    _: Kernels<Element>, weights: StridedMatrix<Element>, value: StridedMatrix<Element>,
    into result: UnsafeMutablePointer<Element>, stride: Int
  ) {
    multiply(weights, value, .accumulating, into: result, stride: stride)
  }
}

/// Tiles of a few rows, as in decoding: every key and value is read once from memory.
enum FewRowProducts<Element: AttentionElement>: RowProducts {
  static func reads(_ matrix: StridedMatrix<Element>) -> Bool { matrix.columnStride == 1 }

  static func onWorker(_ body: () -> Void) { body() }

  static func computeScores(
    _ kernels: Kernels<Element>, query: StridedMatrix<Element>, key: StridedMatrix<Element>, scale: Element,
    into scores: UnsafeMutablePointer<Element>, stride: Int
  ) {
    if scale == 0 {
      // Whatever the query and the key hold: 0·NaN is NaN.
      for row in 0..<query.rowCount { (scores + row * stride).update(repeating: 0, count: key.rowCount) }
    } else {
      kernels.dotRows(query: query, key: key, factor: scale, into: scores, stride: stride)
    }
  }

  static func accumulateValues(
    _ kernels: Kernels<Element>, weights: StridedMatrix<Element>, value: StridedMatrix<Element>,
    into result: UnsafeMutablePointer<Element>, stride: Int
  ) {
    kernels.accumulateRows(weights: weights, value: value, into: result, stride: stride)
  }
}

/// Tiles whose queries are rows, and whose keys run along the vectors.
struct RowTiles<Products: RowProducts>: TileKernels {
  typealias Element = Products.Element
  typealias Call = AttentionCall<Element>

  let call: Call

  init(_ call: Call) { self.call = call }

  struct Scratch {
    /// Queries packed row by row, where their strides are no matrix's.
    let query: UnsafeMutablePointer<Element>
    /// One key tile packed, where the products cannot read its strides.
    let key: UnsafeMutablePointer<Element>
    let value: UnsafeMutablePointer<Element>
    let scores: UnsafeMutablePointer<Element>
    let scoreStride: Int
    /// Sum, maximum and unnormalised result of every row.
    let state: RowState<Element>
    let rescale: UnsafeMutablePointer<Element>
    let begin: UnsafeMutablePointer<Int64>
    let end: UnsafeMutablePointer<Int64>
    /// One row of a bias or boolean mask, where it is not contiguous.
    let biasRow: UnsafeMutablePointer<Element>
    let booleanRow: UnsafeMutablePointer<UInt8>
  }

  func scratch(_ carver: inout Carver) -> Scratch {
    let rowCount = call.plan.rowsPerTile
    let keyCount = min(call.plan.keyTileLength, max(call.shape.keyCount, 1))
    // Rows a power of two apart would share the sets of the cache.
    let scoreStride = (keyCount + 15) / 16 * 16 + 16
    return Scratch(
      query: carver.take(rowCount * call.shape.width),
      key: carver.take(keyCount * call.shape.width), value: carver.take(keyCount * call.shape.valueWidth),
      scores: carver.take(rowCount * scoreStride), scoreStride: scoreStride,
      state: RowState(&carver, rowCount: rowCount, valueWidth: call.shape.valueWidth),
      rescale: carver.take(rowCount), begin: carver.take(rowCount), end: carver.take(rowCount),
      biasRow: carver.take(keyCount), booleanRow: carver.take(keyCount))
  }

  static func onWorker(_ body: () -> Void) { Products.onWorker(body) }

  func attend(_ tile: Call.Tile, to keys: Range<Int>, _ scratch: Scratch) {
    let state = scratch.state
    let valueWidth = call.shape.valueWidth
    state.reset(rowCount: tile.rowCount, valueWidth: valueWidth)
    let queries = queryMatrix(tile, scratch)
    forEachBlock(tile, keys) { block in
      computeScores(block, tile, queries, scratch)
      let first = block.rows.lowerBound
      call.kernels.softmaxRows(
        rowCount: block.rows.count, columnCount: block.keys.count, scores: scratch.scores, stride: scratch.scoreStride,
        begin: block.isRagged ? UnsafePointer(scratch.begin) : nil,
        end: block.isRagged ? UnsafePointer(scratch.end) : nil,
        maximum: state.maximum + first, sum: state.sum + first, rescale: scratch.rescale)
      for row in 0..<block.rows.count where scratch.rescale[row] != 1 {
        let result = state.result + (first + row) * valueWidth
        call.kernels.scale(valueWidth, result, scratch.rescale[row], result)
      }
      accumulate(block, tile, scratch)
    }
  }

  func store(_ tile: Call.Tile, _ scratch: Scratch, into state: RowState<Element>) {
    state.maximum.update(from: scratch.state.maximum, count: tile.rowCount)
    state.sum.update(from: scratch.state.sum, count: tile.rowCount)
    state.result.update(from: scratch.state.result, count: tile.rowCount * call.shape.valueWidth)
  }

  func finish(_ tile: Call.Tile, _ scratch: Scratch) { call.finish(tile, scratch.state) }

  func state(_ scratch: Scratch) -> (maximum: UnsafePointer<Element>, sum: UnsafePointer<Element>) {
    (UnsafePointer(scratch.state.maximum), UnsafePointer(scratch.state.sum))
  }

  func writeWeights(
    _ tile: Call.Tile, to keys: Range<Int>, maximum: UnsafePointer<Element>, sum: UnsafePointer<Element>,
    _ scratch: Scratch
  ) {
    let queries = queryMatrix(tile, scratch)
    // In the same blocks as before, so that the scores have the same bits and none exceeds its maximum.
    forEachBlock(tile, keys) { block in
      computeScores(block, tile, queries, scratch)
      tile.forEachRow(block.rows) { row, head, query in
        if sum[row] == 0 || sum[row].isNaN { return }
        let index = row - block.rows.lowerBound
        let begin = block.isRagged ? Int(scratch.begin[index]) : 0
        let end = block.isRagged ? Int(scratch.end[index]) : block.keys.count
        let target = call.weightRow(tile, head: head, query: query) + block.keys.lowerBound + begin
        _ = call.kernels.exponentialSum(
          end - begin, scratch.scores + index * scratch.scoreStride + begin, maximum[row], target)
        call.kernels.scale(end - begin, target, 1 / sum[row], target)
      }
    }
  }

  // MARK: Blocks

  /// Some rows of a tile by some keys, all of one kind.
  private struct Block {
    let rows: Range<Int>
    let keys: Range<Int>
    /// True if the rows attend to different intervals of these keys.
    let isRagged: Bool
    /// True if boolean masks and biases apply.
    let hasTensors: Bool
  }

  /// Calls `body` for every part of the score matrix that the mask does not leave empty.
  private func forEachBlock(_ tile: Call.Tile, _ keys: Range<Int>, _ body: (Block) -> Void) {
    call.forEachKeyTile(tile, keys) { part, isMasked in
      let hasTensors = isMasked && call.schedule.hasTensors
      if !isMasked || call.attendAll(batch: tile.batch, queries: tile.queries, to: part) {
        body(Block(rows: 0..<tile.rowCount, keys: part, isRagged: false, hasTensors: hasTensors))
        return
      }
      // The diagonal crosses: smaller blocks leave more out.
      forEachRowBlock(tile) { rows, queries in
        let union = call.schedule.union(batch: tile.batch, queries: queries).clamped(to: part)
        if union.isEmpty { return }
        let isRagged = !call.attendAll(batch: tile.batch, queries: queries, to: union)
        body(Block(rows: rows, keys: union, isRagged: isRagged, hasTensors: hasTensors))
      }
    }
  }

  private func forEachRowBlock(_ tile: Call.Tile, _ body: (_ rows: Range<Int>, _ queries: Range<Int>) -> Void) {
    let count = tile.queries.count
    let length = call.plan.blockLength
    if count <= length { return body(0..<tile.rowCount, tile.queries) }
    for head in 0..<tile.heads.count {
      for low in stride(from: 0, to: count, by: length) {
        let high = min(low + length, count)
        body(
          head * count + low..<head * count + high, tile.queries.lowerBound + low..<tile.queries.lowerBound + high)
      }
    }
  }

  /// The tile's queries as one matrix: in place if their strides are a matrix's, else packed.
  private func queryMatrix(_ tile: Call.Tile, _ scratch: Scratch) -> StridedMatrix<Element> {
    let width = call.shape.width
    if tile.heads.count == 1 {
      let matrix = StridedMatrix(
        base: call.query.row(batch: tile.batch, head: tile.heads.lowerBound, index: tile.queries.lowerBound),
        rowCount: tile.queries.count, columnCount: width,
        rowStride: call.query.lengthStride, columnStride: call.query.widthStride)
      if let layout = matrix.blasLayout, !layout.isTransposed, Products.reads(matrix) { return matrix }
    }
    tile.forEachRow(0..<tile.rowCount) { row, head, query in
      copyStridedRow(
        count: width, elementByteCount: MemoryLayout<Element>.stride,
        from: call.query.row(batch: tile.batch, head: head, index: query),
        stride: call.query.widthStride, to: scratch.query + row * width, stride: 1)
    }
    return StridedMatrix(
      base: scratch.query, rowCount: tile.rowCount, columnCount: width, rowStride: width, columnStride: 1)
  }

  /// scores ← scale·QKᵀ + biases, −inf where a boolean mask or a bias forbids; and each row's interval.
  private func computeScores(
    _ block: Block, _ tile: Call.Tile, _ queries: StridedMatrix<Element>, _ scratch: Scratch
  ) {
    Products.computeScores(
      call.kernels, query: queries.rows(block.rows),
      key: call.matrix(
        call.key, tile, block.keys, width: call.shape.width, packedAt: scratch.key, unless: Products.reads),
      scale: call.scale, into: scratch.scores, stride: scratch.scoreStride)
    if !block.isRagged && !block.hasTensors { return }
    tile.forEachRow(block.rows) { row, head, query in
      let index = row - block.rows.lowerBound
      var keys = block.keys
      if block.isRagged {
        keys = call.schedule.interval(batch: tile.batch, query: query).clamped(to: block.keys)
        scratch.begin[index] = Int64(keys.lowerBound - block.keys.lowerBound)
        scratch.end[index] = Int64(keys.upperBound - block.keys.lowerBound)
      }
      if block.hasTensors && !keys.isEmpty {
        let scores = scratch.scores + index * scratch.scoreStride + (keys.lowerBound - block.keys.lowerBound)
        applyTensors(scores, batch: tile.batch, head: head, query: query, keys, scratch)
      }
    }
  }

  private func applyTensors(
    _ scores: UnsafeMutablePointer<Element>, batch: Int, head: Int, query: Int, _ keys: Range<Int>,
    _ scratch: Scratch
  ) {
    func contiguous<Value>(_ operand: Operand<Value>, _ row: UnsafeMutablePointer<Value>) -> UnsafePointer<Value> {
      let source = operand.row(batch: batch, head: head, index: query) + keys.lowerBound * operand.widthStride
      if operand.widthStride == 1 { return source }
      for i in 0..<keys.count { row[i] = source[i * operand.widthStride] }
      return UnsafePointer(row)
    }
    for bias in call.schedule.biases { call.kernels.addBias(keys.count, scores, contiguous(bias, scratch.biasRow)) }
    for boolean in call.schedule.booleans {
      call.kernels.mask(keys.count, scores, contiguous(boolean, scratch.booleanRow))
    }
  }

  /// result += weights · V.
  private func accumulate(_ block: Block, _ tile: Call.Tile, _ scratch: Scratch) {
    let valueWidth = call.shape.valueWidth
    var values = call.matrix(
      call.value, tile, block.keys, width: valueWidth, packedAt: scratch.value, unless: Products.reads)
    var hiddenKeys: [Int] = []
    // Hazard: a masked key has weight 0, but 0·NaN is NaN. Where every row attends to every key there
    // is nothing to hide; elsewhere such values are left out of the product and added one by one.
    if (block.isRagged || block.hasTensors) && !call.isFinite(values) {
      // Packed in the layout that they have: OpenBLAS has other kernels, and so other bits, for the other.
      let isTransposed = values.blasLayout?.isTransposed ?? false
      values =
        isTransposed ? values.transposed.pack(into: scratch.value).transposed : values.pack(into: scratch.value)
      for key in 0..<values.rowCount where !call.isFinite(values.rows(key..<key + 1)) {
        for column in 0..<values.columnCount {
          scratch.value[key * values.rowStride + column * values.columnStride] = 0
        }
        hiddenKeys.append(key)
      }
    }
    let result = scratch.state.result + block.rows.lowerBound * valueWidth
    Products.accumulateValues(
      call.kernels,
      weights: StridedMatrix(
        base: scratch.scores, rowCount: block.rows.count, columnCount: block.keys.count,
        rowStride: scratch.scoreStride, columnStride: 1),
      value: values, into: result, stride: valueWidth)
    for key in hiddenKeys {
      let index = block.keys.lowerBound + key
      let source = call.value.row(batch: tile.batch, head: tile.keyValueHead, index: index)
      tile.forEachRow(block.rows) { row, head, query in
        guard call.schedule.attends(batch: tile.batch, head: head, query: query, key: index) else { return }
        let weight = scratch.scores[(row - block.rows.lowerBound) * scratch.scoreStride + key]
        let target = scratch.state.result + row * valueWidth
        for column in 0..<valueWidth { target[column] += weight * source[column * call.value.widthStride] }
      }
    }
  }
}
