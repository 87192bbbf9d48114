internal import AttentionBLAS
internal import AttentionTensors

/// Tiles whose queries run along the lanes of vectors, computed by the kernels of this package.
///
/// The queries of a tile are packed once, in panels of a few vectors. Each panel then goes through three steps: the
/// scores Sᵀ = K·Qᵀ; the softmax down the lanes, which turns S into weights; and the result Oᵀ ← Oᵀ·rescale + Vᵀ·Sᵀ. E
/// is the width of queries and keys, Ev the width of values.
///
/// Keys and values are read in place, one element at a time. So every width is equally good, and so are both orders of
/// storage, row by row and column by column. A tile of keys or values is packed only if neither of its strides is 1, if
/// its rows lie at least ``AttentionPlan/farRowByteCount`` bytes apart, or if its elements have two bytes.
struct LaneTiles<Element: AttentionElement>: TilePrimitives, LaneScoreTiles {
  let call: AttentionCall<Element>
  let ownMemory: UnsafeMutablePointer<Memory>

  struct Memory {
    let common: TileMemory<Element>
    let laneCount: Int
    /// The most vectors in a panel.
    let panelVectorCount: Int
    /// Panels of queries, each `[E, lanes]`, scaled.
    let query: UnsafeMutablePointer<Element>
    /// Panels of results, each `[Ev, lanes]`.
    let result: UnsafeMutablePointer<Element>
    /// For each vector of rows: whether the panel that begins there has a result yet.
    let isStarted: UnsafeMutablePointer<Bool>
    /// What one block adds to a panel's result, if the block is cut.
    let blockResult: UnsafeMutablePointer<Element>
    /// One panel's scores: `[keys, lanes]`.
    let scores: UnsafeMutablePointer<Element>
    /// One tile of keys and of values, packed.
    let key: UnsafeMutablePointer<Element>
    let value: UnsafeMutablePointer<Element>
    /// An array of ones: the factors by which scores are multiplied when they are unpacked from lanes.
    let ones: UnsafeMutablePointer<Element>
    /// The keys of the next tile, if they are to be prefetched.
    var expectedKeys: RowsAhead?
  }

  init(_ call: AttentionCall<Element>, _ arrays: inout ScratchArrays) {
    self.init(call, panelVectorCount: call.kernels.panelVectorCount, &arrays)
  }

  /// Tiles whose panels have at most `panelVectorCount` vectors. This number must not exceed the `panelVectorCount` of
  /// the kernels.
  init(_ call: AttentionCall<Element>, panelVectorCount: Int, _ arrays: inout ScratchArrays) {
    self.call = call
    let isCounting = arrays.isCounting
    let own: UnsafeMutablePointer<Memory> = arrays.take(1)
    let (shape, plan) = (call.shape, call.plan)
    let laneCount = call.kernels.laneCount
    let rowCapacity = (plan.rowsPerTile + laneCount - 1) / laneCount * laneCount
    let panelCapacity = min(rowCapacity, laneCount * panelVectorCount)
    let keyCapacity = min(plan.keyTileLength, max(shape.keyCount, 1))
    let memory = Memory(
      common: TileMemory(call, rowCapacity: rowCapacity, keyCapacity: keyCapacity, &arrays), laneCount: laneCount,
      panelVectorCount: panelVectorCount, query: arrays.take(rowCapacity * shape.headDimension),
      result: arrays.take(rowCapacity * shape.valueDimension), isStarted: arrays.take(rowCapacity / laneCount),
      blockResult: arrays.take(call.schedule.isRagged ? panelCapacity * shape.valueDimension : 0),
      scores: arrays.take(panelCapacity * keyCapacity),
      key: arrays.take(Self.reads(call.key, call) ? 0 : keyCapacity * shape.headDimension),
      value: arrays.take(Self.reads(call.value, call) ? 0 : keyCapacity * shape.valueDimension),
      ones: arrays.take(rowCapacity))
    if !isCounting { own.initialize(to: memory) }
    ownMemory = own
  }

  var own: Memory { ownMemory.pointee }
  var lanes: LaneTiles { self }
  var memory: TileMemory<Element> { own.common }
  var scores: LaneScores<Element> { LaneScores(call: call, memory: memory.modifiers, laneCount: own.laneCount) }

  static func onWorker(_: Kernels<Element>, _ body: () -> Void) { body() }

  // MARK: Rows

  var stripLength: Int { own.laneCount }

  static var cutsRows: Bool { false }

  func paddedCount(_ rows: Range<Int>) -> Int { vectorCount(rows.count) * own.laneCount }

  func vectorCount(_ rowCount: Int) -> Int { (rowCount + own.laneCount - 1) / own.laneCount }

