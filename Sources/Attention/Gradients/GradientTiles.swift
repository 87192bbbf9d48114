internal import AttentionTensors

/// What an algorithm can do with a block of scores in the backward pass.
///
/// P are the weights of a block, dS the gradients of its scores; both lie in memory as the block's scores do. dQ, dK,
/// dV and dO are the gradients of query, key, value and output. dQ is summed over the keys of one region for each tile
/// of queries; dK and dV are summed over all tiles of queries.
protocol GradientTiles: ScoreTiles {
  /// The tiles of the forward pass that compute the scores.
  associatedtype Forward: ScoreTiles where Forward.Element == Element
  var forward: Forward { get }

  /// The rows of the current tile.
  var rows: GradientRows<Element> { get }

  /// `arrays` cuts the working memory out of one allocation; without an allocation, `arrays` only counts the bytes.
  init(_ gradients: GradientCall<Element>, _ arrays: inout ScratchArrays)

  var gradientMemory: GradientMemory<Element> { get }

  /// Some keys of a tile, in the type that attention computes in. `key`: the result of ``ScoreTiles/keys(_:_:_:)`` for
  /// the same keys, which may have another form.
  func nativeKeys(
    _ key: StoredMatrix<Element>, _ tile: QueryTile, _ keys: Range<Int>, _ set: IntervalSet
  ) -> StridedMatrix<Element>

  /// Sets dK and dV of a region of keys to 0.
  func beginRegion(_ keys: Range<Int>)

  /// Begins a tile of keys: `keys` are those of all blocks until ``endKeys(_:)``. Called after
  /// ``ScoreTiles/begin(_:)``, which sets dQ to 0.
  func beginKeys(_ keys: Range<Int>)

  /// Prepares the memory of a block, before its scores are computed.
  func prepare(_ block: Block<Element>, _ cut: BlockCut?)

  /// dS of a block.
  func scoreGradients(_ block: Block<Element>) -> UnsafeMutablePointer<Element>

  /// P ← exp(scores − log-sum-exp), and 0 where a row does not attend to a key.
  func computeWeights(_ block: Block<Element>, _ tile: QueryTile, _ cut: BlockCut?)

  /// dP ← dO Vᵀ, in the place of dS. `value`: the values of the block's keys.
  func computeWeightGradients(_ block: Block<Element>, _ cut: BlockCut?, _ value: StridedMatrix<Element>)

  /// dS ← P ∘ (dP − Δ).
  func computeScoreGradients(_ block: Block<Element>, _ cut: BlockCut?)

  /// dV += Pᵀ dO for a block, unless ``endKeys(_:)`` does it.
  func accumulateValue(_ block: Block<Element>)

  /// dQ += dS K, and dK += dSᵀ Q unless ``endKeys(_:)`` does it. `key`: the keys of the block.
  func accumulateQuery(_ block: Block<Element>, _ cut: BlockCut?, _ key: StridedMatrix<Element>)

  /// dV += Pᵀ dO and dK += dSᵀ Q over all blocks since ``beginKeys(_:)``, unless they were added block by block.
  func endKeys(_ tile: QueryTile)

  /// The sums of the tile of queries over the keys of the region: dQ, then each of the ``RowSums`` with a number for
  /// each row. The order is the same for all tiles.
  var querySums: UnsafeMutablePointer<Element> { get }
  /// The number of elements of ``querySums``. It depends only on the call.
  var querySumCount: Int { get }
  /// Where one of the ``RowSums`` begins in `sums`, with an element for each row of the tile. `sums` is laid out as
  /// ``querySums`` is.
  func rowSum(_ index: Int, in sums: UnsafeMutablePointer<Element>) -> UnsafeMutablePointer<Element>

  /// Writes dQ · scale to the query's gradient.
  func writeQuery(_ tile: QueryTile, _ sums: UnsafeMutablePointer<Element>)

  // MARK: Row by row

  /// True if the queries and the gradients of the output are finite, and no log-sum-exp and no Δ is NaN.
  func isSafe(_ tile: QueryTile) -> Bool
  /// dQ of a row of a group.
  func queryGradient(ofRow row: Int, group: Range<Int>) -> (base: UnsafeMutablePointer<Element>, columnStride: Int)
  func keyGradient(_ key: Int) -> UnsafeMutablePointer<Element>
  func valueGradient(_ key: Int) -> UnsafeMutablePointer<Element>
}

extension GradientTiles {
  static var needsMaximum: Bool { false }

  func nativeKeys(
    _ key: StoredMatrix<Element>, _: QueryTile, _: Range<Int>, _: IntervalSet
  ) -> StridedMatrix<Element> { key.native }

  var logSumExp: UnsafeMutablePointer<Element> { rows.logSumExp }
  var delta: UnsafeMutablePointer<Element> { rows.delta }
  func query(ofRow row: Int) -> UnsafePointer<Element> { rows.query.rows(row..<row + 1).base }
  func outputGradient(ofRow row: Int) -> UnsafePointer<Element> { rows.outputGradient.rows(row..<row + 1).base }
}

