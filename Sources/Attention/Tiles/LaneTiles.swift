internal import AttentionBLAS
internal import AttentionTensors

/// Tiles whose queries run along the vectors' lanes, by the kernels of this package.
///
/// A tile's queries are packed once, in panels: Sᵀ = K·Qᵀ, softmax down the lanes, Oᵀ ← Oᵀ·rescale + Vᵀ·Sᵀ. Keys and
/// values are read where they lie, an element at a time, so that any width and either layout is as good; a tile of them is packed
/// only where neither of their strides is 1, where their rows lie pages apart, and where they are stored in two bytes.
struct LaneTiles<Element: AttentionElement>: TileKernels {
  typealias Call = AttentionCall<Element>

  let call: Call
  /// Elements of a vector.
  let lanes: Int
  /// Vectors of a panel at most.
  let panelVectorCount: Int

  init(_ call: Call) {
    self.call = call
    lanes = call.kernels.laneCount
    panelVectorCount = call.kernels.panelVectorCount
  }

  struct Scratch {
    /// Panels of queries, each `[E, lanes]`, scaled.
    let query: UnsafeMutablePointer<Element>
    /// Panels of results, each `[Ev, lanes]`: means of the values when they are multiplied by `factor`.
    let result: UnsafeMutablePointer<Element>
    /// For each vector of rows: whether the panel that begins there has a result yet.
    let isStarted: UnsafeMutablePointer<Bool>
    /// One panel's scores: `[keys, lanes]`.
    let scores: UnsafeMutablePointer<Element>
    /// One tile of keys and of values packed; and values without those that are not finite.
    let key: UnsafeMutablePointer<Element>
    let value: UnsafeMutablePointer<Element>
    let finiteValue: UnsafeMutablePointer<Element>
    /// For each row of the tile.
    let maximum: UnsafeMutablePointer<Element>
    let sum: UnsafeMutablePointer<Element>
    let factor: UnsafeMutablePointer<Element>
    /// The maximum of a panel's rows with the scores at hand.
    let newMaximum: UnsafeMutablePointer<Element>
    /// Sums that nobody reads.
    let discarded: UnsafeMutablePointer<Element>
    let normalized: NormalizedRows<Element>
    /// For each lane of a panel.
    let rescale: UnsafeMutablePointer<Element>
    let begin: UnsafeMutablePointer<Element>
    let end: UnsafeMutablePointer<Element>
    /// Where rows of inputs or outputs lie.
    let rows: UnsafeMutablePointer<UnsafeRawPointer>
    let targets: UnsafeMutablePointer<UnsafeMutableRawPointer>
    /// Rows of queries, results or biases in the type that is computed with, where they are stored in another.
    let converted: UnsafeMutablePointer<Element>
    /// For each lane of a panel: its slope, and the place of its query among the keys.
    let slope: UnsafeMutablePointer<Element>
    let position: UnsafeMutablePointer<Element>
    /// For each row of a panel.
    let heads: UnsafeMutablePointer<Int32>
    let queries: UnsafeMutablePointer<Int32>
  }

