internal import AttentionBLAS
internal import AttentionTensors

// B batch, H query heads, Hk key/value heads, L queries, S keys, E width, Ev width of values.
// A tile: some rows (queries of one or several heads of a group) by some keys.

/// Everything that one call is about, whatever carries it out: operands, mask, plan, where results go.
///
/// A class, because every tile's closures hold it: copies of so many numbers cost heads of 16 queries a tenth.
final class AttentionCall<Element: AttentionElement>: @unchecked Sendable {
  // Sendable: pieces read the inputs and write disjoint parts of the outputs, for the length of the call.
  let kernels: Kernels<Element>
  let shape: AttentionShape
  let plan: AttentionPlan
  let schedule: MaskSchedule<Element>
  let scale: Element
  /// cap·tanh(score / cap); nil: scores as they are.
  let softcap: Element?
  /// `[H]`: one more logit in each head's denominator; nil: none.
  let sinks: UnsafePointer<Element>?
  let query: Operand
  let key: Operand
  let value: Operand
  let outputs: AttentionOutputs<Element>

  init(
    kernels: Kernels<Element>, shape: AttentionShape, plan: AttentionPlan, schedule: MaskSchedule<Element>,
    scale: Element, softcap: Element?, sinks: UnsafePointer<Element>?, query: Operand, key: Operand, value: Operand,
    outputs: AttentionOutputs<Element>
  ) {
    self.kernels = kernels
    self.shape = shape
    self.plan = plan
    self.schedule = schedule
    self.scale = scale
    self.softcap = softcap
    self.sinks = sinks
    self.query = query
    self.key = key
    self.value = value
    self.outputs = outputs
  }

  /// The same in memory of its own.
  convenience init(copying other: AttentionCall) {
    self.init(
      kernels: other.kernels, shape: other.shape, plan: other.plan, schedule: other.schedule, scale: other.scale,
      softcap: other.softcap, sinks: other.sinks, query: other.query, key: other.key, value: other.value,
      outputs: other.outputs)
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
    // Small heads would pay for the divisions.
    func head(ofRow row: Int) -> Int { heads.lowerBound + (row < queries.count ? 0 : row / queries.count) }
    func query(ofRow row: Int) -> Int { queries.lowerBound + (row < queries.count ? row : row % queries.count) }

    /// Calls `body` for some rows, those of each head together, with the head and the first query.
    func forEachRun(_ rows: Range<Int>, _ body: (_ rows: Range<Int>, _ head: Int, _ query: Int) -> Void) {
      if rows.isEmpty { return }
      var head = head(ofRow: rows.lowerBound)
      var query = query(ofRow: rows.lowerBound)
      var row = rows.lowerBound
      while row < rows.upperBound {
        let end = min(row + queries.upperBound - query, rows.upperBound)
        body(row..<end, head, query)
        row = end
        query = queries.lowerBound
        head += 1
      }
    }

    /// Calls `body` for some rows with their head and query.
    func forEachRow(_ rows: Range<Int>, _ body: (_ row: Int, _ head: Int, _ query: Int) -> Void) {
      forEachRun(rows) { run, head, query in
        for row in run { body(row, head, query + row - run.lowerBound) }
      }
    }

    /// The least range of queries that holds those of some rows.
    func queries(ofRows rows: Range<Int>) -> Range<Int> {
      let last = rows.upperBound - 1
      if head(ofRow: rows.lowerBound) != head(ofRow: last) { return queries }
      return query(ofRow: rows.lowerBound)..<query(ofRow: last) + 1
    }

    /// The heads of some rows.
    func heads(ofRows rows: Range<Int>) -> Range<Int> {
      head(ofRow: rows.lowerBound)..<head(ofRow: rows.upperBound - 1) + 1
    }
  }

  func tile(_ index: Int) -> Tile {
    var rest = index
    func next(_ count: Int) -> Int {
      // Small heads would pay for the divisions.
      if count == 1 { return 0 }
      let (quotient, remainder) = rest.quotientAndRemainder(dividingBy: count)
      rest = quotient
      return remainder
    }
    let headOfRun = next(plan.headRunLength)
    let queryTile = next(plan.queryTileCount)
    let headTile = next(plan.headTileCount)
    let keyValueHead = next(shape.keyValueHeadCount / plan.headRunLength) * plan.headRunLength + headOfRun
    let firstHead = keyValueHead * shape.groupSize
    let heads = headTile * plan.headsPerTile..<min((headTile + 1) * plan.headsPerTile, shape.groupSize)
    return Tile(
      batch: rest, keyValueHead: keyValueHead,
      heads: firstHead + heads.lowerBound..<firstHead + heads.upperBound,
      queries: queryTile * plan.queryTileLength..<min((queryTile + 1) * plan.queryTileLength, shape.queryCount))
  }

  /// Before the first key: maximum −inf and sum 0; or, of the first split, what a sink says: it is a key whose value is 0.
  func startRows(
    _ tile: Tile, split: Int, maximum: UnsafeMutablePointer<Element>, sum: UnsafeMutablePointer<Element>
  ) {
    maximum.update(repeating: -.infinity, count: tile.rowCount)
    sum.update(repeating: 0, count: tile.rowCount)
    guard let sinks, split == 0 else { return }
    tile.forEachRow(0..<tile.rowCount) { row, head, _ in
      maximum[row] = sinks[head]
      sum[row] = sinks[head] == -.infinity ? 0 : 1
    }
  }

