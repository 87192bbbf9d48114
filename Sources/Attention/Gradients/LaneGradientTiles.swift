internal import AttentionBLAS
internal import AttentionTensors

/// Tiles of the backward pass whose queries run along the lanes of vectors, computed by the kernels of this package.
///
/// P, the weights, and dS, the gradients of the scores, are each one array for a whole tile of queries: `[keys, rows]`.
/// So P and dS are the left operands of the products for dV and dK, which sum over all rows of the tile, and dS is also
/// the right operand of the product for dQ. Only the queries, dO and dQ are transposed in memory. A panel is the rows
/// that fill a few vectors. E is the width of queries and keys, Ev the width of values.
struct LaneGradientTiles<Forward: LaneScoreTiles>: GradientTiles {
  typealias Element = Forward.Element

  let gradients: GradientCall<Element>
  let forward: Forward
  private let ownMemory: UnsafeMutablePointer<Memory>

  private struct Memory {
    var rows: GradientRows<Element>
    let common: GradientMemory<Element>
    /// Panels of dO, each `[Ev, lanes]`.
    let outputGradient: UnsafeMutablePointer<Element>
    /// P, dS, and scores after softcap if they are needed: `[keys, rowStride]`.
    let weights: UnsafeMutablePointer<Element>
    let scoreGradients: UnsafeMutablePointer<Element>
    let cappedScores: UnsafeMutablePointer<Element>?
    let rowStride: Int
    /// Panels of dQ, each `[E, lanes]`; then the tile's ``RowSums``, `[sums, rowStride]`.
    let querySums: UnsafeMutablePointer<Element>
    /// dK and dV of a region, `[keys, dimension]`, filled up to whole vectors.
    let keyGradient: UnsafeMutablePointer<Element>
    let valueGradient: UnsafeMutablePointer<Element>
    let keyStride: Int
    let valueStride: Int
    /// Factors of 1, one for each lane of a product. With these as `rescale`, a product is added to the sum so far.
    let ones: UnsafeMutablePointer<Element>
    /// For each vector of rows: the keys of the blocks of the panel that begins there.
    let panels: UnsafeMutablePointer<Panel>
    var region: Range<Int>
    var keys: Range<Int>
    /// The keys and values that the products have read last, which the next tile of queries mostly reads again. The
    /// products for the scores and for dQ both read `scoreKey`; but if its elements have two bytes, the product for dQ
    /// reads `key`.
    var scoreKey: Stored?
    var key: Stored?
    var value: Stored?
  }

  private struct Stored {
    let keys: Range<Int>
    let matrix: StoredMatrix<Element>
  }

  /// Which blocks of a panel have been computed for the current tile of keys.
  private struct Panel {
    /// The keys from the first to the last one that some block holds.
    var keys: Range<Int>
    /// True if P and dS are 0 for all other keys.
    var isCleared: Bool
  }

  init(_ gradients: GradientCall<Element>, _ arrays: inout ScratchArrays) {
    self.gradients = gradients
    let isCounting = arrays.isCounting
    let own: UnsafeMutablePointer<Memory> = arrays.take(1)
    let call = gradients.call
    let shape = call.shape
    forward = Forward(call, &arrays)
    let laneCount = call.kernels.laneCount
    let rowCapacity = call.plan.rowsPerTile.roundedUp(toMultipleOf: laneCount)
    let keyCapacity = min(call.plan.keyTileLength, max(shape.keyCount, 1))
    let keyStride = shape.headDimension.roundedUp(toMultipleOf: laneCount)
    let valueStride = shape.valueDimension.roundedUp(toMultipleOf: laneCount)
    let needsScores = call.softcap != nil || call.schedule.terms?.functions.isEmpty == false
    let memory = Memory(
      rows: GradientRows(call, rowCapacity: rowCapacity, laneCount: laneCount, &arrays),
      common: GradientMemory(
        rowCapacity: rowCapacity, keyCapacity: keyCapacity, isNeeded: call.schedule.terms != nil, &arrays),
      outputGradient: arrays.take(rowCapacity * shape.valueDimension),
      weights: arrays.take(keyCapacity * rowCapacity), scoreGradients: arrays.take(keyCapacity * rowCapacity),
      cappedScores: needsScores ? arrays.take(keyCapacity * rowCapacity) : nil, rowStride: rowCapacity,
      querySums: arrays.take(rowCapacity * (shape.headDimension + gradients.rowSums.count)),
      keyGradient: arrays.take(keyCapacity * keyStride), valueGradient: arrays.take(keyCapacity * valueStride),
      keyStride: keyStride, valueStride: valueStride,
      ones: arrays.take(call.kernels.productVectorCount * laneCount), panels: arrays.take(rowCapacity / laneCount),
      region: 0..<0,
      keys: 0..<0)
    if !isCounting {
      own.initialize(to: memory)
      memory.ones.update(repeating: 1, count: call.kernels.productVectorCount * laneCount)
    }
    ownMemory = own
  }

