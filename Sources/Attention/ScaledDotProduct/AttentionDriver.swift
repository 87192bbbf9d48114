internal import AttentionBLAS
internal import AttentionTensors

// B batch, H query heads, Hk key/value heads, L queries, S keys, E width, Ev width of values.
// A tile: some rows (queries of one or several heads of a group) by some keys.

/// The one way through attention, whatever the tile kernels.
///
/// For every tile of queries: walk over the tiles of keys that the mask leaves; scores, bias and masks,
/// online softmax, accumulate the values; at the end divide by the sum. Memory stays O(L): a tile of
/// scores per worker. Source: Dao et al. 2022 (arXiv:2205.14135), Algorithm 1, with the loops exchanged
/// as in Dao 2023 (arXiv:2307.08691), §3.1, so that results are written once; and, where there are few
/// queries and many keys, the keys split among pieces and merged by their maxima and sums.
struct AttentionDriver<Tiles: TileKernels>: @unchecked Sendable {
  // Sendable: pieces read the inputs and write disjoint parts of the outputs, for the length of `run`.
  typealias Element = Tiles.Element

  let tiles: Tiles
  let kernels: _Kernels<Element>
  let shape: AttentionShape
  let plan: AttentionPlan
  let schedule: MaskSchedule<Element>
  let scale: Element
  let query: Operand<Element>
  let key: Operand<Element>
  let value: Operand<Element>
  let outputs: AttentionOutputs<Element>

