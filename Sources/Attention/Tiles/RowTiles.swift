internal import AttentionBLAS
internal import AttentionTensors

/// The two products of a tile whose queries are rows.
///
/// R rows (queries), N keys, E width, Ev width of values.
protocol RowProducts: Sendable {
  associatedtype Element: AttentionElement

  /// True if the products read a matrix of keys or values where it lies.
  static func reads(_ matrix: StridedMatrix<Element>) -> Bool

  /// True if they read keys and values of two bytes where they lie.
  static var readsHalves: Bool { get }

  static func onWorker(_ body: () -> Void)

  /// scores[R, N] ← Q[R, E] · K[N, E]ᵀ.
  static func computeScores(
    _ kernels: Kernels<Element>, query: StridedMatrix<Element>, key: StoredMatrix<Element>,
    into scores: UnsafeMutablePointer<Element>, stride: Int)

  /// result[R, Ev] += weights[R, N] · V[N, Ev].
  static func accumulateValues(
    _ kernels: Kernels<Element>, weights: StridedMatrix<Element>, value: StoredMatrix<Element>,
    into result: UnsafeMutablePointer<Element>, stride: Int)
}

/// Tiles by OpenBLAS: any number of rows, on any machine.
enum OpenBLASProducts<Element: AttentionElement>: RowProducts {
  static func reads(_ matrix: StridedMatrix<Element>) -> Bool { matrix.blasLayout != nil }

  static var readsHalves: Bool { false }

  static func onWorker(_ body: () -> Void) { OpenBLAS.withOneThread(body) }

  static func computeScores(
    _: Kernels<Element>, query: StridedMatrix<Element>, key: StoredMatrix<Element>,
    into scores: UnsafeMutablePointer<Element>, stride: Int
  ) {
    multiply(query, key.native.transposed, .replacing, into: scores, stride: stride)
  }

  static func accumulateValues(
    _: Kernels<Element>, weights: StridedMatrix<Element>, value: StoredMatrix<Element>,
    into result: UnsafeMutablePointer<Element>, stride: Int
  ) {
    multiply(weights, value.native, .accumulating, into: result, stride: stride)
  }
}

/// Tiles of a few rows, as in decoding: every key and value is read once from memory.
enum FewRowProducts<Element: AttentionElement>: RowProducts {
  static func reads(_ matrix: StridedMatrix<Element>) -> Bool { matrix.columnStride == 1 }

  static var readsHalves: Bool { true }

  static func onWorker(_ body: () -> Void) { body() }

  static func computeScores(
    _ kernels: Kernels<Element>, query: StridedMatrix<Element>, key: StoredMatrix<Element>,
    into scores: UnsafeMutablePointer<Element>, stride: Int
  ) {
    kernels.dotRows(query: query, key: key, factor: 1, into: scores, stride: stride)
  }

