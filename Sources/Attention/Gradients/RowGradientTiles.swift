internal import AttentionBLAS
internal import AttentionTensors

/// Tiles of the backward pass whose queries are rows, with products by OpenBLAS. E is the width of queries and keys.
struct RowGradientTiles<Element: AttentionElement>: GradientTiles {
  typealias Forward = RowTiles<OpenBLASProducts<Element>>

  let gradients: GradientCall<Element>
  let forward: Forward
  private let ownMemory: UnsafeMutablePointer<Memory>

  private struct Memory {
    var rows: GradientRows<Element>
    let common: GradientMemory<Element>
    /// P, dS, and scores after softcap if they are needed: `[rows, scoreStride]`.
    let weights: UnsafeMutablePointer<Element>
    let scoreGradients: UnsafeMutablePointer<Element>
    let cappedScores: UnsafeMutablePointer<Element>?
    let scoreStride: Int
    /// dQ, `[rows, E]`; then the tile's ``RowSums``, `[sums, rows]`.
    let querySums: UnsafeMutablePointer<Element>
    let rowCapacity: Int
    /// dK and dV of a region, `[keys, dimension]`.
    let keyGradient: UnsafeMutablePointer<Element>
    let valueGradient: UnsafeMutablePointer<Element>
    var region: Range<Int>
  }

  init(_ gradients: GradientCall<Element>, _ arrays: inout ScratchArrays) {
    self.gradients = gradients
    let isCounting = arrays.isCounting
    let own: UnsafeMutablePointer<Memory> = arrays.take(1)
    let call = gradients.call
    let (shape, rowCapacity) = (call.shape, call.plan.rowsPerTile)
    forward = Forward(call, &arrays)
    let keyCapacity = min(call.plan.keyTileLength, max(shape.keyCount, 1))
    // Rows are padded: if they were a power of two apart, they would compete for the same sets of the cache.
    let scoreStride = keyCapacity.roundedUp(toMultipleOf: 16) + 16
    let needsScores = call.softcap != nil || call.schedule.terms?.functions.isEmpty == false
    let memory = Memory(
      rows: GradientRows(call, rowCapacity: rowCapacity, laneCount: 1, &arrays),
      common: GradientMemory(rowCapacity: 0, keyCapacity: 0, isNeeded: false, &arrays),
      weights: arrays.take(rowCapacity * scoreStride), scoreGradients: arrays.take(rowCapacity * scoreStride),
      cappedScores: needsScores ? arrays.take(rowCapacity * scoreStride) : nil, scoreStride: scoreStride,
      querySums: arrays.take(rowCapacity * (shape.headDimension + gradients.rowSums.count)), rowCapacity: rowCapacity,
      keyGradient: arrays.take(keyCapacity * shape.headDimension),
      valueGradient: arrays.take(keyCapacity * shape.valueDimension), region: 0..<0)
    if !isCounting { own.initialize(to: memory) }
    ownMemory = own
  }

  private var own: Memory { _read { yield ownMemory.pointee } }
  private var call: AttentionCall<Element> { gradients.call }
  var gradientMemory: GradientMemory<Element> { own.common }
  var rows: GradientRows<Element> { own.rows }

  // MARK: Rows

  func begin(_ tile: QueryTile) {
    forward.begin(tile)
    ownMemory.pointee.rows.read(tile, gradients)
    own.querySums.update(repeating: 0, count: querySumCount)
  }

  // MARK: Keys and values

  func beginRegion(_ keys: Range<Int>) {
    ownMemory.pointee.region = keys
    own.keyGradient.update(repeating: 0, count: keys.count * call.shape.headDimension)
    own.valueGradient.update(repeating: 0, count: keys.count * call.shape.valueDimension)
  }

  func beginKeys(_: Range<Int>) {}

  func keys(_ tile: QueryTile, _ keys: Range<Int>, _ set: IntervalSet) -> StoredMatrix<Element> {
    forward.keys(tile, keys, set)
  }

  func values(_ tile: QueryTile, _ keys: Range<Int>, _ set: IntervalSet, isNative: Bool) -> StoredMatrix<Element> {
    forward.values(tile, keys, set, isNative: isNative)
  }

  // MARK: Scores

  func block(group: Range<Int>, _ keyTile: KeyTile, isRagged: Bool, hasBlocks: Bool) -> Block<Element> {
    Block(
      rows: group, keys: keyTile.keys, set: keyTile.set, isRagged: isRagged, hasBlocks: hasBlocks,
      firstIndex: keyTile.firstIndex, group: group, scores: own.weights, rowStride: own.scoreStride, keyStride: 1,
      cappedScores: own.cappedScores)
  }