  func scratch(_ carver: inout Carver) -> Scratch {
    let shape = call.shape
    let rowCount = (call.plan.rowsPerTile + lanes - 1) / lanes * lanes
    let panelRowCount = min(rowCount, lanes * panelVectorCount)
    let keyCount = min(call.plan.keyTileLength, max(shape.keyCount, 1))
    let schedule = call.schedule
    let convertedCount = max(
      call.query.half == nil ? 0 : rowCount * shape.width, call.outputs.half == nil ? 0 : rowCount * shape.valueWidth,
      schedule.biases.allSatisfy { $0.half == nil } ? 0 : panelRowCount * keyCount)
    return Scratch(
      query: carver.take(rowCount * shape.width), result: carver.take(rowCount * shape.valueWidth),
      isStarted: carver.take(rowCount / lanes), scores: carver.take(keyCount * panelRowCount),
      key: carver.take(isReadable(call.key) ? 0 : keyCount * shape.width),
      value: carver.take(isReadable(call.value) ? 0 : keyCount * shape.valueWidth),
      finiteValue: carver.take(isHiding ? keyCount * shape.valueWidth : 0),
      maximum: carver.take(rowCount), sum: carver.take(rowCount), factor: carver.take(rowCount),
      newMaximum: carver.take(panelRowCount),
      discarded: carver.take(rowCount), normalized: NormalizedRows(&carver, rowCount: rowCount),
      rescale: carver.take(panelRowCount), begin: carver.take(panelRowCount), end: carver.take(panelRowCount),
      rows: carver.take(rowCount), targets: carver.take(rowCount), converted: carver.take(convertedCount),
      slope: carver.take(schedule.distances.isEmpty ? 0 : panelRowCount),
      position: carver.take(schedule.distances.isEmpty ? 0 : panelRowCount),
      heads: carver.take(schedule.functions.isEmpty ? 0 : panelRowCount),
      queries: carver.take(schedule.functions.isEmpty ? 0 : panelRowCount))
  }

  static func onWorker(_ body: () -> Void) { body() }

  private func isReadable(_ operand: Operand) -> Bool {
    if operand.half != nil { return false }
    if operand.lengthStride == 1 { return true }
    return operand.widthStride == 1
      && operand.lengthStride < call.plan.farRowByteCount / MemoryLayout<Element>.stride
  }

  // MARK: Panels

  /// Some vectors of rows, whose scores are computed at once: a panel, or one vector of it.
  struct Panel {
    /// The rows that there are: the last vector may be filled up.
    let rows: Range<Int>
    let vectorCount: Int
    /// The first row and the lanes of the whole panel, by which its arrays are laid out.
    let firstRow: Int
    let stride: Int

    /// Where its lanes begin in the panel's arrays.
    var lane: Int { rows.lowerBound - firstRow }
  }

  private func vectorCount(_ tile: Call.Tile) -> Int { (tile.rowCount + lanes - 1) / lanes }

  private func forEachPanel(_ tile: Call.Tile, _ body: (Panel) -> Void) {
    AttentionTensors.forEachPanel(vectorCount: vectorCount(tile), limit: panelVectorCount) { vectors in
      let firstRow = vectors.lowerBound * lanes
      body(
        Panel(
          rows: firstRow..<min(vectors.upperBound * lanes, tile.rowCount), vectorCount: vectors.count,
          firstRow: firstRow, stride: vectors.count * lanes))
    }
  }

  /// A panel, or one vector of it, by some keys.
  struct Piece {
    let panel: Panel
    let region: Call.Region
    /// True if scores are hidden or changed.
    let hasTerms: Bool
    /// True if some row may not attend to some key.
    let isHiding: Bool

    var keys: Range<Int> { region.keys }
    var isRagged: Bool { region.isRagged }
  }

  /// Calls `body` for every part of a panel by `keys` that the mask does not leave empty.
  private func forEachPiece(
    _ tile: Call.Tile, _ panel: Panel, _ keys: Range<Int>, _ layer: Call.Layer, _ body: (Piece) -> Void
  ) {
    let hasTerms = layer.isMasked && call.schedule.hasTerms
    let isHiding = layer.isMasked && call.schedule.hidesWithinIntervals
    // Where the diagonal crosses, each vector leaves out what it can.
    call.forEachRegion(tile, rows: panel.rows, keys: keys, layer: layer, pieceLength: lanes) { region in
      let part =
        region.rows == panel.rows
        ? panel : Panel(rows: region.rows, vectorCount: 1, firstRow: panel.firstRow, stride: panel.stride)
      body(
        Piece(panel: part, region: region, hasTerms: hasTerms, isHiding: isHiding || region.isRagged))
    }
  }

  // MARK: Attending