  // MARK: Tiles of keys

  typealias Layer = MaskSchedule<Element>.Layer

  /// Calls `body` for every tile of keys that the mask leaves to some query of `tile`, within one of the equal parts into
  /// which they are split. Each lies in one layer of the mask, and in memory row after row.
  func forEachKeyTile(_ tile: Tile, split: Int, _ body: (_ keys: Range<Int>, _ layer: Layer) -> Void) {
    // Places in the layers' keys, laid behind one another; cut at whole vectors of keys.
    var part = 0..<Int.max
    if plan.splitCount > 1 {
      let count = schedule.unionCount(batch: tile.batch, queries: tile.queries)
      let length = ((count + plan.splitCount - 1) / plan.splitCount + 15) / 16 * 16
      part = split * length..<(split == plan.splitCount - 1 ? Int.max : (split + 1) * length)
    }
    var start = 0
    schedule.forEachLayer { layer in
      let union = layer.intervals.union(batch: tile.batch, queries: tile.queries)
      let own = part.clamped(to: start..<start + union.count)
      var low = union.lowerBound + own.lowerBound - start
      let end = low + own.count
      start += union.count
      while low < end {
        var high = min(low + plan.keyTileLength, end)
        high = value.end(ofRunFrom: low, limit: key.end(ofRunFrom: low, limit: high))
        body(low..<high, layer)
        low = high
      }
    }
  }

  /// Some rows by some keys in one layer of the mask.
  struct Region {
    let rows: Range<Int>
    let keys: Range<Int>
    let layer: Layer
    /// True if the rows attend to different intervals of these keys.
    let isRagged: Bool
    /// True if block masks leave out a part.
    let hasBlocks: Bool
  }

  /// Calls `body` for the parts of some rows by some keys: those that every row attends to, and those that the
  /// diagonal crosses, in pieces of at most `pieceLength` rows; without what is empty.
  func forEachRegion(
    _ tile: Tile, rows: Range<Int>, keys: Range<Int>, layer: Layer, pieceLength: Int, _ body: (Region) -> Void
  ) {
    let intervals = layer.intervals
    func cut(_ rows: Range<Int>, _ keys: Range<Int>, isRagged: Bool) {
      if schedule.blocks.isEmpty || !layer.isMasked {
        return body(Region(rows: rows, keys: keys, layer: layer, isRagged: isRagged, hasBlocks: false))
      }
      forEachBlockRun(tile, rows: rows, keys: keys) { keys, isFull in
        body(Region(rows: rows, keys: keys, layer: layer, isRagged: isRagged, hasBlocks: !isFull))
      }
    }
    if !intervals.isRagged { return cut(rows, keys, isRagged: false) }
    let queries = tile.queries(ofRows: rows)
    let union = intervals.union(batch: tile.batch, queries: queries).clamped(to: keys)
    if union.isEmpty { return }
    let common = intervals.common(batch: tile.batch, queries: queries).clamped(to: union)
    if !common.isEmpty { cut(rows, common, isRagged: false) }
    func forEachPiece(_ rest: Range<Int>) {
      if rest.isEmpty { return }
      for first in stride(from: rows.lowerBound, to: rows.upperBound, by: pieceLength) {
        let piece = first..<min(first + pieceLength, rows.upperBound)
        let own = intervals.union(batch: tile.batch, queries: tile.queries(ofRows: piece)).clamped(to: rest)
        if !own.isEmpty { cut(piece, own, isRagged: true) }
      }
    }
    if common.isEmpty { return forEachPiece(union) }
    forEachPiece(union.lowerBound..<common.lowerBound)
    forEachPiece(common.upperBound..<union.upperBound)
  }

  /// Calls `body` for runs of keys of which the block masks leave everything, or a part, to some rows.
  private func forEachBlockRun(
    _ tile: Tile, rows: Range<Int>, keys: Range<Int>, _ body: (_ keys: Range<Int>, _ isFull: Bool) -> Void
  ) {
    let heads = tile.heads(ofRows: rows)
    let queries = tile.queries(ofRows: rows)
    func state(at key: Int) -> Int32 {
      var result = BlockMask.full
      for mask in schedule.blocks {
        let column = key / mask.blockLength
        let blockRows = queries.lowerBound / mask.blockLength...(queries.upperBound - 1) / mask.blockLength
        var (empties, fulls, count) = (0, 0, 0)
        for head in heads {
          for row in blockRows {
            let state = mask.state(batch: tile.batch, head: head, row: row, column: column)
            if state == BlockMask.empty { empties += 1 }
            if state == BlockMask.full { fulls += 1 }
            count += 1
          }
        }
        if empties == count { return BlockMask.empty }
        if fulls < count { result = 0 }
      }
      return result
    }
    var run = keys.lowerBound..<keys.lowerBound
    var runState = BlockMask.empty
    func finish() {
      if !run.isEmpty && runState != BlockMask.empty { body(run, runState == BlockMask.full) }
    }
    var low = keys.lowerBound
    while low < keys.upperBound {
      let high = schedule.blocks.reduce(keys.upperBound) { min($0, (low / $1.blockLength + 1) * $1.blockLength) }
      let own = state(at: low)
      if own != runState {
        finish()
        run = low..<low
        runState = own
      }
      run = run.lowerBound..<high
      low = high
    }
    finish()
  }

