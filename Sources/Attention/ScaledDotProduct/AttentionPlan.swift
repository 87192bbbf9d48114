internal import AttentionBLAS
internal import AttentionTensors

/// Which tile kernels carry out a call.
enum TileStyle: String {
  /// Products by OpenBLAS.
  case openBLAS = "OpenBLAS"
  /// Queries along the lanes of vectors.
  case lanes
  /// Rows too few to fill the lanes, as in decoding: keys and values are streamed along them instead.
  case fewRows = "few rows"
}

/// How one call is carried out: which tile kernels, which tile sizes, how many pieces. Chosen here and
/// nowhere else, from shape and mask alone, so that the bits of a result do not depend on threads.
package struct AttentionPlan: CustomStringConvertible {
  package let algorithm: AttentionAlgorithm
  let tiles: TileStyle
  /// Queries of one head in a tile.
  package let queryTileLength: Int
  /// Query heads of a group in a tile, which share its keys.
  package let headsPerTile: Int
  /// Keys in a tile.
  package let keyTileLength: Int
  /// Parts into which the keys of a tile of queries are split, to be merged by their log-sum-exp.
  package let splitCount: Int
  /// Queries of a block, the unit in which a tile that the diagonal crosses is cut.
  package let blockLength: Int
  /// Tiles of queries along the length.
  package let queryTileCount: Int
  /// Tiles along the heads of one group.
  package let headTileCount: Int

  // Ratios of times below: medians of 11 alternating rounds of two builds of the runner, 2 threads of an EPYC
  // of family 26, OpenBLAS 0.3.21 with its Cooperlake kernels, 2026-11. (c: causal)

  /// Rows of a tile. 128 took 1.06 of the time at H8 L4096 E64, 1.05 at H12 L512 E64, 1.05 at H32/8 L2048 E128 c;
  /// 512 took 1.00, 1.01 and 0.98, with twice the scratch.
  private static let rowTarget = 256
  private static let packedRowTarget = 192
  /// Bytes of a row of scores. 512 Float keys took 0.98 of the time of 256 and 0.95 of that of 128 (H8 L4096 E64,
  /// in C on the same OpenBLAS). A tile of scores then has 512 KiB, which stays in the second-level cache.
  private static let keyTileByteCount = 2048
  /// Widths beyond 256 get fewer rows, so that a tile's queries and results stay in the cache. Not tuned.
  private static let tileElementTarget = 256 * 256
  /// Pieces that are wanted at least, to keep some threads busy; 8 took 1.00 of the time with two threads.
  private static let pieceTarget = 16
  /// Keys that a split is worth. 2048 took 1.04 of the time with one key/value head (S16384 E128), 1024 1.05.
  private static let leastSplitLength = 512
  /// Queries of a block where the diagonal crosses. 32 took 1.02 to 1.07 of the time (L4096 E64 c, L512 E64 c,
  /// H32/8 L2048 E128 c, L8192 E64 window 511), 128 0.99 to 1.00.
  private static let defaultBlockLength = 64
  /// What one tile costs whatever its size, about 1 µs, in operations.
  private static let tileWork = 2e5

  /// Pieces of work to be handed out: tiles of queries × splits.
  package let pieceCount: Int
  private let work: Double

  init<Element>(
    schedule: MaskSchedule<Element>, shape: AttentionShape, algorithm: AttentionAlgorithm, kernels: Kernels<Element>
  ) {
    self.algorithm = algorithm
    let widest = max(shape.width, shape.valueWidth, 1)
    let isPacked = algorithm == .packed
    let rowTarget =
      isPacked ? Self.packedRowTarget : max(32, min(Self.rowTarget, Self.tileElementTarget / widest))
    keyTileLength = max(64, Self.keyTileByteCount / MemoryLayout<Element>.stride)
    blockLength = Self.defaultBlockLength

    let length = max(shape.queryCount, 1)
    let group = max(shape.groupSize, 1)
    if length * 2 > rowTarget {
      headsPerTile = 1
      // Few heads and a moderate length: smaller tiles, for something to share.
      let others = shape.batchCount * shape.headCount
      var rows = rowTarget
      while rows > 48, others * ((length + rows - 1) / rows) < Self.pieceTarget { rows /= 2 }
      // Tiles of even length, in multiples of 16.
      let tiles = isPacked ? max(1, (length + rows / 2) / rows) : (length + rows - 1) / rows
      queryTileLength = min(length, ((length + tiles - 1) / tiles + 15) / 16 * 16)
    } else {
      headsPerTile = min(group, max(1, rowTarget / length))
      queryTileLength = length
    }
    let rowCount = headsPerTile * queryTileLength
    tiles = !isPacked ? .openBLAS : 2 * rowCount < kernels.laneCount ? .fewRows : .lanes
    queryTileCount = (length + queryTileLength - 1) / queryTileLength
    headTileCount = (group + headsPerTile - 1) / headsPerTile
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
          let count = schedule.keyCount - schedule.maskedKeyCount + schedule.union(batch: batch, queries: queries).count
          longest = max(longest, count)
          total += Double(count) * Double(shape.batchCount / walked)
        }
      }
    }
    let wanted = (Self.pieceTarget + tileCount - 1) / max(tileCount, 1)
    splitCount = max(1, min(wanted, longest / Self.leastSplitLength))
    pieceCount = tileCount * splitCount
    let products =
      2 * Double(shape.width + shape.valueWidth) * Double(shape.headCount * queryTileLength) * total
    work = products + Double(pieceCount) * Self.tileWork
  }

  var rowsPerTile: Int { headsPerTile * queryTileLength }

  /// The threads that are worth waking, of those there are.
  package func width(threadCount: Int) -> Int { work < ProductCut.leastSharedWork ? 1 : min(threadCount, pieceCount) }

  package var description: String {
    "\(algorithm.rawValue), \(tiles.rawValue): tiles of \(headsPerTile) × \(queryTileLength) queries by \(keyTileLength) keys, "
      + "\(splitCount) splits, \(pieceCount) pieces"
  }
}