  /// Calls `body` with the rows of each panel. Panels have nearly equal widths.
  @inline(__always)
  func forEachGroup(_ tile: QueryTile, isRagged _: Bool, _ body: (Range<Int>) -> Void) {
    let laneCount = own.laneCount
    forEachPanel(vectorCount: vectorCount(tile.rowCount), limit: own.panelVectorCount) { vectors in
      body(vectors.lowerBound * laneCount..<min(vectors.upperBound * laneCount, tile.rowCount))
    }
  }

  func forEachGroup(_ tile: QueryTile, _ body: (Range<Int>) -> Void) {
    forEachGroup(tile, isRagged: false, body)
  }

  func begin(_ tile: QueryTile) {
    clear(tile)
    packQueries(tile, columnStride: gatherQueries(tile))
  }

  /// Sets ``ModifierMemory/rows`` to the queries of a tile. Returns the distance between their columns, in elements.
  func gatherQueries(_ tile: QueryTile) -> Int {
    scores.gatherRows(call.query, tile, 0..<tile.rowCount, from: 0, count: call.shape.headDimension)
  }

  /// Discards the result of the previous tile, and clears the state of the lanes after the last row: the maximum
  /// becomes −inf, and the sum and the factor become 0.
  func clear(_ tile: QueryTile) {
    own.isStarted.update(repeating: false, count: vectorCount(tile.rowCount))
    for lane in tile.rowCount..<paddedCount(0..<tile.rowCount) {
      memory.maximum[lane] = -.infinity
      memory.sum[lane] = 0
      memory.factor[lane] = 0
    }
  }

  func packQueries(_ tile: QueryTile, columnStride: Int) {
    packQueries(tile, columnStride: columnStride, scale: call.scale)
  }

  /// Packs the queries to which ``ModifierMemory/rows`` points, multiplied by `scale`.
  func packQueries(_ tile: QueryTile, columnStride stride: Int, scale: Element) {
    let columnCount = call.shape.headDimension
    forEachGroup(tile) { panel in
      call.kernels.pack(
        .scaled(by: scale._double), rowCount: panel.count, columnCount: columnCount,
        rows: memory.modifiers.rows + panel.lowerBound, columnStride: stride,
        into: own.query + panel.lowerBound * columnCount,
        stride: paddedCount(panel))
    }
  }

  // MARK: Keys and values

  private static func reads(_ operand: Operand, _ call: AttentionCall<Element>) -> Bool {
    if operand.half != nil { return false }
    if operand.lengthStride == 1 { return true }
    return operand.columnStride == 1
      && operand.lengthStride < call.plan.farRowByteCount / MemoryLayout<Element>.stride
  }

  func keys(_ tile: QueryTile, _ keys: Range<Int>, _ set: IntervalSet) -> StoredMatrix<Element> {
    StoredMatrix(
      call.matrix(call.key, tile, keys, set, columnCount: call.shape.headDimension, packedAt: own.key) { _ in
        Self.reads(call.key, call)
      })
  }

  func values(_ tile: QueryTile, _ keys: Range<Int>, _ set: IntervalSet, isNative _: Bool) -> StoredMatrix<Element> {
    StoredMatrix(
      call.matrix(call.value, tile, keys, set, columnCount: call.shape.valueDimension, packedAt: own.value) { _ in
        Self.reads(call.value, call)
      })
  }

  // MARK: Scores

  func block(group: Range<Int>, _ keyTile: KeyTile, isRagged: Bool, hasBlocks: Bool) -> Block<Element> {
    Block(
      rows: group, keys: keyTile.keys, set: keyTile.set, isRagged: isRagged, hasBlocks: hasBlocks,
      firstIndex: keyTile.firstIndex, group: group, scores: own.scores, rowStride: 1, keyStride: paddedCount(group))
  }

  /// The lane of a block's first row among the lanes of its group.
  func lane(_ block: Block<Element>) -> Int { block.rows.lowerBound - block.group.lowerBound }

  /// Computes the scores. The product adds the bias and takes the maximum while the scores are in registers.
  ///
  /// Memory that will be read soon is prefetched. The first panel of a tile prefetches the values, and each panel
  /// prefetches the rows of a bias or a boolean mask that the next panel needs. The CPU does not do this by itself: it
  /// does not recognise a stream if only a few columns are read from each row.
  func computeScores(
    _ block: Block<Element>, _ tile: QueryTile, _ key: StoredMatrix<Element>, adding bias: Operand?,
    maximum: UnsafeMutablePointer<Element>?, next: StoredMatrix<Element>?
  ) -> ScoreMaximum {
    call.kernels.multiply(
      vectorCount: vectorCount(block.rows.count), key.native,
      own.query + block.group.lowerBound * call.shape.headDimension + lane(block), bStride: paddedCount(block.group),
      into: block.scores, stride: block.keyStride, rescale: nil,
      addend: bias.map { scores.gatherLanes($0, block, tile) }, maximum: maximum,
      next: block.group.lowerBound == 0 ? next.flatMap(ahead) : nil, after: maskAhead(block, tile))
    return maximum == nil ? .unknown : .known
  }