  private var own: Memory { _read { yield ownMemory.pointee } }
  private var call: AttentionCall<Element> { gradients.call }
  private var lanes: LaneTiles<Element> { forward.lanes }
  var gradientMemory: GradientMemory<Element> { own.common }
  var rows: GradientRows<Element> { own.rows }

  // MARK: Rows

  func begin(_ tile: QueryTile) {
    ownMemory.pointee.rows.read(tile, gradients)
    // The queries are packed from the rows that were just read, so that elements of two bytes are converted only once.
    for row in 0..<tile.rowCount { memory.modifiers.rows[row] = UnsafeRawPointer(query(ofRow: row)) }
    forward.packQueries(tile, columnStride: 1)
    let columnCount = call.shape.valueDimension
    for row in 0..<tile.rowCount { memory.modifiers.rows[row] = UnsafeRawPointer(outputGradient(ofRow: row)) }
    lanes.forEachGroup(tile) { panel in
      call.kernels.pack(
        .scaled(by: 1), rowCount: panel.count, columnCount: columnCount,
        rows: memory.modifiers.rows + panel.lowerBound, columnStride: 1,
        into: own.outputGradient + panel.lowerBound * columnCount, stride: paddedCount(panel))
    }
    // Lanes after the last row get weights of 0.
    for row in tile.rowCount..<paddedCount(0..<tile.rowCount) {
      logSumExp[row] = .infinity
      delta[row] = 0
    }
    own.querySums.update(repeating: 0, count: querySumCount)
  }

  // MARK: Keys and values

  func beginRegion(_ keys: Range<Int>) {
    ownMemory.pointee.region = keys
    ownMemory.pointee.scoreKey = nil
    ownMemory.pointee.key = nil
    ownMemory.pointee.value = nil
    own.keyGradient.update(repeating: 0, count: keys.count * own.keyStride)
    own.valueGradient.update(repeating: 0, count: keys.count * own.valueStride)
  }

  func beginKeys(_ keys: Range<Int>) {
    ownMemory.pointee.keys = keys
    own.panels.update(
      repeating: Panel(keys: keys.lowerBound..<keys.lowerBound, isCleared: false),
      count: own.rowStride / call.kernels.laneCount)
  }

  func keys(_ tile: QueryTile, _ keys: Range<Int>, _ set: IntervalSet) -> StoredMatrix<Element> {
    stored(\.scoreKey, keys, set) { forward.keys(tile, keys, set) }
  }

  func nativeKeys(
    _ key: StoredMatrix<Element>, _ tile: QueryTile, _ keys: Range<Int>, _ set: IntervalSet
  ) -> StridedMatrix<Element> {
    key.half == nil ? key.native : stored(\.key, keys, set) { lanes.keys(tile, keys, set) }.native
  }

  func values(_ tile: QueryTile, _ keys: Range<Int>, _ set: IntervalSet, isNative: Bool) -> StoredMatrix<Element> {
    stored(\.value, keys, set) { forward.values(tile, keys, set, isNative: isNative) }
  }