  func run(context: AttentionContext) throws {
    let width = plan.width(threadCount: context.threadCount)
    let scratchByteCount = TileScratch<Element>.byteCount(plan: plan, shape: shape)
    let stateByteCount = RowState<Element>.byteCount(rowCount: plan.rowsPerTile, valueWidth: shape.valueWidth)
    let partialByteCount = plan.splitCount > 1 ? plan.pieceCount * stateByteCount : 0
    try ScratchPool.shared.withScratch(byteCount: width * scratchByteCount + partialByteCount) { memory in
      let scratches = UncheckedSendable(memory)
      let partials = UncheckedSendable(memory + width * scratchByteCount)
      func scratch(_ worker: Int) -> TileScratch<Element> {
        TileScratch(base: scratches.value + worker * scratchByteCount, plan: plan, shape: shape)
      }
      func partial(_ tile: Int, _ split: Int) -> RowState<Element> {
        RowState(
          base: partials.value, index: tile * plan.splitCount + split, rowCount: plan.rowsPerTile,
          valueWidth: shape.valueWidth)
      }
      if plan.splitCount == 1 {
        context.executor.execute(pieceCount: plan.pieceCount, width: width) { piece, worker in
          OpenBLAS.withOneThread {
            // Last tiles first: under a causal mask they are the longest.
            let tile = self.tile(plan.pieceCount - 1 - piece)
            let scratch = scratch(worker)
            attend(tile, to: keys(of: tile, split: 0), state: scratch.state, scratch)
            finish(tile, scratch.state, scratch)
          }
        }
        return
      }
      context.executor.execute(pieceCount: plan.pieceCount, width: width) { piece, worker in
        OpenBLAS.withOneThread {
          let (index, split) = piece.quotientAndRemainder(dividingBy: plan.splitCount)
          let tile = self.tile(index)
          attend(tile, to: keys(of: tile, split: split), state: partial(index, split), scratch(worker))
        }
      }
      context.executor.execute(pieceCount: plan.pieceCount / plan.splitCount, width: width) { index, worker in
        OpenBLAS.withOneThread {
          let tile = self.tile(index)
          for split in 1..<plan.splitCount { merge(partial(index, split), into: partial(index, 0), tile) }
          finish(tile, partial(index, 0), scratch(worker))
        }
      }
    }
  }

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
  }

  private func tile(_ index: Int) -> Tile {
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
    let length = (union.count + plan.splitCount - 1) / plan.splitCount
    let low = min(union.lowerBound + split * length, union.upperBound)
    let high = min(low + length, union.upperBound)
    // Keys behind the masked ones belong to the last part.
    return split == plan.splitCount - 1 && schedule.maskedKeyCount < shape.keyCount ? low..<shape.keyCount : low..<high
  }

  // MARK: Tiles of keys

  /// Some rows of a tile by some keys, all of one kind.
  struct Block {
    let rows: Range<Int>
    let keys: Range<Int>
    /// True if the rows attend to different intervals of these keys.
    let isRagged: Bool
    /// True if boolean masks and biases apply.
    let hasTensors: Bool
  }

  /// Calls `body` for every part of the score matrix that the mask does not leave empty.
  func forEachBlock(_ tile: Tile, _ keys: Range<Int>, _ body: (Block) -> Void) {
    let masked = schedule.union(batch: tile.batch, queries: tile.queries).clamped(to: keys)
    let common = schedule.common(batch: tile.batch, queries: tile.queries)
    for low in stride(from: masked.lowerBound, to: masked.upperBound, by: plan.keyTileLength) {
      let part = low..<min(low + plan.keyTileLength, masked.upperBound)
      if !schedule.isRagged || common.contains(part) {
        body(Block(rows: 0..<tile.rowCount, keys: part, isRagged: false, hasTensors: schedule.hasTensors))
        continue
      }
      // The diagonal crosses: smaller blocks leave more out.
      forEachRowBlock(tile) { rows, queries in
        let union = schedule.union(batch: tile.batch, queries: queries).clamped(to: part)
        if union.isEmpty { return }
        let isRagged = !schedule.common(batch: tile.batch, queries: queries).contains(union)
        body(Block(rows: rows, keys: union, isRagged: isRagged, hasTensors: schedule.hasTensors))
      }
    }
    let trailing = (schedule.maskedKeyCount..<shape.keyCount).clamped(to: keys)
    for low in stride(from: trailing.lowerBound, to: trailing.upperBound, by: plan.keyTileLength) {
      let part = low..<min(low + plan.keyTileLength, trailing.upperBound)
      body(Block(rows: 0..<tile.rowCount, keys: part, isRagged: false, hasTensors: false))
    }
  }

  private func forEachRowBlock(_ tile: Tile, _ body: (_ rows: Range<Int>, _ queries: Range<Int>) -> Void) {
    let count = tile.queries.count
    if count <= plan.blockLength { return body(0..<tile.rowCount, tile.queries) }
    for head in 0..<tile.heads.count {
      for low in stride(from: 0, to: count, by: plan.blockLength) {
        let high = min(low + plan.blockLength, count)
        body(
          head * count + low..<head * count + high, tile.queries.lowerBound + low..<tile.queries.lowerBound + high)
      }
    }
  }

  // MARK: One tile

  private func attend(_ tile: Tile, to keys: Range<Int>, state: RowState<Element>, _ scratch: TileScratch<Element>) {
    state.reset(rowCount: tile.rowCount, valueWidth: shape.valueWidth)
    let queries = queryMatrix(tile, scratch)
    forEachBlock(tile, keys) { block in
      computeScores(block, tile, queries, scratch)
      let first = block.rows.lowerBound
      kernels.softmaxTile(
        SoftmaxTile(
          rowCount: block.rows.count, columnCount: block.keys.count,
          scores: scratch.scores, stride: scratch.scoreStride,
          begin: block.isRagged ? scratch.begin : nil, end: block.isRagged ? scratch.end : nil,
          maximum: state.maximum + first, sum: state.sum + first, rescale: scratch.rescale))
      for row in 0..<block.rows.count where scratch.rescale[row] != 1 {
        let result = state.result + (first + row) * shape.valueWidth
        kernels.scale(shape.valueWidth, result, scratch.rescale[row], result)
      }
      accumulate(block, tile, state, scratch)
    }
  }

  /// The tile's queries as one matrix: in place if their strides are a matrix's, else packed.
  func queryMatrix(_ tile: Tile, _ scratch: TileScratch<Element>) -> StridedMatrix<Element> {
    if tile.heads.count == 1 {
      let matrix = StridedMatrix(
        base: query.row(batch: tile.batch, head: tile.heads.lowerBound, index: tile.queries.lowerBound),
        rowCount: tile.queries.count, columnCount: shape.width,
        rowStride: query.lengthStride, columnStride: query.widthStride)
      if let layout = matrix.blasLayout, !layout.isTransposed { return matrix }
    }
    for row in 0..<tile.rowCount {
      copyStridedRow(
        count: shape.width, elementByteCount: MemoryLayout<Element>.stride,
        from: query.row(batch: tile.batch, head: tile.head(ofRow: row), index: tile.query(ofRow: row)),
        stride: query.widthStride, to: scratch.query + row * shape.width, stride: 1)
    }
    return StridedMatrix(
      base: scratch.query, rowCount: tile.rowCount, columnCount: shape.width, rowStride: shape.width, columnStride: 1)
  }

  private func matrix(
    _ operand: Operand<Element>, _ tile: Tile, _ keys: Range<Int>, width: Int,
    packedAt pack: UnsafeMutablePointer<Element>
  ) -> StridedMatrix<Element> {
    let matrix = StridedMatrix(
      base: operand.row(batch: tile.batch, head: tile.keyValueHead, index: keys.lowerBound),
      rowCount: keys.count, columnCount: width, rowStride: operand.lengthStride, columnStride: operand.widthStride)
    return matrix.blasLayout == nil ? matrix.pack(into: pack) : matrix
  }

  /// scores ← scale·QKᵀ + biases, −inf where a boolean mask or a bias forbids; and each row's interval.
  func computeScores(
    _ block: Block, _ tile: Tile, _ queries: StridedMatrix<Element>, _ scratch: TileScratch<Element>
  ) {
    tiles.computeScores(
      query: queries.rows(block.rows),
      key: matrix(key, tile, block.keys, width: shape.width, packedAt: scratch.key), scale: scale,
      into: scratch.scores, stride: scratch.scoreStride)
    if !block.isRagged && !block.hasTensors { return }
    for row in 0..<block.rows.count {
      let index = tile.query(ofRow: block.rows.lowerBound + row)
      var keys = block.keys
      if block.isRagged {
        keys = schedule.interval(batch: tile.batch, query: index).clamped(to: block.keys)
        scratch.begin[row] = Int64(keys.lowerBound - block.keys.lowerBound)
        scratch.end[row] = Int64(keys.upperBound - block.keys.lowerBound)
      }
      if block.hasTensors && !keys.isEmpty {
        let head = tile.head(ofRow: block.rows.lowerBound + row)
        let scores = scratch.scores + row * scratch.scoreStride + (keys.lowerBound - block.keys.lowerBound)
        applyTensors(scores, batch: tile.batch, head: head, query: index, keys, scratch)
      }
    }
  }

  private func applyTensors(
    _ scores: UnsafeMutablePointer<Element>, batch: Int, head: Int, query: Int, _ keys: Range<Int>,
    _ scratch: TileScratch<Element>
  ) {
    func contiguous<Value>(_ operand: Operand<Value>, _ row: UnsafeMutablePointer<Value>) -> UnsafePointer<Value> {
      let source = operand.row(batch: batch, head: head, index: query) + keys.lowerBound * operand.widthStride
      if operand.widthStride == 1 { return source }
      for i in 0..<keys.count { row[i] = source[i * operand.widthStride] }
      return UnsafePointer(row)
    }
    for bias in schedule.biases { kernels.addBias(keys.count, scores, contiguous(bias, scratch.biasRow)) }
    for boolean in schedule.booleans { kernels.mask(keys.count, scores, contiguous(boolean, scratch.booleanRow)) }
  }

  /// result += weights · V.
  private func accumulate(_ block: Block, _ tile: Tile, _ state: RowState<Element>, _ scratch: TileScratch<Element>) {
    var values = matrix(value, tile, block.keys, width: shape.valueWidth, packedAt: scratch.value)
    var hiddenKeys: [Int] = []
    // Hazard: a masked key has weight 0, but 0·NaN is NaN. Where every row attends to every key there
    // is nothing to hide; elsewhere such values are left out of the product and added one by one.
    if (block.isRagged || block.hasTensors) && !isFinite(values) {
      // Packed in the layout that they have: OpenBLAS has other kernels, and so other bits, for the other.
      let isTransposed = values.blasLayout?.isTransposed ?? false
      values =
        isTransposed ? values.transposed.pack(into: scratch.value).transposed : values.pack(into: scratch.value)
      for key in 0..<values.rowCount where !isFinite(values.rows(key..<key + 1)) {
        for column in 0..<values.columnCount {
          scratch.value[key * values.rowStride + column * values.columnStride] = 0
        }
        hiddenKeys.append(key)
      }
    }
    let result = state.result + block.rows.lowerBound * shape.valueWidth
    tiles.accumulateValues(
      weights: StridedMatrix(
        base: scratch.scores, rowCount: block.rows.count, columnCount: block.keys.count,
        rowStride: scratch.scoreStride, columnStride: 1),
      value: values, into: result, stride: shape.valueWidth)
    for key in hiddenKeys {
      let index = block.keys.lowerBound + key
      let source = value.row(batch: tile.batch, head: tile.keyValueHead, index: index)
      for row in 0..<block.rows.count {
        let head = tile.head(ofRow: block.rows.lowerBound + row)
        let query = tile.query(ofRow: block.rows.lowerBound + row)
        guard schedule.attends(batch: tile.batch, head: head, query: query, key: index) else { continue }
        let weight = scratch.scores[row * scratch.scoreStride + key]
        for column in 0..<shape.valueWidth {
          result[row * shape.valueWidth + column] += weight * source[column * value.widthStride]
        }
      }
    }
  }

  private func isFinite(_ matrix: StridedMatrix<Element>) -> Bool {
    if matrix.rowCount == 0 || matrix.columnCount == 0 { return true }
    if matrix.columnStride == 1 && matrix.rowStride == matrix.columnCount {
      return kernels.isFinite(matrix.rowCount * matrix.columnCount, matrix.base)
    }
    // Whole rows are contiguous, also those of one element; else it is the columns, for BLAS reads them.
    if matrix.columnStride == 1 || matrix.columnCount == 1 {
      return (0..<matrix.rowCount).allSatisfy { kernels.isFinite(matrix.columnCount, matrix.rows($0..<$0 + 1).base) }
    }
    assert(matrix.rowStride == 1 || matrix.rowCount == 1)
    return (0..<matrix.columnCount).allSatisfy { kernels.isFinite(matrix.rowCount, matrix.columns($0..<$0 + 1).base) }
  }
}

extension Range<Int> {
  /// True if every element of `other` is one of this range's; an empty range has none that is not.
  fileprivate func contains(_ other: Range<Int>) -> Bool {
    other.isEmpty || (lowerBound <= other.lowerBound && other.upperBound <= upperBound)
  }
}