  // MARK: Scores

  /// Lets the mask's functions change the scores of some rows by some keys. `heads` and `queries`: working memory, an element
  /// a row.
  func applyFunctions(
    _ tile: Tile, rows: Range<Int>, keys: Range<Int>, _ scores: UnsafeMutablePointer<Element>, rowStride: Int,
    keyStride: Int, heads: UnsafeMutablePointer<Int32>, queries: UnsafeMutablePointer<Int32>
  ) {
    if schedule.functions.isEmpty { return }
    tile.forEachRow(rows) { row, head, query in
      heads[row - rows.lowerBound] = Int32(head)
      queries[row - rows.lowerBound] = Int32(query)
    }
    var forbidden: [Int] = []
    for (index, function) in schedule.functions.enumerated() {
      var view = AttentionScoreTile(
        batch: tile.batch, keys: keys, rowCount: rows.count, scores: scores, rowStride: rowStride, keyStride: keyStride,
        heads: heads, queries: queries)
      function.body(&view)
      // What one function forbids, the next does not allow.
      for place in forbidden { scores[place] = -.infinity }
      if index + 1 == schedule.functions.count { return }
      for row in 0..<rows.count {
        for key in 0..<keys.count where scores[row * rowStride + key * keyStride] == -.infinity {
          forbidden.append(row * rowStride + key * keyStride)
        }
      }
    }
  }

  /// Which of some scores functions may have forbidden, to be asked before the softmax makes weights of them; nil
  /// without functions.
  func forbidden(_ scores: UnsafePointer<Element>, count: Int) -> [Bool]? {
    schedule.functions.isEmpty ? nil : (0..<count).map { scores[$0] == -.infinity }
  }

  /// Calls `body` for all linear biases, when `slope` and `position` hold what each says of the rows: `position` counts from
  /// the first of `keys`.
  func forEachDistances(
    _ tile: Tile, rows: Range<Int>, keys: Range<Int>, slope: UnsafeMutablePointer<Element>,
    position: UnsafeMutablePointer<Element>, _ body: () -> Void
  ) {
    for distances in schedule.distances {
      tile.forEachRow(rows) { row, head, query in
        slope[row - rows.lowerBound] = distances.slopes[head]
        position[row - rows.lowerBound] = Element(
          distances.key(ofQuery: query, batch: tile.batch) - keys.lowerBound)
      }
      body()
    }
  }

  // MARK: Operands

  /// A tile of keys or values in place if `isReadable`, else packed row by row; with the `layer` that they are of, 0 for keys of blocks
  /// that no row attends to, which are not read.
  func matrix(
    _ operand: Operand, _ tile: Tile, _ keys: Range<Int>, _ layer: Layer?, width: Int,
    packedAt pack: UnsafeMutablePointer<Element>, unless isReadable: (StridedMatrix<Element>) -> Bool
  ) -> StridedMatrix<Element> {
    let row = operand.row(batch: tile.batch, head: tile.keyValueHead, index: keys.lowerBound)
    let matrix = StridedMatrix(
      base: row.assumingMemoryBound(to: Element.self), rowCount: keys.count, columnCount: width,
      rowStride: operand.lengthStride, columnStride: operand.widthStride)
    if operand.half == nil, isReadable(matrix) { return matrix }
    func packRows(_ rows: Range<Int>) {
      let target = pack + rows.lowerBound * width
      if operand.half == nil {
        _ = matrix.rows(rows).pack(into: target)
        return
      }
      for (place, i) in rows.enumerated() {
        operand.copyRow(
          kernels, count: width, from: row + i * operand.lengthStride * operand.elementByteCount,
          to: target + place * width)
      }
    }
    if schedule.blocks.isEmpty || layer?.isMasked != true {
      packRows(0..<keys.count)
    } else {
      pack.update(repeating: 0, count: keys.count * width)
      forEachBlockRun(tile, rows: 0..<tile.rowCount, keys: keys) { run, _ in
        packRows(run.lowerBound - keys.lowerBound..<run.upperBound - keys.lowerBound)
      }
    }
    return StridedMatrix(
      base: pack, rowCount: keys.count, columnCount: width, rowStride: width, columnStride: 1)
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

  /// Whether the value of a key that is not finite reaches a query: 0·NaN is NaN only where the query attends.
  func attends(_ tile: Tile, _ layer: Layer, head: Int, query: Int, key: Int) -> Bool {
    // Through another layer it has another weight.
    return layer.intervals[tile.batch, query].contains(key)
      && (!layer.isMasked || schedule.allows(batch: tile.batch, head: head, query: query, key: key))
  }
}