  func addsBias(_ bias: Operand) -> Bool { bias.columnStride == 1 || bias.half != nil }

  /// The values to prefetch. Nil if their rows are not contiguous.
  private func ahead(_ value: StoredMatrix<Element>) -> RowsAhead? {
    if value.columnStride != 1 { return nil }
    let size = MemoryLayout<Element>.stride
    return RowsAhead(
      base: value.base, rowCount: value.rowCount, stride: value.rowStride * size, byteCount: value.columnCount * size)
  }

  /// The rows of the first bias or boolean mask that the next panel needs. They are prefetched while this panel uses
  /// its own rows.
  private func maskAhead(_ block: Block<Element>, _ tile: QueryTile) -> RowsAhead? {
    guard block.set.isMasked, !block.isRagged, call.plan.headsPerTile == 1,
      let operand = call.schedule.terms?.firstMatrix, operand.columnStride == 1
    else { return nil }
    var keys = block.keys
    let panelCount = paddedCount(block.group)
    var rows = block.rows.upperBound..<min(block.rows.upperBound + panelCount, tile.rowCount)
    if rows.isEmpty {
      rows = 0..<min(panelCount, tile.rowCount)
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

  func softmax(_ block: Block<Element>, _ tile: QueryTile, _ cut: BlockCut?, _ maximum: ScoreMaximum) {
    guard let cut else {
      return softmax(
        block, begin: nil, end: nil, common: 0..<0, newMaximum: maximum == .known ? memory.newMaximum : nil)
    }
    if cut.common.isEmpty {
      // The factor 1 keeps the result of a strip that has no keys.
      for lane in 0..<paddedCount(block.rows) { memory.rescale[lane] = 1 }
      return cut.forEachStrip(of: block) { rows, keys in
        softmax(block.slice(rows: rows, keys: keys, isRagged: true), tile, common: 0..<0, newMaximum: nil)
      }
    }
    // All strips are computed side by side. If they were computed one by one, each exponential would wait for the one
    // before it.
    let isKnown = maximum == .known
    softmax(
      block, tile, common: isKnown ? cut.common.counted(from: block.keys) : 0..<0,
      newMaximum: isKnown ? memory.newMaximum : nil)
  }

  /// The softmax of some rows that attend to different keys. All rows attend to the keys of `common`, which are counted
  /// from the first key of the block.
  private func softmax(
    _ block: Block<Element>, _ tile: QueryTile, common: Range<Int>, newMaximum: UnsafeMutablePointer<Element>?
  ) {
    tile.forEachRow(block.rows) { row, _, query in
      let attended = block.keys(ofQuery: query, batch: tile.batch)
      memory.begin[row - block.rows.lowerBound] = Element(attended.lowerBound - block.keys.lowerBound)
      memory.end[row - block.rows.lowerBound] = Element(attended.upperBound - block.keys.lowerBound)
    }
    for lane in block.rows.count..<paddedCount(block.rows) {
      memory.begin[lane] = 0
      memory.end[lane] = 0
    }
    softmax(
      block, begin: UnsafePointer(memory.begin), end: UnsafePointer(memory.end), common: common, newMaximum: newMaximum)
  }

  private func softmax(
    _ block: Block<Element>, begin: UnsafePointer<Element>?, end: UnsafePointer<Element>?, common: Range<Int>,
    newMaximum: UnsafeMutablePointer<Element>?
  ) {
    call.kernels.softmaxLanes(
      vectorCount: vectorCount(block.rows.count), keyCount: block.keys.count, stride: block.keyStride,
      scores: block.scores, begin: begin, end: end, common: common,
      maximum: memory.maximum + block.rows.lowerBound, newMaximum: newMaximum.map { UnsafePointer($0) },
      sum: memory.sum + block.rows.lowerBound, rescale: memory.rescale + lane(block))
  }
}

/// Tiles whose queries run along the lanes of vectors, and that can compute scores for the backward pass too.
protocol LaneScoreTiles: ScoreTiles where Scores == LaneScores<Element> {
  /// The tiles that do everything but the products.
  var lanes: LaneTiles<Element> { get }

  /// `arrays` cuts the working memory out of one allocation; without an allocation, `arrays` only counts the bytes.
  init(_ call: AttentionCall<Element>, _ arrays: inout ScratchArrays)

  /// Packs the queries to which ``ModifierMemory/rows`` points, for ``ScoreTiles/computeScores``.
  func packQueries(_ tile: QueryTile, columnStride: Int)
}
