internal import AttentionTensors

/// The hazards that a pass over the keys of a tile guards against.
///
/// Both are rare, and both make a result that is not finite. So a tile is first computed without guards. If its result
/// is not finite, the tile is computed again with guards.
struct TileCare {
  /// True if values that are not finite are left out of the product where some row does not attend to them, and are
  /// then added to the rows that attend to them. The hazard: a masked key has weight 0, but 0·NaN is NaN.
  var leavesOutHazards = false
  /// True if weights are normalised before they are multiplied by values: see ``NormalizedRows``. The hazard: Σ
  /// exp(score − maximum) · value overflows where the values are large.
  var normalizesWeights = false
}

extension ForwardPass {
  /// Computes a tile again, because its result is not finite.
  ///
  /// First, values that are not finite are left out of the rows that do not attend to them, if there are such values.
  /// If some result is still not finite, weights are normalised too. Each row gets the bits that it would have if no
  /// other row needed care.
  @inline(never)
  func attendAgain(_ tile: QueryTile, in keys: Range<Int>) {
    var care = TileCare()
    if call.schedule.isHiding && !hasFiniteValues(tile, in: keys) {
      care.leavesOutHazards = true
      attend(tile, in: keys, care)
      if tiles.hasFiniteResult(tile) { return }
    }
    care.normalizesWeights = true
    attend(tile, in: keys, care)
  }

  private func hasFiniteValues(_ tile: QueryTile, in keys: Range<Int>) -> Bool {
    var isFinite = true
    call.forEachKeyTile(tile, in: keys) { keyTile in
      isFinite = isFinite && call.isFinite(tiles.values(tile, keyTile.keys, keyTile.set, isNative: true).native)
    }
    return isFinite
  }

  // MARK: Values that are not finite

  /// Softmax and accumulation of a block in which some row does not attend to some key, and some value is not finite.
  func accumulateWithoutHazards(
    _ block: Block<Element>, _ cut: BlockCut?, _ tile: QueryTile, _ value: StridedMatrix<Element>,
    _ maximum: ScoreMaximum, _ care: TileCare
  ) {
    let forbidden = placesForbiddenByFunctions(block)
    tiles.softmax(block, tile, cut, maximum)
    if care.normalizesWeights { normalizeWeights(block) }
    modifiers.dropOut(block.scores, of: block, tile)
    let finite = withoutHazards(value)
    tiles.accumulate(block, cut, StoredMatrix(finite))
    for index in 0..<value.rowCount where !call.isFinite(value.rows(index..<index + 1)) {
      let key = block.keys.lowerBound + index
      let source = value.base + index * value.rowStride
      tile.forEachRow(block.rows) { row, head, query in
        let place = block.place(row: row, key: key)
        if forbidden.contains(place) || !attends(block.set, tile, head: head, query: query, key: key) { return }
        let weight = block.scores[place]
        let (result, stride) = tiles.result(ofRow: row, group: block.group)
        for column in 0..<value.columnCount { result[column * stride] += weight * source[column * value.columnStride] }
      }
    }
  }

  /// A copy of values, in which a row is 0 if any of its elements is not finite.
  private func withoutHazards(_ value: StridedMatrix<Element>) -> StridedMatrix<Element> {
    // The copy is stored in the same order as its source, row by row or column by column. OpenBLAS has a different
    // kernel for each order, and these kernels round differently.
    let isTransposed = value.columnStride != 1 && value.rowStride == 1
    let target = tiles.memory.finiteValue
    let copy = isTransposed ? value.transposed.pack(into: target).transposed : value.pack(into: target)
    for row in 0..<copy.rowCount where !call.isFinite(copy.rows(row..<row + 1)) {
      for column in 0..<copy.columnCount { target[row * copy.rowStride + column * copy.columnStride] = 0 }
    }
    return copy
  }

  // MARK: Sums that overflow

  /// Finds, from the results of the previous pass, the rows that must be computed from normalised weights.
  func findNormalizedRows(_ tile: QueryTile) {
    let memory = tiles.memory
    forEachResult(tile) { row, result, stride in
      let isFinite = (0..<call.shape.valueDimension).allSatisfy { result[$0 * stride].isFinite }
      memory.normalized.take(row, maximum: memory.maximum[row], sum: memory.sum[row], isFinite: isFinite)
    }
  }

  /// weights ← weights · their row's factor.
  func normalizeWeights(_ block: Block<Element>) {
    let normalized = tiles.memory.normalized
    for row in block.rows where normalized.contains(row) {
      for key in block.keys { block.scores[block.place(row: row, key: key)] *= normalized.factor[row] }
    }
  }

  /// Finishes the rows that were computed from normalised weights. Their results are half of the weighted mean, so the
  /// factor of each row is set to 2. Finite results are limited, so that twice a result does not overflow.
  func finishNormalizedRows(_ tile: QueryTile) {
    let memory = tiles.memory
    forEachResult(tile) { row, result, stride in
      if !memory.normalized.contains(row) { return }
      memory.factor[row] = NormalizedRows<Element>.meanFactor
      for column in 0..<call.shape.valueDimension {
        result[column * stride] = NormalizedRows.saturated(result[column * stride])
      }
    }
  }

  private func forEachResult(
    _ tile: QueryTile, _ body: (_ row: Int, _ result: UnsafeMutablePointer<Element>, _ columnStride: Int) -> Void
  ) {
    tiles.forEachGroup(tile, isRagged: false) { group in
      for row in group {
        let (result, stride) = tiles.result(ofRow: row, group: group)
        body(row, result, stride)
      }
    }
  }
}