  static func accumulateValues(
    _ kernels: Kernels<Element>, weights: StridedMatrix<Element>, value: StoredMatrix<Element>,
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
    /// Queries times the scale, row by row.
    let query: UnsafeMutablePointer<Element>
    /// One key tile packed, where the products cannot read its strides.
    let key: UnsafeMutablePointer<Element>
    let value: UnsafeMutablePointer<Element>
    let scores: UnsafeMutablePointer<Element>
    let scoreStride: Int
    let state: RowState<Element>
    let normalized: NormalizedRows<Element>
    let rescale: UnsafeMutablePointer<Element>
    let begin: UnsafeMutablePointer<Int64>
    let end: UnsafeMutablePointer<Int64>
    /// One row of a bias or boolean mask, where it is not contiguous or of another type.
    let biasRow: UnsafeMutablePointer<Element>
    let booleanRow: UnsafeMutablePointer<UInt8>
    /// For each row: its slope, and the place of its query among the keys.
    let slope: UnsafeMutablePointer<Element>
    let position: UnsafeMutablePointer<Element>
    let heads: UnsafeMutablePointer<Int32>
    let queries: UnsafeMutablePointer<Int32>
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
      normalized: NormalizedRows(&carver, rowCount: rowCount),
      rescale: carver.take(rowCount), begin: carver.take(rowCount), end: carver.take(rowCount),
      biasRow: carver.take(keyCount), booleanRow: carver.take(keyCount), slope: carver.take(rowCount),
      position: carver.take(rowCount), heads: carver.take(rowCount), queries: carver.take(rowCount))
  }

  static func onWorker(_ body: () -> Void) { Products.onWorker(body) }

  func attend(_ tile: Call.Tile, split: Int, _ scratch: Scratch) {
    attend(tile, split: split, TileCare(), scratch)
    if hasFiniteResult(tile, scratch) { return }
    repeatWithCare(
      isHiding: call.schedule.isRagged || call.schedule.hidesWithinIntervals,
      hasFiniteValues: { hasFiniteValues(tile, split: split, scratch) },
      hasFiniteResult: { hasFiniteResult(tile, scratch) }
    ) { attend(tile, split: split, $0, scratch) }
  }

  private func hasFiniteResult(_ tile: Call.Tile, _ scratch: Scratch) -> Bool {
    call.kernels.isFinite(tile.rowCount * call.shape.valueWidth, scratch.state.result)
  }

  private func hasFiniteValues(_ tile: Call.Tile, split: Int, _ scratch: Scratch) -> Bool {
    var isFinite = true
    call.forEachKeyTile(tile, split: split) { keys, _ in
      isFinite = isFinite && call.isFinite(nativeValues(tile, keys, scratch))
    }
    return isFinite
  }

  private func attend(_ tile: Call.Tile, split: Int, _ care: TileCare, _ scratch: Scratch) {
    let state = scratch.state
    let valueWidth = call.shape.valueWidth
    if care.normalizesWeights {
      scratch.normalized.find(rowCount: tile.rowCount, maximum: state.maximum, sum: state.sum) {
        call.kernels.isFinite(valueWidth, state.result + $0 * valueWidth)
      }
    }
    call.startRows(tile, split: split, maximum: state.maximum, sum: state.sum)
    if care.normalizesWeights { scratch.normalized.restoreMaxima(rowCount: tile.rowCount, state.maximum) }
    state.result.update(repeating: 0, count: tile.rowCount * valueWidth)
    let queries = queryMatrix(tile, scratch)
    forEachBlock(tile, split: split) { block in
      computeScores(block, tile, queries, scratch)
      let values = blockValues(block, tile, care, scratch)
      let forbidden =
        values.isHazardous ? call.forbidden(scratch.scores, count: block.rows.count * scratch.scoreStride) : nil
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
      if care.normalizesWeights {
        for row in 0..<block.rows.count where scratch.normalized.contains(first + row) {
          let weights = scratch.scores + row * scratch.scoreStride
          call.kernels.scale(block.keys.count, weights, scratch.normalized.factor[first + row], weights)
        }
      }
      accumulate(block, tile, values, forbidden, scratch)
    }
    if care.normalizesWeights { scratch.normalized.restoreSums(rowCount: tile.rowCount, state.sum) }
    call.divideBySums(tile, state) { care.normalizesWeights && scratch.normalized.contains($0) }
    if care.normalizesWeights {
      for row in 0..<tile.rowCount where scratch.normalized.contains(row) {
        let result = state.result + row * valueWidth
        for column in 0..<valueWidth {
          result[column] = NormalizedRows.saturated(result[column]) * NormalizedRows<Element>.meanFactor
        }
      }
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
    _ weights: UnsafeMutablePointer<Element>, _ tile: Call.Tile, split: Int, maximum: UnsafePointer<Element>,
    sum: UnsafePointer<Element>, _ scratch: Scratch
  ) {
    // In the same blocks as before, so that the scores have the same bits and none exceeds its maximum.
    forEachAttendedRun(tile, split: split, scratch) { row, head, query, keys, scores in
      if sum[row] == 0 || sum[row].isNaN { return }
      let target = call.row(of: weights, tile, head: head, query: query) + keys.lowerBound
      _ = call.kernels.exponentialSum(keys.count, scores, maximum[row], target)
      call.kernels.scale(keys.count, target, 1 / sum[row], target)
    }
  }

  func writeScores(_ matrix: UnsafeMutablePointer<Element>, _ tile: Call.Tile, split: Int, _ scratch: Scratch) {
    forEachAttendedRun(tile, split: split, scratch) { _, head, query, keys, scores in
      (call.row(of: matrix, tile, head: head, query: query) + keys.lowerBound).update(from: scores, count: keys.count)
    }
  }

  /// Calls `body` with the scores of every row, interval by interval.
  private func forEachAttendedRun(
    _ tile: Call.Tile, split: Int, _ scratch: Scratch,
    _ body: (_ row: Int, _ head: Int, _ query: Int, _ keys: Range<Int>, _ scores: UnsafePointer<Element>) -> Void
  ) {
    let queries = queryMatrix(tile, scratch)
    forEachBlock(tile, split: split) { block in
      computeScores(block, tile, queries, scratch)
      tile.forEachRow(block.rows) { row, head, query in
        let index = row - block.rows.lowerBound
        let begin = block.isRagged ? Int(scratch.begin[index]) : 0
        let end = block.isRagged ? Int(scratch.end[index]) : block.keys.count
        let first = block.keys.lowerBound
        body(row, head, query, first + begin..<first + end, scratch.scores + index * scratch.scoreStride + begin)
      }
    }
  }

  // MARK: Blocks

  private typealias Block = Call.Region

  /// Calls `body` for every part of the score matrix that the mask does not leave empty.
  private func forEachBlock(_ tile: Call.Tile, split: Int, _ body: (Block) -> Void) {
    call.forEachKeyTile(tile, split: split) { keys, layer in
      // Where the diagonal crosses, smaller blocks leave more out.
      call.forEachRegion(
        tile, rows: 0..<tile.rowCount, keys: keys, layer: layer, pieceLength: call.plan.blockLength, body)
    }
  }

  /// The tile's queries times the scale, as one matrix. The scale comes first: q·k may overflow where scale·q·k does not.
  private func queryMatrix(_ tile: Call.Tile, _ scratch: Scratch) -> StridedMatrix<Element> {
    let width = call.shape.width
    tile.forEachRow(0..<tile.rowCount) { row, head, query in
      let target = scratch.query + row * width
      let source = call.query.row(batch: tile.batch, head: head, index: query)
      if call.query.half == nil && call.query.widthStride == 1 {
        return call.kernels.scale(width, source.assumingMemoryBound(to: Element.self), call.scale, target)
      }
      call.query.copyRow(call.kernels, count: width, from: source, to: target)
      call.kernels.scale(width, target, call.scale, target)
    }
    return StridedMatrix(
      base: scratch.query, rowCount: tile.rowCount, columnCount: width, rowStride: width, columnStride: 1)
  }

  /// Keys or values of two bytes where they lie, if the products read them there.
  private func stored(_ operand: Operand, _ tile: Call.Tile, _ keys: Range<Int>, width: Int) -> StoredMatrix<Element>? {
    guard Products.readsHalves, let half = operand.half, operand.widthStride == 1 else { return nil }
    return StoredMatrix(
      half, base: operand.row(batch: tile.batch, head: tile.keyValueHead, index: keys.lowerBound),
      rowCount: keys.count, columnCount: width, rowStride: operand.lengthStride, next: next(operand, tile, keys))
  }

  /// The key or value after `keys`, where it need not lie behind them.
  private func next(_ operand: Operand, _ tile: Call.Tile, _ keys: Range<Int>) -> UnsafeRawPointer? {
    guard operand.pages != nil, keys.upperBound < call.shape.keyCount else { return nil }
    return operand.row(batch: tile.batch, head: tile.keyValueHead, index: keys.upperBound)
  }

  /// scores ← the scores of attended keys, −inf where something other than their interval forbids; and each row's
  /// interval.
  private func computeScores(
    _ block: Block, _ tile: Call.Tile, _ queries: StridedMatrix<Element>, _ scratch: Scratch
  ) {
    if call.scale == 0 {
      // Whatever the query and the key hold: 0·NaN is NaN.
      for row in 0..<block.rows.count {
        (scratch.scores + row * scratch.scoreStride).update(repeating: 0, count: block.keys.count)
      }
    } else {
      Products.computeScores(
        call.kernels, query: queries.rows(block.rows),
        key: stored(call.key, tile, block.keys, width: call.shape.width)
          ?? StoredMatrix(
            call.matrix(
              call.key, tile, block.keys, nil, width: call.shape.width, packedAt: scratch.key, unless: Products.reads),
            next: next(call.key, tile, block.keys)),
        into: scratch.scores, stride: scratch.scoreStride)
    }
    if let cap = call.softcap {
      for row in 0..<block.rows.count {
        call.kernels.softcap(block.keys.count, scratch.scores + row * scratch.scoreStride, cap)
      }
    }
    if block.isRagged {
      tile.forEachRow(block.rows) { row, _, query in
        let keys = block.layer.intervals[tile.batch, query].clamped(to: block.keys)
        scratch.begin[row - block.rows.lowerBound] = Int64(keys.lowerBound - block.keys.lowerBound)
        scratch.end[row - block.rows.lowerBound] = Int64(keys.upperBound - block.keys.lowerBound)
      }
    }
    if block.layer.isMasked && call.schedule.hasTerms { applyTerms(block, tile, scratch) }
  }

  private func applyTerms(_ block: Block, _ tile: Call.Tile, _ scratch: Scratch) {
    let schedule = call.schedule
    call.applyFunctions(
      tile, rows: block.rows, keys: block.keys, scratch.scores, rowStride: scratch.scoreStride, keyStride: 1,
      heads: scratch.heads, queries: scratch.queries)
    call.forEachDistances(
      tile, rows: block.rows, keys: block.keys, slope: scratch.slope, position: scratch.position
    ) {
      call.kernels.subtractDistances(
        rowCount: block.rows.count, keyCount: block.keys.count, rows: scratch.scores, stride: scratch.scoreStride,
        slope: scratch.slope, position: scratch.position)
    }
    if !schedule.hidesWithinIntervals { return }
    tile.forEachRow(block.rows) { row, head, query in
      let index = row - block.rows.lowerBound
      let keys = block.isRagged ? block.layer.intervals[tile.batch, query].clamped(to: block.keys) : block.keys
      if keys.isEmpty { return }
      let scores = scratch.scores + index * scratch.scoreStride + (keys.lowerBound - block.keys.lowerBound)
      for bias in schedule.biases {
        let source = bias.row(batch: tile.batch, head: head, index: query, from: keys.lowerBound)
        if bias.half == nil && bias.widthStride == 1 {
          call.kernels.addBias(keys.count, scores, source.assumingMemoryBound(to: Element.self))
        } else {
          bias.copyRow(call.kernels, count: keys.count, from: source, to: scratch.biasRow)
          call.kernels.addBias(keys.count, scores, scratch.biasRow)
        }
      }
      for boolean in schedule.booleans {
        var source = boolean.row(batch: tile.batch, head: head, index: query, from: keys.lowerBound)
        if boolean.widthStride != 1 {
          copyStridedRow(
            count: keys.count, elementByteCount: 1, from: source, stride: boolean.widthStride, to: scratch.booleanRow,
            stride: 1)
          source = UnsafeRawPointer(scratch.booleanRow)
        }
        call.kernels.mask(keys.count, scores, source.assumingMemoryBound(to: UInt8.self))
      }
      if !block.hasBlocks { return }
      for mask in schedule.blocks {
        mask.forEachColumn(of: keys) { column, part in
          call.kernels.mask(
            part.count, scores + (part.lowerBound - keys.lowerBound),
            mask.row(batch: tile.batch, head: head, query: query, column: column)
              + (part.lowerBound - column * mask.blockLength))
        }
      }
    }
  }

  /// The values of a block.
  private struct BlockValues {
    /// Where they lie, if the products read them there in two bytes.
    var stored: StoredMatrix<Element>?
    /// Else as they are computed with.
    var native: StridedMatrix<Element>?
    var next: UnsafeRawPointer?
    /// True if some row does not attend to some key, and some value is not finite.
    var isHazardous = false
  }

  private func blockValues(_ block: Block, _ tile: Call.Tile, _ care: TileCare, _ scratch: Scratch) -> BlockValues {
    let isHiding =
      care.leavesOutHazards && (block.isRagged || (block.layer.isMasked && call.schedule.hidesWithinIntervals))
    if !isHiding, let values = stored(call.value, tile, block.keys, width: call.shape.valueWidth) {
      return BlockValues(stored: values)
    }
    let values = nativeValues(tile, block.keys, scratch)
    return BlockValues(
      native: values, next: next(call.value, tile, block.keys), isHazardous: isHiding && !call.isFinite(values))
  }

  /// Values in the type that is computed with.
  private func nativeValues(_ tile: Call.Tile, _ keys: Range<Int>, _ scratch: Scratch) -> StridedMatrix<Element> {
    call.matrix(
      call.value, tile, keys, nil, width: call.shape.valueWidth, packedAt: scratch.value, unless: Products.reads)
  }

  /// result += weights · V.
  private func accumulate(
    _ block: Block, _ tile: Call.Tile, _ blockValues: BlockValues, _ forbidden: [Bool]?, _ scratch: Scratch
  ) {
    let valueWidth = call.shape.valueWidth
    let result = scratch.state.result + block.rows.lowerBound * valueWidth
    let weights = StridedMatrix(
      base: UnsafePointer(scratch.scores), rowCount: block.rows.count, columnCount: block.keys.count,
      rowStride: scratch.scoreStride, columnStride: 1)
    if let stored = blockValues.stored {
      return Products.accumulateValues(call.kernels, weights: weights, value: stored, into: result, stride: valueWidth)
    }
    var values = blockValues.native!
    var hiddenKeys: [Int] = []
    // Hazard: a masked key has weight 0, but 0·NaN is NaN. Where every row attends to every key there
    // is nothing to hide; elsewhere such values are left out of the product and added one by one.
    if blockValues.isHazardous {
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
    Products.accumulateValues(
      call.kernels, weights: weights, value: StoredMatrix(values, next: blockValues.next), into: result,
      stride: valueWidth)
    for key in hiddenKeys {
      let index = block.keys.lowerBound + key
      let source = call.value.row(batch: tile.batch, head: tile.keyValueHead, index: index)
      withUnsafeTemporaryAllocation(of: Element.self, capacity: valueWidth) { element in
        call.value.copyRow(call.kernels, count: valueWidth, from: source, to: element.baseAddress!)
        tile.forEachRow(block.rows) { row, head, query in
          let place = (row - block.rows.lowerBound) * scratch.scoreStride + key
          guard forbidden?[place] != true, call.attends(tile, block.layer, head: head, query: query, key: index) else {
            return
          }
          let weight = scratch.scores[place]
          let target = scratch.state.result + row * valueWidth
          for column in 0..<valueWidth { target[column] += weight * element[column] }
        }
      }
    }
  }
}