  func attend(_ tile: Call.Tile, split: Int, _ scratch: Scratch) {
    attend(tile, split: split, TileCare(), scratch)
    if hasFiniteResult(tile, scratch) { return }
    repeatWithCare(
      isHiding: isHiding, hasFiniteValues: { hasFiniteValues(tile, split: split, scratch) },
      hasFiniteResult: { hasFiniteResult(tile, scratch) }
    ) { attend(tile, split: split, $0, scratch) }
  }

  private func hasFiniteResult(_ tile: Call.Tile, _ scratch: Scratch) -> Bool {
    call.kernels.isFinite(vectorCount(tile) * lanes * call.shape.valueWidth, scratch.result)
  }

  private func hasFiniteValues(_ tile: Call.Tile, split: Int, _ scratch: Scratch) -> Bool {
    var isFinite = true
    call.forEachKeyTile(tile, split: split) { part, layer in
      isFinite =
        isFinite
        && call.isFinite(matrix(call.value, tile, part, layer, width: call.shape.valueWidth, packedAt: scratch.value))
    }
    return isFinite
  }

  /// Computes the result, and the factors by which its rows become means of the values.
  private func attend(_ tile: Call.Tile, split: Int, _ care: TileCare, _ scratch: Scratch) {
    let laneCount = vectorCount(tile) * lanes
    if care.normalizesWeights { findNormalizedRows(tile, scratch) }
    call.startRows(tile, split: split, maximum: scratch.maximum, sum: scratch.sum)
    for lane in tile.rowCount..<laneCount {
      scratch.maximum[lane] = -.infinity
      scratch.sum[lane] = 0
    }
    if care.normalizesWeights { scratch.normalized.restoreMaxima(rowCount: tile.rowCount, scratch.maximum) }
    scratch.isStarted.update(repeating: false, count: vectorCount(tile))
    packQueries(tile, scratch)
    call.forEachKeyTile(tile, split: split) { part, layer in
      let key = matrix(call.key, tile, part, layer, width: call.shape.width, packedAt: scratch.key)
      let value = matrix(call.value, tile, part, layer, width: call.shape.valueWidth, packedAt: scratch.value)
      let hasHazards = care.leavesOutHazards && !call.isFinite(value)
      forEachPanel(tile) { panel in
        forEachPiece(tile, panel, part, layer) { piece in
          let rows = piece.keys.lowerBound - part.lowerBound..<piece.keys.upperBound - part.lowerBound
          let knowsMaximum = computeScores(piece, tile, key.rows(rows), next: value.rows(rows), scratch)
          let isHazardous = hasHazards && piece.isHiding
          let forbidden =
            isHazardous ? call.forbidden(scratch.scores, count: rows.count * piece.panel.stride) : nil
          softmax(piece, knowsMaximum: knowsMaximum, sum: scratch.sum, scratch)
          if care.normalizesWeights { normalize(piece, scratch) }
          accumulate(piece, tile, value.rows(rows), isHazardous: isHazardous, forbidden, scratch)
        }
      }
    }
    forEachPanel(tile) { start($0, scratch) }
    if care.normalizesWeights { scratch.normalized.restoreSums(rowCount: tile.rowCount, scratch.sum) }
    invertSums(tile, scratch.sum, scratch)
    if care.normalizesWeights {
      forEachPanel(tile) { panel in
        for row in panel.rows where scratch.normalized.contains(row) {
          scratch.factor[row] = NormalizedRows<Element>.meanFactor
          let result = scratch.result + panel.firstRow * call.shape.valueWidth + row - panel.firstRow
          for column in 0..<call.shape.valueWidth {
            result[column * panel.stride] = NormalizedRows.saturated(result[column * panel.stride])
          }
        }
      }
    }
  }