  /// The matrix of some keys of the region. `make` is called only if the matrix that was read last does not hold these
  /// keys. With block masks `make` is called for every tile of queries, because it does not pack the keys of blocks to
  /// which no row of the tile attends.
  private func stored(
    _ last: WritableKeyPath<Memory, Stored?>, _ keys: Range<Int>, _ set: IntervalSet,
    _ make: () -> StoredMatrix<Element>
  ) -> StoredMatrix<Element> {
    if !call.schedule.blocks(in: set).isEmpty {
      // `make` overwrites the memory of the last matrix.
      ownMemory.pointee[keyPath: last] = nil
      return make()
    }
    if let known = ownMemory.pointee[keyPath: last], known.keys.contains(keys) {
      return known.matrix.rows(keys.counted(from: known.keys))
    }
    let matrix = make()
    ownMemory.pointee[keyPath: last] = Stored(keys: keys, matrix: matrix)
    return matrix
  }

  // MARK: Scores

  func block(group: Range<Int>, _ keyTile: KeyTile, isRagged: Bool, hasBlocks: Bool) -> Block<Element> {
    let place = (keyTile.keys.lowerBound - own.keys.lowerBound) * own.rowStride + group.lowerBound
    return Block(
      rows: group, keys: keyTile.keys, set: keyTile.set, isRagged: isRagged, hasBlocks: hasBlocks,
      firstIndex: keyTile.firstIndex, group: group, scores: own.weights + place, rowStride: 1,
      keyStride: own.rowStride, cappedScores: own.cappedScores.map { $0 + place })
  }

  func prepare(_ block: Block<Element>, _ cut: BlockCut?) {
    let panel = own.panels + block.group.lowerBound / call.kernels.laneCount
    let isWhole = cut == nil && block.keys == own.keys
    if !isWhole && !panel.pointee.isCleared { clear(block.group) }
    panel.pointee.keys =
      panel.pointee.keys.isEmpty
      ? block.keys
      : min(
        panel.pointee.keys.lowerBound, block.keys.lowerBound)..<max(
          panel.pointee.keys.upperBound, block.keys.upperBound)
  }

  /// Sets P and dS of a panel to 0.
  private func clear(_ panel: Range<Int>) {
    let count = paddedCount(panel)
    for key in 0..<own.keys.count {
      (own.weights + key * own.rowStride + panel.lowerBound).update(repeating: 0, count: count)
      (own.scoreGradients + key * own.rowStride + panel.lowerBound).update(repeating: 0, count: count)
    }
    own.panels[panel.lowerBound / call.kernels.laneCount].isCleared = true
  }

  func scoreGradients(_ block: Block<Element>) -> UnsafeMutablePointer<Element> {
    own.scoreGradients + (block.scores - own.weights)
  }

  /// Runs the softmax kernel with the log-sum-exp as every row's maximum, which gives exp(score − log-sum-exp).
  func computeWeights(_ block: Block<Element>, _ tile: QueryTile, _ cut: BlockCut?) {
    forEachSlice(of: block, cut) { slice in
      let (rows, count) = (slice.rows, paddedCount(slice.rows))
      if slice.isRagged {
        tile.forEachRow(rows) { row, _, query in
          let attended = slice.keys(ofQuery: query, batch: tile.batch)
          memory.begin[row - rows.lowerBound] = Element(attended.lowerBound - slice.keys.lowerBound)
          memory.end[row - rows.lowerBound] = Element(attended.upperBound - slice.keys.lowerBound)
        }
        for lane in rows.count..<count {
          memory.begin[lane] = 0
          memory.end[lane] = 0
        }
      }
      let logSumExp = logSumExp + rows.lowerBound
      memory.maximum.update(from: logSumExp, count: count)
      memory.sum.update(repeating: 0, count: count)
      call.kernels.softmaxLanes(
        vectorCount: lanes.vectorCount(rows.count), keyCount: slice.keys.count, stride: slice.keyStride,
        scores: slice.scores, begin: slice.isRagged ? UnsafePointer(memory.begin) : nil,
        end: slice.isRagged ? UnsafePointer(memory.end) : nil, maximum: memory.maximum, newMaximum: logSumExp,
        sum: memory.sum, rescale: memory.rescale)
    }
  }