/// Scores are computed, and the rows of a tile are divided into groups, as in the forward pass.
extension GradientTiles {
  var memory: TileMemory<Element> { forward.memory }
  var scores: Forward.Scores { forward.scores }
  static func onWorker(_ kernels: Kernels<Element>, _ body: () -> Void) { Forward.onWorker(kernels, body) }
  var stripLength: Int { forward.stripLength }
  static var cutsRows: Bool { Forward.cutsRows }
  func paddedCount(_ rows: Range<Int>) -> Int { forward.paddedCount(rows) }

  func forEachGroup(_ tile: QueryTile, isRagged: Bool, _ body: (Range<Int>) -> Void) {
    forward.forEachGroup(tile, isRagged: isRagged, body)
  }

  func computeScores(
    _ block: Block<Element>, _ tile: QueryTile, _ key: StoredMatrix<Element>, adding bias: Operand?,
    maximum: UnsafeMutablePointer<Element>?, next: StoredMatrix<Element>?
  ) -> ScoreMaximum {
    forward.computeScores(block, tile, key, adding: bias, maximum: maximum, next: next)
  }

  func addsBias(_ bias: Operand) -> Bool { forward.addsBias(bias) }
}

/// What the backward pass reads for each row of one tile: the query, the gradient of its output, its log-sum-exp and
/// its Δ.
struct GradientRows<Element: AttentionElement> {
  /// The queries, and the gradients of the output, row by row.
  private(set) var query: StridedMatrix<Element>
  private(set) var outputGradient: StridedMatrix<Element>
  let logSumExp: UnsafeMutablePointer<Element>
  let delta: UnsafeMutablePointer<Element>
  private let packedQuery: UnsafeMutablePointer<Element>
  private let packedOutputGradient: UnsafeMutablePointer<Element>
  private let laneCount: Int

  /// `laneCount`: where rows are packed, each is filled up with 0 to a multiple of this number of elements.
  init(_ call: AttentionCall<Element>, rowCapacity: Int, laneCount: Int, _ arrays: inout ScratchArrays) {
    let shape = call.shape
    self.laneCount = laneCount
    packedQuery = arrays.take(rowCapacity * shape.headDimension.roundedUp(toMultipleOf: laneCount))
    packedOutputGradient = arrays.take(rowCapacity * shape.valueDimension.roundedUp(toMultipleOf: laneCount))
    logSumExp = arrays.take(rowCapacity)
    delta = arrays.take(rowCapacity)
    query = StridedMatrix(base: packedQuery, rowCount: 0, columnCount: 0, rowStride: 0, columnStride: 1)
    outputGradient = query
  }

  /// Reads the rows of a tile.
  mutating func read(_ tile: QueryTile, _ gradients: GradientCall<Element>) {
    let (call, shape) = (gradients.call, gradients.call.shape)
    query = rows(of: call.query, tile, call, columnCount: shape.headDimension, packedAt: packedQuery)
    outputGradient = rows(
      of: gradients.outputGradient, tile, call, columnCount: shape.valueDimension, packedAt: packedOutputGradient)
    tile.forEachHead(0..<tile.rowCount) { rows, head, query in
      let first = shape.row(batch: tile.batch, head: head, query: query)
      (logSumExp + rows.lowerBound).update(from: gradients.logSumExp + first, count: rows.count)
      (delta + rows.lowerBound).update(from: gradients.delta + first, count: rows.count)
    }
  }

  /// The rows of a tile of one head: in place where the products can read them, else packed.
  private func rows(
    of operand: Operand, _ tile: QueryTile, _ call: AttentionCall<Element>, columnCount: Int,
    packedAt pack: UnsafeMutablePointer<Element>
  ) -> StridedMatrix<Element> {
    let first = operand.row(batch: tile.batch, head: tile.heads.lowerBound, index: tile.queries.lowerBound)
    if operand.half == nil, operand.columnStride == 1, operand.lengthStride >= columnCount,
      operand.lengthStride <= Int(Int32.max), columnCount > 0,
      columnCount % laneCount == 0
    {
      return StridedMatrix(
        base: first.assumingMemoryBound(to: Element.self), rowCount: tile.rowCount, columnCount: columnCount,
        rowStride: operand.lengthStride, columnStride: 1)
    }
    let stride = columnCount.roundedUp(toMultipleOf: laneCount)
    for row in 0..<tile.rowCount {
      let target = pack + row * stride
      operand.copyRow(
        call.kernels, count: columnCount, from: first + row * operand.lengthStride * operand.elementByteCount,
        to: target)
      (target + columnCount).update(repeating: 0, count: stride - columnCount)
    }
    return StridedMatrix(
      base: pack, rowCount: tile.rowCount, columnCount: stride, rowStride: stride, columnStride: 1)
  }
}