  private func findNormalizedRows(_ tile: Call.Tile, _ scratch: Scratch) {
    let width = call.shape.valueWidth
    scratch.normalized.factor.update(repeating: 1, count: vectorCount(tile) * lanes)
    scratch.discarded.update(repeating: 0, count: vectorCount(tile) * lanes)
    // 1 for rows with a result that is not finite.
    forEachPanel(tile) { panel in
      for row in panel.rows {
        let result = scratch.result + panel.firstRow * width + row - panel.firstRow
        if !(0..<width).allSatisfy({ result[$0 * panel.stride].isFinite }) { scratch.discarded[row] = 1 }
      }
    }
    scratch.normalized.find(rowCount: tile.rowCount, maximum: scratch.maximum, sum: scratch.sum) {
      scratch.discarded[$0] == 0
    }
  }

  /// weights ← weights · their row's factor.
  private func normalize(_ piece: Piece, _ scratch: Scratch) {
    let factor = scratch.normalized.factor + piece.panel.rows.lowerBound
    for key in 0..<piece.keys.count {
      let weights = scratch.scores + key * piece.panel.stride
      for lane in 0..<piece.panel.vectorCount * lanes { weights[lane] *= factor[lane] }
    }
  }

  /// True if some query may not attend to some key.
  private var isHiding: Bool { call.schedule.isRagged || call.schedule.hidesWithinIntervals }

  private func matrix(
    _ operand: Operand, _ tile: Call.Tile, _ keys: Range<Int>, _ layer: Call.Layer, width: Int,
    packedAt pack: UnsafeMutablePointer<Element>
  ) -> StridedMatrix<Element> {
    call.matrix(operand, tile, keys, layer, width: width, packedAt: pack, unless: { _ in isReadable(operand) })
  }

  private func packQueries(_ tile: Call.Tile, _ scratch: Scratch) {
    let stride = gatherRows(call.query, tile, 0..<tile.rowCount, from: 0, count: call.shape.width, scratch)
    forEachPanel(tile) { panel in
      call.kernels.pack(
        .scaled(by: call.scale.asDouble), rowCount: panel.rows.count, columnCount: call.shape.width,
        rows: scratch.rows + panel.firstRow, columnStride: stride,
        into: scratch.query + panel.firstRow * call.shape.width, stride: panel.stride)
    }
  }

  private func softmax(
    _ piece: Piece, knowsMaximum: Bool, sum: UnsafeMutablePointer<Element>, _ scratch: Scratch
  ) {
    let first = piece.panel.rows.lowerBound
    call.kernels.softmaxLanes(
      vectorCount: piece.panel.vectorCount, keyCount: piece.keys.count, stride: piece.panel.stride,
      scores: scratch.scores, begin: piece.isRagged ? UnsafePointer(scratch.begin) : nil,
      end: piece.isRagged ? UnsafePointer(scratch.end) : nil,
      maximum: scratch.maximum + first, newMaximum: knowsMaximum ? UnsafePointer(scratch.newMaximum) : nil,
      sum: sum + first, rescale: scratch.rescale)
  }

  /// Makes the result of a panel 0, if it has none yet.
  private func start(_ panel: Panel, _ scratch: Scratch) {
    if scratch.isStarted[panel.firstRow / lanes] { return }
    scratch.isStarted[panel.firstRow / lanes] = true
    let result = scratch.result + panel.firstRow * call.shape.valueWidth
    result.update(repeating: 0, count: panel.stride * call.shape.valueWidth)
  }

