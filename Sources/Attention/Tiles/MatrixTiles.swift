internal import AttentionTensors

/// Tiles whose queries run along the lanes of vectors, and whose products are of BFloat16 parts, for matrix units.
///
/// Everything but the two products is as in ``LaneTiles``. Scores Sᵀ = K·Qᵀ: keys are split into parts row by row, or read
/// where they lie if one part is enough and they are stored as such; queries are split in pairs of columns. Results
/// Oᵀ = Vᵀ·Sᵀ: the values of a tile of keys are transposed and split, once for all panels and heads; weights are split in
/// pairs of keys.
///
/// The depth of a product is a multiple of 32, counted from the first key of the sequence, with zeros for keys that do not
/// belong to the block. So the bits of a row do not depend on how its keys are cut into blocks.
///
/// Products of parts may be wrong for numbers that are infinite, NaN or very large. A query or a key with such a number is
/// *outside the range* of the products: its scores are computed again, one by one. Values outside the range are left out
/// of the product and then added, key by key. So the bits of a row depend only on its query, its keys and its values.
struct MatrixTiles<Element: AttentionElement>: TilePrimitives, LaneScoreTiles {
  let lanes: LaneTiles<Element>
  let ownMemory: UnsafeMutablePointer<Memory>

  struct Memory {
    let limits: PartLimits
    /// The scale is power · factor: queries are multiplied by the power of two, and their products with keys by the factor,
    /// which lies between 1 and 2, or −2 and −1. So no product overflows unless its score does.
    let scale: (power: Element, factor: Element)
    /// The width of queries and keys, filled up to a depth of products.
    let depth: Int
    /// Panels of queries, each `[parts, depth / 2, lanes]`.
    let query: UnsafeMutablePointer<UInt32>
    /// One tile of keys, `[parts, keys, depth]`, unless keys are read where they lie; and its rows, `[keys, E]`, if they
    /// cannot be split where they lie.
    let key: UnsafeMutablePointer<UInt16>
    let keyRows: UnsafeMutablePointer<Element>
    let keyCapacity: Int
    /// One tile of values: its rows, `[keys, Ev]`, if they cannot be split where they lie; the addresses of its rows;
    /// transposed, `[Ev, keyCapacity]`; and split, `[parts, Ev, valueStride]`.
    let valueRows: UnsafeMutablePointer<Element>
    let valueAddresses: UnsafeMutablePointer<UnsafeRawPointer>
    let transposedValue: UnsafeMutablePointer<Element>
    let value: UnsafeMutablePointer<UInt16>
    let valueStride: Int
    /// A block of weights: `[parts, keys / 2, lanes]`.
    let weights: UnsafeMutablePointer<UInt32>
    /// What lies outside the range of the products.
    var queriesOutside: OutsideRange
    var keysOutside: OutsideRange
    var valuesOutside: OutsideRange
    /// The values of ``valuesOutside``.
    var unsplitValue: StridedMatrix<Element>?
  }

  init(_ call: AttentionCall<Element>, _ arrays: inout ScratchArrays) {
    let isCounting = arrays.isCounting
    let own: UnsafeMutablePointer<Memory> = arrays.take(1)
    let vectorCount = min(call.kernels.matrixPanelVectorCount, call.kernels.panelVectorCount)
    lanes = LaneTiles(call, panelVectorCount: vectorCount, &arrays)
    let (shape, plan, unit) = (call.shape, call.plan, Kernels<Element>.matrixDepth)
    let laneCount = call.kernels.laneCount
    let limits = PartLimits(call)
    let depth = shape.headDimension.roundedUp(toMultipleOf: unit)
    let rowCapacity = plan.rowsPerTile.roundedUp(toMultipleOf: laneCount)
    let panelCapacity = min(rowCapacity, laneCount * vectorCount)
    let keyCapacity = min(plan.keyTileLength, max(shape.keyCount, 1)).roundedUp(toMultipleOf: laneCount)
    // Zeros may come before and after the keys. The last summand spreads the rows over the sets of a cache.
    let valueStride = keyCapacity.roundedUp(toMultipleOf: unit) + unit + unit
    let scale = call.scale._double
    let power = scale == 0 ? 1 : Double(sign: .plus, exponent: scale.exponent, significand: 1)
    let memory = Memory(
      limits: limits, scale: (Element(_nearest: power), Element(_nearest: scale / power)), depth: depth,
      query: arrays.take(limits.query * rowCapacity * depth / 2),
      key: arrays.take(Self.readsKeys(call) ? 0 : limits.key * keyCapacity * depth),
      keyRows: arrays.take(Self.splitsKeys(call) ? 0 : keyCapacity * shape.headDimension),
      keyCapacity: keyCapacity,
      valueRows: arrays.take(Self.splitsValues(call) ? 0 : keyCapacity * shape.valueDimension),
      valueAddresses: arrays.take(keyCapacity), transposedValue: arrays.take(shape.valueDimension * keyCapacity),
      value: arrays.take(limits.value * shape.valueDimension * valueStride), valueStride: valueStride,
      weights: arrays.take(limits.weight * panelCapacity * valueStride / 2),
      queriesOutside: OutsideRange(capacity: rowCapacity, &arrays),
      keysOutside: OutsideRange(capacity: keyCapacity, &arrays),
      valuesOutside: OutsideRange(capacity: keyCapacity, &arrays), unsplitValue: nil)
    if !isCounting { own.initialize(to: memory) }
    ownMemory = own
  }

  var own: Memory { _read { yield ownMemory.pointee } }
  var call: AttentionCall<Element> { lanes.call }
  var memory: TileMemory<Element> { lanes.memory }
  var scores: LaneScores<Element> { lanes.scores }

  static func onWorker(_ kernels: Kernels<Element>, _ body: () -> Void) { kernels.withMatrixUnit(body) }

