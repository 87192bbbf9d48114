internal import AttentionTensors

/// How one call is carried out: which tile kernels, which tile sizes, how many pieces. Chosen here and
/// nowhere else, from shape and mask alone, so that the bits of a result do not depend on threads.
package struct AttentionPlan: Equatable, CustomStringConvertible {
  package let algorithm: AttentionAlgorithm
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

  /// Rows of a tile: 256 × 512 took 0.87 of the time of 128 × 512 and 0.69 of that of 32 × 512 (B1 H8
  /// L4096 E64, 2 threads, OpenBLAS 0.3.21 SkylakeX kernels on an EPYC of family 26, 2026-11).
  private static let rowTarget = 256
  /// Keys of a tile of 4-byte elements: 512 took 0.98 of the time of 256 and 0.95 of that of 128 (same run).
  /// A tile of scores then has 512 KiB, which stays in the second-level cache.
  private static let keyTileByteCount = 2048
  /// Widths beyond this get fewer rows, so that queries and results of a tile stay in the cache.
  private static let tileElementTarget = 256 * 256
  /// Pieces that are wanted at least, to keep some threads busy: from shapes, not from the threads there are.
  private static let pieceTarget = 16
  /// Keys that a split is worth.
  private static let leastSplitLength = 512
  private static let defaultBlockLength = 64
  /// Below this (some 100 µs) waking a second thread costs more than it brings.
  private static let leastSharedWork = 1.6e7
  /// What one tile costs whatever its size, in floating-point operations.
  private static let tileWork = 2e5

  /// Pieces of work to be handed out: tiles of queries × splits.
  package let pieceCount: Int
  private let work: Double

  init<Element>(schedule: MaskSchedule<Element>, shape: AttentionShape, algorithm: AttentionAlgorithm?) {
    self.algorithm = algorithm ?? .openBLAS
    let widest = max(shape.width, shape.valueWidth, 1)
    let rowTarget = max(32, min(Self.rowTarget, Self.tileElementTarget / widest))
    keyTileLength = max(64, Self.keyTileByteCount / MemoryLayout<Element>.stride)
    blockLength = Self.defaultBlockLength

    let length = max(shape.queryCount, 1)
    let group = max(shape.groupSize, 1)
    if length * 2 > rowTarget {
      headsPerTile = 1
      // Few heads and a moderate length: smaller tiles, for something to share.
      let others = shape.batchCount * shape.headCount
      var rows = rowTarget
      while rows > 64, others * ((length + rows - 1) / rows) < Self.pieceTarget { rows /= 2 }
      // Tiles of even length, in multiples of 16.
      let tiles = (length + rows - 1) / rows
      queryTileLength = min(length, ((length + tiles - 1) / tiles + 15) / 16 * 16)
    } else {
      headsPerTile = min(group, max(1, rowTarget / length))
      queryTileLength = length
    }
    queryTileCount = (length + queryTileLength - 1) / queryTileLength
    headTileCount = (group + headsPerTile - 1) / headsPerTile
    let tileCount = shape.batchCount * shape.keyValueHeadCount * headTileCount * queryTileCount
    // What the mask leaves of the keys: of the longest tile, and of all together.
    var longest = shape.keyCount
    var total = shape.batchCount * queryTileCount * shape.keyCount
    if schedule.isStructured {
      longest = 0
      total = 0
      for batch in 0..<shape.batchCount {
        for tile in 0..<queryTileCount where shape.queryCount > 0 {
          let queries = tile * queryTileLength..<min((tile + 1) * queryTileLength, shape.queryCount)
          let count = schedule.keyCount - schedule.maskedKeyCount + schedule.union(batch: batch, queries: queries).count
          longest = max(longest, count)
          total += count
        }
      }
    }
    let wanted = (Self.pieceTarget + tileCount - 1) / max(tileCount, 1)
    splitCount = max(1, min(wanted, longest / Self.leastSplitLength))
    pieceCount = tileCount * splitCount
    let products =
      2 * Double(shape.width + shape.valueWidth) * Double(shape.headCount * queryTileLength) * Double(total)
    work = products + Double(pieceCount) * Self.tileWork
  }

  var rowsPerTile: Int { headsPerTile * queryTileLength }

  /// The threads that are worth waking, of those there are.
  package func width(threadCount: Int) -> Int { work < Self.leastSharedWork ? 1 : min(threadCount, pieceCount) }

  package var description: String {
    "\(algorithm.rawValue): tiles of \(headsPerTile) × \(queryTileLength) queries by \(keyTileLength) keys, "
      + "\(splitCount) splits, \(pieceCount) pieces"
  }
}