  /// resultᵀ ← resultᵀ·rescale + Vᵀ·weights.
  ///
  /// Where some row does not attend to some key whose value is not finite, such values are left out of the product and added
  /// one by one.
  private func accumulate(
    _ piece: Piece, _ tile: Call.Tile, _ value: StridedMatrix<Element>, isHazardous: Bool, _ forbidden: [Bool]?,
    _ scratch: Scratch
  ) {
    let panel = piece.panel
    // The first product of a whole panel only writes.
    let isFirst = !scratch.isStarted[panel.firstRow / lanes] && panel.vectorCount * lanes == panel.stride
    if isFirst { scratch.isStarted[panel.firstRow / lanes] = true } else { start(panel, scratch) }
    let values = isHazardous ? withoutHazards(value, scratch) : value
    let result = scratch.result + panel.firstRow * call.shape.valueWidth + panel.lane
    call.kernels.multiply(
      vectorCount: panel.vectorCount, values.transposed, scratch.scores, bStride: panel.stride, into: result,
      stride: panel.stride,
      rescale: isFirst ? nil : UnsafePointer(scratch.rescale))
    if !isHazardous { return }
    for key in 0..<value.rowCount where !call.isFinite(value.rows(key..<key + 1)) {
      let index = piece.keys.lowerBound + key
      tile.forEachRow(panel.rows) { row, head, query in
        let lane = row - panel.rows.lowerBound
        let weight = scratch.scores[key * panel.stride + lane]
        guard forbidden?[key * panel.stride + lane] != true,
          call.attends(tile, piece.region.layer, head: head, query: query, key: index)
        else { return }
        let source = value.base + key * value.rowStride
        for column in 0..<value.columnCount {
          result[column * panel.stride + lane] += weight * source[column * value.columnStride]
        }
      }
    }
  }

  /// A copy in which values that are not finite are 0.
  private func withoutHazards(_ value: StridedMatrix<Element>, _ scratch: Scratch) -> StridedMatrix<Element> {
    let copy = value.pack(into: scratch.finiteValue)
    for key in 0..<copy.rowCount where !call.isFinite(copy.rows(key..<key + 1)) {
      (scratch.finiteValue + key * copy.rowStride).update(repeating: 0, count: copy.columnCount)
    }
    return copy
  }

  // MARK: Results

  func state(_ scratch: Scratch) -> (maximum: UnsafePointer<Element>, sum: UnsafePointer<Element>) {
    (UnsafePointer(scratch.maximum), UnsafePointer(scratch.sum))
  }

  func store(_ tile: Call.Tile, _ scratch: Scratch, into state: RowState<Element>) {
    state.maximum.update(from: scratch.maximum, count: tile.rowCount)
    state.sum.update(from: scratch.sum, count: tile.rowCount)
    for row in 0..<tile.rowCount {
      scratch.targets[row] = UnsafeMutableRawPointer(state.result + row * call.shape.valueWidth)
    }
    unpack(tile, scratch, columnStride: 1)
  }

  func finish(_ tile: Call.Tile, _ scratch: Scratch) {
    let isConverted = call.outputs.half != nil
    let byteStride =
      isConverted
      ? call.shape.valueWidth * MemoryLayout<Element>.stride : call.outputs.lengthStride * call.outputs.elementByteCount
    tile.forEachRun(0..<tile.rowCount) { run, head, query in
      let first =
        isConverted
        ? UnsafeMutableRawPointer(scratch.converted + run.lowerBound * call.shape.valueWidth)
        : call.outputs.outputRow(batch: tile.batch, head: head, query: query)
      for row in run { scratch.targets[row] = first + (row - run.lowerBound) * byteStride }
    }
    unpack(tile, scratch, columnStride: isConverted ? 1 : call.outputs.widthStride)
    if isConverted {
      tile.forEachRow(0..<tile.rowCount) { row, head, query in
        call.writeOutput(scratch.converted + row * call.shape.valueWidth, tile, head: head, query: query)
      }
    }
    call.writeLogSumExp(tile, maximum: scratch.maximum, sum: scratch.sum)
  }

  /// factor ← 1 / sum, or 0 for a row that attends to nothing.
  private func invertSums(_ tile: Call.Tile, _ sum: UnsafePointer<Element>, _ scratch: Scratch) {
    for row in 0..<tile.rowCount { scratch.factor[row] = sum[row] == 0 ? 0 : 1 / sum[row] }
    for lane in tile.rowCount..<vectorCount(tile) * lanes { scratch.factor[lane] = 0 }
  }

  /// Rows of results times their factors, at the targets.
  private func unpack(_ tile: Call.Tile, _ scratch: Scratch, columnStride: Int) {
    forEachPanel(tile) { panel in
      call.kernels.unpack(
        rowCount: panel.rows.count, columnCount: call.shape.valueWidth,
        scratch.result + panel.firstRow * call.shape.valueWidth, stride: panel.stride,
        factor: scratch.factor + panel.firstRow, rows: scratch.targets + panel.firstRow, columnStride: columnStride)
    }
  }

