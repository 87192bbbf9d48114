internal import AttentionTensors

/// The backward pass of attention: the gradients of query, key and value, and of the mask's biases, ALiBi slopes and
/// parameters of a function of scores.
///
/// The forward pass has saved the output O and the log-sum-exp. The backward pass computes the weights again, block by
/// block, from the scores S: P = exp(S − log-sum-exp). With dO, the gradient of the output, and Δ = rowsum(dO ∘ O):
///
///     dV += Pᵀ dO      dP = dO Vᵀ      dS = P ∘ (dP − Δ)      dQ += scale · dS K      dK += scale · dSᵀ Q
///
/// Memory stays O(L) for L queries. Source: Dao et al. 2022 (arXiv:2205.14135), Algorithm 4.
///
/// **The same bits with any number of threads, whatever else is in the batch.** Keys are cut into regions at multiples
/// of one length, counted from the first key of their sequence. Queries are cut into tiles in the same way. dK and dV
/// are sums over the queries of each tile, added in the order of the tiles. dQ has one sum over the keys of each
/// region. These sums are added in the order of the regions, whether one worker computes them in turn or several
/// workers compute them at once. Nothing is added atomically.
struct BackwardPass<Tiles: GradientTiles>: ScorePass {
  typealias Element = Tiles.Element

  let gradients: GradientCall<Element>
  let tiles: Tiles

  var call: AttentionCall<Element> { gradients.call }

  /// The pass of one worker. `arrays` cuts the pass's working memory out of one allocation; without an allocation,
  /// `arrays` only counts the bytes.
  init(_ gradients: GradientCall<Element>, _ arrays: inout ScratchArrays) {
    self.gradients = gradients
    tiles = Tiles(gradients, &arrays)
  }

  /// Computes what a region of keys adds to the gradients of a unit, which is a key/value head of an element of the
  /// batch. Writes the gradients of the region's keys and values, and calls `add` for each tile of queries that attends
  /// to some of these keys, with the tile's number and its ``GradientTiles/querySums``.
  ///
  /// `region`: the number of the region. `copy`: the copy of the gradients of biases to which the region adds.
  func differentiate(
    unit: Int, region: Int, copy: Int, add: (_ index: Int, _ sums: UnsafeMutablePointer<Element>) -> Void
  ) {
    let shared = SharedSums(copy: copy, parameters: gradients.parameterSums.sums(unit: unit, region: region))
    let region = gradients.keyRegions[gradients.batch(ofUnit: unit)][region]
    tiles.beginRegion(region)
    for index in 0..<gradients.tileCount(ofUnit: unit)
    where gradients.mayAttend(unit: unit, index: index, to: region) {
      let tile = gradients.tile(unit: unit, index: index)
      if tile.rowCount == 0 { continue }
      var hasBegun = false
      call.forEachKeyTile(tile, in: region) { keyTile in
        if !hasBegun { tiles.begin(tile) }
        hasBegun = true
        differentiate(tile, keyTile, shared)
      }
      if hasBegun { add(index, tiles.querySums) }
    }
    writeKeys(unit: unit, region)
  }

  private func differentiate(_ tile: QueryTile, _ keyTile: KeyTile, _ shared: SharedSums<Element>) {
    let scoreKey = tiles.keys(tile, keyTile.keys, keyTile.set)
    let key = tiles.nativeKeys(scoreKey, tile, keyTile.keys, keyTile.set)
    let value = tiles.values(tile, keyTile.keys, keyTile.set, isNative: true).native
    let isSafe = !call.schedule.isHiding || (tiles.isSafe(tile) && call.isFinite(key))
    tiles.beginKeys(keyTile.keys)
    forEachBlock(tile, keyTile) { block, cut in
      let keys = block.keys.counted(from: keyTile.keys)
      let (ownKey, ownValue) = (key.rows(keys), value.rows(keys))
      if isSafe { tiles.prepare(block, cut) }
      _ = computeScores(block, cut, tile, scoreKey.rows(keys), next: nil)
      if !isSafe { return differentiateWithHazards(block, cut, tile, ownKey, ownValue, shared) }
      tiles.computeWeights(block, tile, cut)
      tiles.computeWeightGradients(block, cut, ownValue)
      // forward: O = (D ∘ P) V, where D is 0 for a dropped weight, or else 1 / (1 − p)  ⇒  dP ← D ∘ dP,
      // and dV needs D ∘ P. dS needs P itself, so P is multiplied by D after dS is computed.
      modifiers.dropOut(tiles.scoreGradients(block), of: block, tile)
      tiles.computeScoreGradients(block, cut)
      modifiers.dropOut(block.scores, of: block, tile)
      tiles.accumulateValue(block)
      differentiateModifiers(block, tile, cut, shared)
      if call.scale != 0 { tiles.accumulateQuery(block, cut, ownKey) }
    }
    tiles.endKeys(tile)
  }

  func differentiateModifiers(
    _ block: Block<Element>, _ tile: QueryTile, _ cut: BlockCut?, _ shared: SharedSums<Element>
  ) {
    modifiers.differentiate(
      block, tile, cut, tiles.scoreGradients(block), gradients, shared, tiles.gradientMemory
    ) { tiles.rowSum($0, in: tiles.querySums) }
  }

  // MARK: Results

  /// Writes the gradients of the keys and values of a region.
  private func writeKeys(unit: Int, _ region: Range<Int>) {
    let shape = call.shape
    let (batch, head) = unit.quotientAndRemainder(dividingBy: shape.keyValueHeadCount)
    for key in region {
      let row = tiles.keyGradient(key)
      call.kernels.scale(shape.headDimension, row, call.scale, row)
      gradients.key.write(
        call.kernels, count: shape.headDimension, from: row, to: gradients.key.row(batch: batch, head: head, index: key)
      )
      gradients.value.write(
        call.kernels, count: shape.valueDimension, from: tiles.valueGradient(key),
        to: gradients.value.row(batch: batch, head: head, index: key))
    }
  }

  /// Writes the gradients of a tile's queries, and the tile's part of the ``RowSums``. Both come from `sums`, which has
  /// ``GradientTiles/querySumCount`` elements.
  func finish(unit: Int, index: Int, _ sums: UnsafeMutablePointer<Element>) {
    let (shape, tile) = (call.shape, gradients.tile(unit: unit, index: index))
    if tile.rowCount > 0 { tiles.writeQuery(tile, sums) }
    let head = tile.heads.lowerBound
    for query in tile.emptyQueries {
      gradients.query.clear(
        count: shape.headDimension, gradients.query.row(batch: tile.batch, head: head, index: query))
    }
    let first = shape.row(batch: tile.batch, head: head, query: tile.queries.lowerBound)
    let rowCount = shape.batchCount * shape.headCount * shape.queryCount
    for sum in 0..<gradients.rowSums.count {
      (gradients.rowSums.sums + sum * rowCount + first).update(
        from: tiles.rowSum(sum, in: sums), count: tile.rowCount)
    }
  }
}