  // MARK: Rows

  /// A panel is one strip: its scores are computed at once, also where an edge of the mask crosses it.
  var stripLength: Int { lanes.own.laneCount * lanes.own.panelVectorCount }

  static var cutsRows: Bool { false }

  func paddedCount(_ rows: Range<Int>) -> Int { lanes.paddedCount(rows) }

  func forEachGroup(_ tile: QueryTile, isRagged: Bool, _ body: (Range<Int>) -> Void) {
    lanes.forEachGroup(tile, isRagged: isRagged, body)
  }

  func begin(_ tile: QueryTile) {
    lanes.clear(tile)
    packQueries(tile, columnStride: lanes.gatherQueries(tile))
  }

  func packQueries(_ tile: QueryTile, columnStride: Int) {
    // A power of two adds no bits to the queries, so their parts stay exact.
    lanes.packQueries(tile, columnStride: columnStride, scale: own.scale.power)
    ownMemory.pointee.queriesOutside.begin(0)
    lanes.forEachGroup(tile) { panel in
      let (queries, stride) = (lanes.own.query + panel.lowerBound * call.shape.headDimension, paddedCount(panel))
      let isWithin = call.kernels.splitLanes(
        vectorCount: lanes.vectorCount(panel.count), rowCount: call.shape.headDimension, queries, stride: stride,
        paddedCount: own.depth, greatest: PartLimits.greatestFactor, into: query(panel))
      if isWithin { return }
      for row in panel {
        let elements = stridedSequence(queries + row - panel.lowerBound, stride, count: call.shape.headDimension)
        if !elements.allSatisfy(PartLimits.isFactor) { ownMemory.pointee.queriesOutside.mark(row) }
      }
    }
  }

  func query(_ panel: Range<Int>) -> LaneParts {
    LaneParts(
      base: own.query + panel.lowerBound * own.limits.query * own.depth / 2, partCount: own.limits.query,
      partStride: paddedCount(panel) * own.depth / 2)
  }

  // MARK: Scores

  func block(group: Range<Int>, _ keyTile: KeyTile, isRagged: Bool, hasBlocks: Bool) -> Block<Element> {
    lanes.block(group: group, keyTile, isRagged: isRagged, hasBlocks: hasBlocks)
  }

  func computeScores(
    _ block: Block<Element>, _ tile: QueryTile, _ key: StoredMatrix<Element>, adding bias: Operand?,
    maximum: UnsafeMutablePointer<Element>?, next: StoredMatrix<Element>?
  ) -> ScoreMaximum {
    assert(bias == nil && block.rows == block.group)
    let isWithin = own.queriesOutside.isEmpty && own.keysOutside.isEmpty
    call.kernels.multiply(
      vectorCount: lanes.vectorCount(block.rows.count),
      RowParts(
        base: key.base.assumingMemoryBound(to: UInt16.self), partCount: own.limits.key, rowCount: key.rowCount,
        rowStride: key.rowStride, partStride: own.keyCapacity * own.depth), query(block.group), depth: own.depth,
      limit: PartLimits.scores, into: block.scores, stride: block.keyStride, factor: own.scale.factor._double,
      maximum: isWithin ? maximum : nil)
    if !isWithin { computeScoresOutside(block, tile) }
    return isWithin && maximum != nil ? .known : .unknown
  }

  func addsBias(_: Operand) -> Bool { false }

  func softmax(_ block: Block<Element>, _ tile: QueryTile, _ cut: BlockCut?, _ maximum: ScoreMaximum) {
    lanes.softmax(block, tile, cut, maximum)
  }

  // MARK: Results

  func accumulate(_ block: Block<Element>, _: BlockCut?, _ value: StoredMatrix<Element>) {
    let parts =
      value.half == nil ? split(value.native, block.keys, firstIndex: block.firstIndex) : value
    let unit = Kernels<Element>.matrixDepth
    let before = block.firstIndex % unit
    let depth = (before + block.keys.count).roundedUp(toMultipleOf: unit)
    let vectorCount = lanes.vectorCount(block.rows.count)
    let weights = LaneParts(
      base: own.weights, partCount: own.limits.weight, partStride: block.keyStride * own.valueStride / 2)
    call.kernels.splitLanes(
      vectorCount: vectorCount, rowCount: block.keys.count, block.scores, stride: block.keyStride, before: before,
      paddedCount: depth, into: weights)
    let columnCount = call.shape.valueDimension
    call.kernels.multiply(
      vectorCount: vectorCount,
      RowParts(
        base: parts.base.assumingMemoryBound(to: UInt16.self) - before, partCount: own.limits.value,
        rowCount: columnCount, rowStride: own.valueStride, partStride: columnCount * own.valueStride), weights,
      depth: depth, limit: own.limits.results, into: lanes.own.result + block.group.lowerBound * columnCount,
      stride: block.keyStride, rescale: lanes.start(block.group) ? nil : UnsafePointer(memory.rescale))
    if !own.valuesOutside.isEmpty { addValuesOutside(block) }
  }

  func end(_ tile: QueryTile) { lanes.end(tile) }

  func hasFiniteResult(_ tile: QueryTile) -> Bool { lanes.hasFiniteResult(tile) }

  func result(ofRow row: Int, group: Range<Int>) -> (base: UnsafeMutablePointer<Element>, columnStride: Int) {
    lanes.result(ofRow: row, group: group)
  }

  func writeResult(_ tile: QueryTile, columnStride: Int) -> Bool { lanes.writeResult(tile, columnStride: columnStride) }

  func expect(_ next: QueryTile) { lanes.expect(next) }

  func writeScores(_ block: Block<Element>, _ tile: QueryTile) { lanes.writeScores(block, tile) }
}