  // MARK: Weights and scores

  func writeWeights(
    _ weights: UnsafeMutablePointer<Element>, _ tile: Call.Tile, split: Int, maximum: UnsafePointer<Element>,
    sum: UnsafePointer<Element>, _ scratch: Scratch
  ) {
    invertSums(tile, sum, scratch)
    // The same pieces as before give scores of the same bits, none of which exceeds its maximum: the softmax finds
    // nothing greater, and gives exp(score − maximum).
    scratch.discarded.update(repeating: 0, count: vectorCount(tile) * lanes)
    if maximum != UnsafePointer(scratch.maximum) {
      scratch.maximum.update(repeating: -.infinity, count: vectorCount(tile) * lanes)
      scratch.maximum.update(from: maximum, count: tile.rowCount)
    }
    forEachComputedPiece(tile, split: split, scratch) { piece, knowsMaximum in
      softmax(piece, knowsMaximum: knowsMaximum, sum: scratch.discarded, scratch)
      copyOut(piece, tile, to: weights, scratch)
    }
  }

  func writeScores(_ scores: UnsafeMutablePointer<Element>, _ tile: Call.Tile, split: Int, _ scratch: Scratch) {
    scratch.factor.update(repeating: 1, count: vectorCount(tile) * lanes)
    forEachComputedPiece(tile, split: split, scratch) { piece, _ in copyOut(piece, tile, to: scores, scratch) }
  }

  /// Calls `body` with every piece of some keys when its scores are computed.
  private func forEachComputedPiece(
    _ tile: Call.Tile, split: Int, _ scratch: Scratch, _ body: (_ piece: Piece, _ knowsMaximum: Bool) -> Void
  ) {
    packQueries(tile, scratch)
    call.forEachKeyTile(tile, split: split) { part, layer in
      let key = matrix(call.key, tile, part, layer, width: call.shape.width, packedAt: scratch.key)
      forEachPanel(tile) { panel in
        forEachPiece(tile, panel, part, layer) { piece in
          let rows = piece.keys.lowerBound - part.lowerBound..<piece.keys.upperBound - part.lowerBound
          body(piece, computeScores(piece, tile, key.rows(rows), next: nil, scratch))
        }
      }
    }
  }

  /// matrix[row, key] ← scores[key, lane] · factor[row] for attended keys.
  private func copyOut(
    _ piece: Piece, _ tile: Call.Tile, to matrix: UnsafeMutablePointer<Element>, _ scratch: Scratch
  ) {
    let panel = piece.panel
    if !piece.isRagged {
      tile.forEachRow(panel.rows) { row, head, query in
        scratch.targets[row] = UnsafeMutableRawPointer(
          call.row(of: matrix, tile, head: head, query: query) + piece.keys.lowerBound)
      }
      return call.kernels.unpack(
        rowCount: panel.rows.count, columnCount: piece.keys.count, scratch.scores, stride: panel.stride,
        factor: scratch.factor + panel.rows.lowerBound, rows: scratch.targets + panel.rows.lowerBound, columnStride: 1)
    }
    // Beside the interval lie keys of other layers.
    tile.forEachRow(panel.rows) { row, head, query in
      let keys = piece.region.layer.intervals[tile.batch, query].clamped(to: piece.keys)
      if keys.isEmpty { return }
      let first = (keys.lowerBound - piece.keys.lowerBound) * panel.stride + row - panel.rows.lowerBound
      let target = call.row(of: matrix, tile, head: head, query: query) + keys.lowerBound
      copyStridedRow(
        count: keys.count, elementByteCount: MemoryLayout<Element>.stride, from: scratch.scores + first,
        stride: panel.stride, to: target, stride: 1)
      call.kernels.scale(keys.count, target, scratch.factor[row], target)
    }
  }
}