  func prepare(_: Block<Element>, _: BlockCut?) {}

  func scoreGradients(_ block: Block<Element>) -> UnsafeMutablePointer<Element> {
    own.scoreGradients + (block.scores - own.weights)
  }

  /// Runs the softmax kernel with the log-sum-exp as every row's maximum, which gives exp(score − log-sum-exp).
  func computeWeights(_ block: Block<Element>, _ tile: QueryTile, _ cut: BlockCut?) {
    memory.maximum.update(from: logSumExp + block.rows.lowerBound, count: block.rows.count)
    memory.sum.update(repeating: 0, count: block.rows.count)
    forward.computeWeights(
      block, tile, cut, maximum: memory.maximum, sum: memory.sum)
  }

  func computeWeightGradients(_ block: Block<Element>, _: BlockCut?, _ value: StridedMatrix<Element>) {
    multiply(
      own.rows.outputGradient.rows(block.rows), value.transposed, .replacing, into: scoreGradients(block),
      stride: block.rowStride)
  }

  func computeScoreGradients(_ block: Block<Element>, _: BlockCut?) {
    let target = scoreGradients(block)
    for row in 0..<block.rows.count {
      call.kernels.scoreGradient(
        block.keys.count, weights: block.scores + row * block.rowStride, delta: delta[block.rows.lowerBound + row],
        row: target + row * block.rowStride)
    }
  }

  func accumulateValue(_ block: Block<Element>) {
    // forward: O = P V  ⇒  dV += Pᵀ dO
    multiply(
      matrix(block, block.scores).transposed, own.rows.outputGradient.rows(block.rows), .accumulating,
      into: valueGradient(block.keys.lowerBound), stride: call.shape.valueDimension)
  }

  private func matrix(_ block: Block<Element>, _ numbers: UnsafePointer<Element>) -> StridedMatrix<Element> {
    StridedMatrix(
      base: numbers, rowCount: block.rows.count, columnCount: block.keys.count, rowStride: block.rowStride,
      columnStride: 1)
  }

  // MARK: Gradients

  func accumulateQuery(_ block: Block<Element>, _: BlockCut?, _ key: StridedMatrix<Element>) {
    let columnCount = call.shape.headDimension
    let scoreGradients = matrix(block, scoreGradients(block))
    // forward: S = scale · Q Kᵀ  ⇒  dQ += scale · dS K, dK += scale · dSᵀ Q. The sums are multiplied by the scale only
    // when they are written.
    multiply(
      scoreGradients, key, .accumulating, into: own.querySums + block.rows.lowerBound * columnCount,
      stride: columnCount)
    multiply(
      scoreGradients.transposed, own.rows.query.rows(block.rows), .accumulating,
      into: keyGradient(block.keys.lowerBound), stride: columnCount)
  }

  func endKeys(_: QueryTile) {}

  // MARK: Results

  var querySums: UnsafeMutablePointer<Element> { own.querySums }

  var querySumCount: Int { call.plan.rowsPerTile * (call.shape.headDimension + gradients.rowSums.count) }

  func rowSum(_ index: Int, in sums: UnsafeMutablePointer<Element>) -> UnsafeMutablePointer<Element> {
    sums + own.rowCapacity * (call.shape.headDimension + index)
  }

  func writeQuery(_ tile: QueryTile, _ sums: UnsafeMutablePointer<Element>) {
    let columnCount = call.shape.headDimension
    tile.forEachRow(0..<tile.rowCount) { row, head, query in
      let source = sums + row * columnCount
      call.kernels.scale(columnCount, source, call.scale, source)
      gradients.query.write(
        call.kernels, count: columnCount, from: source,
        to: gradients.query.row(batch: tile.batch, head: head, index: query))
    }
  }

  // MARK: Row by row

  func isSafe(_ tile: QueryTile) -> Bool {
    (0..<tile.rowCount).allSatisfy { row in
      call.kernels.isFinite(call.shape.headDimension, query(ofRow: row))
        && call.kernels.isFinite(call.shape.valueDimension, outputGradient(ofRow: row)) && !logSumExp[row].isNaN
        && !delta[row].isNaN
    }
  }

  func queryGradient(ofRow row: Int, group _: Range<Int>) -> (base: UnsafeMutablePointer<Element>, columnStride: Int) {
    (own.querySums + row * call.shape.headDimension, 1)
  }

  func keyGradient(_ key: Int) -> UnsafeMutablePointer<Element> {
    own.keyGradient + (key - own.region.lowerBound) * call.shape.headDimension
  }

  func valueGradient(_ key: Int) -> UnsafeMutablePointer<Element> {
    own.valueGradient + (key - own.region.lowerBound) * call.shape.valueDimension
  }
}
