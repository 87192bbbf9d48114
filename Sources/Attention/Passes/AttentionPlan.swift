internal import AttentionBLAS
internal import AttentionTensors

/// Which tile kernels carry out a call.
package enum TileStyle: String {
  /// Products by OpenBLAS.
  case openBLAS = "OpenBLAS"
  /// Queries along the lanes of vectors.
  case lanes
  /// Rows too few to fill the lanes, as in decoding: keys and values are streamed along them instead.
  case fewRows = "few rows"
}

/// How one call is carried out: which tile kernels, which tile sizes, how many pieces. Chosen here and
/// nowhere else, from shape, strides and mask alone, so that the bits of a result do not depend on threads.
package struct AttentionPlan: CustomStringConvertible {
  package let algorithm: AttentionAlgorithm
  package let tiles: TileStyle
  /// Queries of one head in a tile.
  package let queryTileLength: Int
  /// Query heads of a group in a tile, which share its keys.
  package let headsPerTile: Int
  /// Keys in a tile.
  package let keyTileLength: Int
  /// Bytes from one key or value to the next from which on a tile of them is copied.
  package let farRowByteCount: Int
  /// Parts into which the keys of a tile of queries are split, to be merged by their log-sum-exp.
  package let splitCount: Int
  /// Queries of a block, the unit in which a tile that the diagonal crosses is cut.
  package let blockLength: Int
  /// Tiles of queries along the length.
  package let queryTileCount: Int
  /// Tiles along the heads of one group.
  package let headTileCount: Int
  /// Key/value heads that take their turn at each tile of queries, where a mask is the same for all heads: what it says of
  /// these queries is then near. Divides their count.
  package let headRunLength: Int

  /// What one tile costs whatever its size, some 0.3 µs, in operations. Not tuned.
  private static let tileWork = 5e4

  /// Pieces of work: tiles of queries × splits.
  package let pieceCount: Int
  /// Pieces that are handed out together. What hands them out, and counts references, waits until all results so far have left
  /// for memory: one by one heads of 16 queries took 1.1 of the time.
  package let piecesPerRun: Int
  private let work: Double

  init<Element>(
    schedule: MaskSchedule<Element>, shape: AttentionShape, isStreamable: Bool, kernels: Kernels<Element>,
    context: AttentionContext
  ) {
    algorithm = context.resolvedAlgorithm
    let tuning = context.tuning
    blockLength = tuning.blockLength

    let length = max(shape.queryCount, 1)
    let group = max(shape.groupSize, 1)
    if length * 2 > tuning.rowTarget {
      headsPerTile = 1
      // Few heads and a moderate length: smaller tiles, for something to share.
      let others = shape.batchCount * shape.headCount
      var rows = tuning.rowTarget
      while rows > 48, others * ((length + rows - 1) / rows) < tuning.pieceTarget { rows /= 2 }
      // Tiles of even length, in multiples of 16: as many as come nearest to the wanted rows.
      let tiles = max(1, (length + rows / 2) / rows)
      queryTileLength = min(length, ((length + tiles - 1) / tiles + 15) / 16 * 16)
    } else {
      headsPerTile = min(group, max(1, tuning.rowTarget / length))
      queryTileLength = length
    }
    let isNarrow = headsPerTile * queryTileLength * tuning.fewRowDivisor <= kernels.laneCount
    tiles = algorithm == .openBLAS ? .openBLAS : isNarrow && isStreamable ? .fewRows : .lanes
    let keys = tuning.keyTileByteCount / MemoryLayout<Element>.stride
    keyTileLength = max(64, tiles == .lanes ? keys * kernels.vectorByteCount / 64 : keys)
    farRowByteCount = headsPerTile * queryTileLength < tuning.leastPackedRowCount ? .max : tuning.farRowByteCount
    queryTileCount = (length + queryTileLength - 1) / queryTileLength
    headTileCount = (group + headsPerTile - 1) / headsPerTile
    var run = 1
    if let mask = schedule.firstMatrix, mask.headStride == 0, queryTileCount > 1 {
      // Keys that are broadcast may be more than memory, and their bytes more than an Int.
      let keyByteCount = (shape.width + shape.valueWidth) * MemoryLayout<Element>.stride
      let headByteCount = Double(shape.keyCount) * Double(keyByteCount)
      run = max(1, Int(min(Double(shape.keyValueHeadCount), Double(tuning.headRunByteCount) / max(headByteCount, 1))))
      while shape.keyValueHeadCount % run != 0 { run -= 1 }
    }
    headRunLength = run
    let tileCount = shape.batchCount * shape.keyValueHeadCount * headTileCount * queryTileCount
    // What the mask leaves of the keys: of the longest tile, and of all together.
    var longest = shape.keyCount
    var total = Double(shape.batchCount * queryTileCount) * Double(shape.keyCount)
    if schedule.isStructured {
      longest = 0
      total = 0
      // Without lengths of their own, all elements of the batch are alike.
      let walked = schedule.differsByBatch ? shape.batchCount : min(shape.batchCount, 1)
      for batch in 0..<walked {
        for tile in 0..<queryTileCount where shape.queryCount > 0 {
          let queries = tile * queryTileLength..<min((tile + 1) * queryTileLength, shape.queryCount)
          let count = schedule.unionCount(batch: batch, queries: queries)
          longest = max(longest, count)
          total += Double(count) * Double(shape.batchCount / walked)
        }
      }
    }
    let wanted = (tuning.pieceTarget + tileCount - 1) / max(tileCount, 1)
    splitCount = max(1, min(wanted, longest / tuning.leastSplitLength))
    pieceCount = tileCount * splitCount
    let products =
      2 * Double(shape.width + shape.valueWidth) * Double(shape.headCount * queryTileLength) * total
    work = products + Double(pieceCount) * Self.tileWork
    // Of a call without pieces there is no work to divide by.
    let pieceWork = max(work / Double(max(pieceCount, 1)), Self.tileWork)
    piecesPerRun = max(1, min(pieceCount / 16, Int(ProductCut.leastPieceWork / pieceWork)))
  }

  var rowsPerTile: Int { headsPerTile * queryTileLength }

  /// The threads that are worth waking, of those there are.
  package func width(threadCount: Int) -> Int { work < ProductCut.leastSharedWork ? 1 : min(threadCount, pieceCount) }

  package var description: String {
    "\(algorithm.rawValue), \(tiles.rawValue): tiles of \(headsPerTile) × \(queryTileLength) queries by \(keyTileLength) keys, "
      + "\(splitCount) splits, \(pieceCount) pieces"
  }
}