  func computeWeightGradients(_ block: Block<Element>, _ cut: BlockCut?, _ value: StridedMatrix<Element>) {
    let panel = own.outputGradient + block.group.lowerBound * call.shape.valueDimension
    forEachSlice(of: block, cut) { slice in
      call.kernels.multiply(
        vectorCount: lanes.vectorCount(slice.rows.count), value.rows(slice.keys.counted(from: block.keys)),
        panel + lanes.lane(slice), bStride: paddedCount(block.group), into: scoreGradients(slice),
        stride: slice.keyStride, rescale: nil)
    }
  }

  func computeScoreGradients(_ block: Block<Element>, _ cut: BlockCut?) {
    forEachSlice(of: block, cut) { slice in
      call.kernels.scoreGradient(
        vectorCount: lanes.vectorCount(slice.rows.count), keyCount: slice.keys.count, stride: slice.keyStride,
        weights: slice.scores, delta: delta + slice.rows.lowerBound, lanes: scoreGradients(slice))
    }
  }

  func accumulateValue(_: Block<Element>) {}

  private func forEachSlice(of block: Block<Element>, _ cut: BlockCut?, _ body: (Block<Element>) -> Void) {
    if let cut { cut.forEachSlice(of: block, body) } else { body(block) }
  }

  // MARK: Gradients

  func accumulateQuery(_ block: Block<Element>, _ cut: BlockCut?, _ key: StridedMatrix<Element>) {
    let panel = own.querySums + block.group.lowerBound * call.shape.headDimension
    forEachSlice(of: block, cut) { slice in
      call.kernels.multiply(
        vectorCount: lanes.vectorCount(slice.rows.count),
        key.rows(slice.keys.counted(from: block.keys)).transposed, scoreGradients(slice), bStride: slice.keyStride,
        into: panel + lanes.lane(slice), stride: paddedCount(block.group), rescale: nil, continues: true)
    }
  }

  /// The number of keys for which the rows to sum over are determined together.
  private static var keyStep: Int { 32 }

  func endKeys(_ tile: QueryTile) {
    var rows = 0..<0
    var first = own.keys.lowerBound
    func add(_ keys: Range<Int>) {
      if keys.isEmpty || rows.isEmpty { return }
      accumulate(
        own.weights, keys, rows, own.rows.outputGradient, into: own.valueGradient, stride: own.valueStride)
      if call.scale == 0 { return }
      accumulate(own.scoreGradients, keys, rows, own.rows.query, into: own.keyGradient, stride: own.keyStride)
    }
    for key in stride(from: own.keys.lowerBound, to: own.keys.upperBound, by: Self.keyStep) {
      let keys = key..<min(key + Self.keyStep, own.keys.upperBound)
      let needed = rowsOfBlocks(with: keys, tile)
      if needed == rows { continue }
      add(first..<key)
      (first, rows) = (key, needed)
    }
    add(first..<own.keys.upperBound)
  }

  /// The rows of a tile from the first to the last panel that has a block with some of these keys. A panel between
  /// these two may have no blocks. Its P and dS are then set to 0, so that it adds nothing.
  private func rowsOfBlocks(with keys: Range<Int>, _ tile: QueryTile) -> Range<Int> {
    var rows = 0..<0
    lanes.forEachGroup(tile) { group in
      if !own.panels[group.lowerBound / call.kernels.laneCount].keys.overlaps(keys) { return }
      rows = (rows.isEmpty ? group.lowerBound : rows.lowerBound)..<group.upperBound
    }
    if rows.isEmpty { return rows }
    lanes.forEachGroup(tile) { group in
      let panel = own.panels[group.lowerBound / call.kernels.laneCount]
      if rows.contains(group.lowerBound) && panel.keys.isEmpty && !panel.isCleared { clear(group) }
    }
    return rows
  }

  /// result[keys] += numbers[keys, rows] · factors[rows].
  private func accumulate(
    _ numbers: UnsafePointer<Element>, _ keys: Range<Int>, _ rows: Range<Int>, _ factors: StridedMatrix<Element>,
    into result: UnsafeMutablePointer<Element>, stride: Int
  ) {
    let laneCount = call.kernels.laneCount
    let matrix = StridedMatrix(
      base: numbers + (keys.lowerBound - own.keys.lowerBound) * own.rowStride + rows.lowerBound, rowCount: keys.count,
      columnCount: rows.count, rowStride: own.rowStride, columnStride: 1)
    let target = result + (keys.lowerBound - own.region.lowerBound) * stride
    let factor = factors.rows(rows)
    forEachPanel(vectorCount: stride / laneCount, limit: call.kernels.productVectorCount) { vectors in
      call.kernels.multiply(
        vectorCount: vectors.count, matrix, factor.base + vectors.lowerBound * laneCount, bStride: factor.rowStride,
        into: target + vectors.lowerBound * laneCount, stride: stride, rescale: own.ones)
    }
  }

  // MARK: Results

  var querySums: UnsafeMutablePointer<Element> { own.querySums }

  var querySumCount: Int {
    call.plan.rowsPerTile.roundedUp(toMultipleOf: call.kernels.laneCount)
      * (call.shape.headDimension + gradients.rowSums.count)
  }

  func rowSum(_ index: Int, in sums: UnsafeMutablePointer<Element>) -> UnsafeMutablePointer<Element> {
    sums + own.rowStride * (call.shape.headDimension + index)
  }

  func writeQuery(_ tile: QueryTile, _ sums: UnsafeMutablePointer<Element>) {
    let (shape, target) = (call.shape, gradients.query)
    let columnCount = shape.headDimension
    let isConverted = target.half != nil
    memory.factor.update(repeating: call.scale, count: paddedCount(0..<tile.rowCount))
    tile.forEachRow(0..<tile.rowCount) { row, head, query in
      memory.targets[row] =
        isConverted
        ? UnsafeMutableRawPointer(memory.modifiers.converted + row * columnCount)
        : target.row(batch: tile.batch, head: head, index: query)
    }
    lanes.forEachGroup(tile) { panel in
      call.kernels.unpack(
        rowCount: panel.count, columnCount: columnCount, sums + panel.lowerBound * columnCount,
        stride: paddedCount(panel), factor: memory.factor + panel.lowerBound,
        rows: memory.targets + panel.lowerBound, columnStride: isConverted ? 1 : target.columnStride)
    }
    if !isConverted { return }
    tile.forEachRow(0..<tile.rowCount) { row, head, query in
      target.write(
        call.kernels, count: columnCount, from: memory.modifiers.converted + row * columnCount,
        to: target.row(batch: tile.batch, head: head, index: query))
    }
  }

  // MARK: Row by row

  func isSafe(_ tile: QueryTile) -> Bool {
    let count = paddedCount(0..<tile.rowCount)
    return call.kernels.isFinite(count * call.shape.headDimension, lanes.own.query)
      && call.kernels.isFinite(count * call.shape.valueDimension, own.outputGradient)
      && !(0..<tile.rowCount).contains { logSumExp[$0].isNaN || delta[$0].isNaN }
  }

  func queryGradient(ofRow row: Int, group: Range<Int>) -> (base: UnsafeMutablePointer<Element>, columnStride: Int) {
    (own.querySums + group.lowerBound * call.shape.headDimension + row - group.lowerBound, paddedCount(group))
  }

  func keyGradient(_ key: Int) -> UnsafeMutablePointer<Element> {
    own.keyGradient + (key - own.region.lowerBound) * own.keyStride
  }

  func valueGradient(_ key: Int) -> UnsafeMutablePointer<Element> {
    own.valueGradient + (key - own.region.lowerBound) * own.valueStride
  }
}
