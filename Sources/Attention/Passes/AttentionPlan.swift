internal import AttentionBLAS
internal import AttentionTensors

/// How the tiles of a call are computed. In a forward pass each case stands for a type that conforms to
/// ``TilePrimitives``.
package enum TileStyle: String {
  /// Products by OpenBLAS.
  case openBLAS = "OpenBLAS"
  /// Queries along the lanes of vectors.
  case lanes
  /// Queries run along the lanes of vectors, and the operands of the products are split into BFloat16 parts.
  case matrix
  /// For too few rows to fill the lanes, as in decoding. Keys and values are streamed along the lanes instead.
  case fewRows = "few rows"

  var algorithm: AttentionAlgorithm {
    switch self {
    case .openBLAS: .openBLAS
    case .matrix: .matrix
    case .lanes, .fewRows: .packed
    }
  }
}

/// How one call is carried out: which algorithm, which tile sizes, how many tasks.
///
/// All of this is chosen here and nowhere else. The bits of a row of the results depend on the algorithm and on the
/// lengths of tiles and splits of keys. The algorithm and these lengths follow from the context's choice of algorithm,
/// the instruction set, the element type, the strides, the mask, and the numbers of queries, of keys and of query heads
/// in a group; never from the number of threads, nor from the number of elements in the batch. There are two
/// exceptions: with a ``BlockMask`` and with OpenBLAS's products, the bits of a row also depend on the rows that are
/// computed together with it. The rest of the plan only says which task computes what, and when.
package struct AttentionPlan: CustomStringConvertible {
  package let algorithm: AttentionAlgorithm
  package let tiles: TileStyle
  package let precision: AttentionPrecision
  /// The elements of the batch that this plan computes; nil: all.
  let batches: [Int]?
  /// The number of queries of one head in a tile.
  package let queryTileLength: Int
  /// The number of query heads in a tile. They belong to one group, so they share the group's keys.
  package let headsPerTile: Int
  /// The number of keys in a tile.
  package let keyTileLength: Int
  /// The number of keys in a split: a multiple of ``keyTileLength``. Each split has a ``RowState`` of its own, and the
  /// states of all splits are merged.
  package let splitLength: Int
  /// ``LaneTiles`` packs a tile of keys or values if its rows begin at least this many bytes apart.
  package let farRowByteCount: Int
  /// True if each worker needs memory for states: if it computes whole tiles of queries, and merges the states of
  /// several splits or adds sinks to them.
  package let needsStates: Bool
  /// The number of splits of a tile's keys, if each split is a task of its own; 1: a task computes whole tiles.
  package let splitsPerTile: Int
  /// The number of rows in a block, where an edge of the mask crosses a tile whose products OpenBLAS computes. Other
  /// tiles are not cut into blocks of this length.
  package let blockLength: Int
  /// The number of tiles into which the queries of a head are divided.
  package let queryTileCount: Int
  /// The number of tiles into which the heads of one group are divided.
  package let headTileCount: Int
  /// The number of key/value heads that are computed for one tile of queries before the next tile begins. It is a
  /// divisor of the number of key/value heads.
  ///
  /// The number is more than 1 only if the first bias or boolean mask is the same for all heads. The later heads then
  /// find the mask's rows for these queries in a cache.
  package let headTurnCount: Int

  /// The fixed cost of one tile, expressed as the number of operations that take the same time, some 0.3 µs. The number
  /// is an estimate, not tuned.
  private static let tileWork = 5e4
  /// The keys of the next tile are prefetched if the keys and values of the call have at least this many bytes in all.
  ///
  /// A CPU reads ahead only within a page. The keys and values of a small head begin on other pages than those of the
  /// head before, so without prefetching the CPU waits for them. For heads of 16 queries with E = 64, and 6.3 MB of
  /// keys and values in all, prefetching multiplies the time by 0.83 on two threads and by 0.74 on one (Zen 4,
  /// 2026-11). For heads of 32 queries with E = 32, and 3.1 MB, it multiplies the time by 1.05. E is the width of
  /// queries and keys.
  private static let farByteCount = 4e6

  /// The number of tiles of queries, of all heads and elements of the batch.
  package let tileCount: Int
  /// The number of tiles in a task. Several small tiles share a task, because every atomic operation of the executor
  /// drains the store buffer. With one tile in each task, calls with 16 queries take 10 % longer (Zen 4, 2026-11).
  package let tilesPerTask: Int
  /// True if the keys of the next tile of a task are prefetched while a tile is computed.
  package let expectsNextTile: Bool
  private let work: Double

  /// Returns the style of the tiles for elements of the batch that have many rows.
  private static func manyRows<Element>(_ kernels: Kernels<Element>, _ context: AttentionContext) -> TileStyle {
    if context.usesOpenBLAS(with: kernels.instructionSet) { return .openBLAS }
    return context.algorithm == .matrix && kernels.hasMatrix ? .matrix : .lanes
  }

  /// Calls `body` with each plan of a call. There are two plans if some elements of the batch have few rows and others
  /// do not.
  ///
  /// `isStreamable`: true if the tiles for few rows can stream the keys and the values along vectors.
  static func forEach<Element>(
    schedule: MaskSchedule<Element>, shape: AttentionShape, isStreamable: Bool, hasSinks: Bool,
    kernels: Kernels<Element>, context: AttentionContext, _ body: (AttentionPlan) throws -> Void
  ) rethrows {
    func plan(_ tiles: TileStyle, _ batches: [Int]? = nil) throws {
      try body(
        AttentionPlan(
          tiles, batches, schedule: schedule, shape: shape, hasSinks: hasSinks, kernels: kernels, context: context))
    }
    let many = manyRows(kernels, context)
    if many == .openBLAS { return try plan(many) }
    // Whether an element of the batch has few rows does not depend on the other elements. So each element is computed
    // as it would be alone.
    func hasFewRows(_ batch: Int) -> Bool {
      let queryCount = schedule.queryCount(batch: batch, of: shape)
      if queryCount == 0 || queryCount > kernels.laneCount { return false }
      let heads = min(shape.groupSize, max(1, context.tuning.rowTarget / queryCount))
      return heads * queryCount * context.tuning.fewRowDivisor <= kernels.laneCount
        // Rows are computed as few rows only if they have more keys than a vector has lanes. So self-attention of a few
        // tokens is never computed as few rows, whether it is alone or padded in a batch of longer sequences.
        && schedule.unionCount(batch: batch, queries: 0..<queryCount) > kernels.laneCount
    }
    if !isStreamable || shape.batchCount == 0 { return try plan(many) }
    if !schedule.differsByBatch { return try plan(hasFewRows(0) ? .fewRows : many) }
    let few = (0..<shape.batchCount).filter(hasFewRows)
    if few.isEmpty { return try plan(many) }
    if few.count == shape.batchCount { return try plan(.fewRows) }
    try plan(.fewRows, few)
    try plan(many, (0..<shape.batchCount).filter { !hasFewRows($0) })
  }

  private init<Element>(
    _ tiles: TileStyle, _ batches: [Int]?, schedule: MaskSchedule<Element>, shape: AttentionShape, hasSinks: Bool,
    kernels: Kernels<Element>, context: AttentionContext
  ) {
    algorithm = tiles.algorithm
    precision = context.precision
    self.tiles = tiles
    self.batches = batches
    let tuning = context.tuning
    blockLength = tuning.blockLength

    // For few rows, the length of a tile follows from the element of the batch that has the most queries.
    var longest = shape.queryCount
    if tiles == .fewRows {
      longest = 0
      for index in 0..<(batches?.count ?? shape.batchCount) {
        longest = max(longest, schedule.queryCount(batch: batches?[index] ?? index, of: shape))
      }
    }
    let length = max(longest, 1)
    let batchCount = batches?.count ?? shape.batchCount
    let group = max(shape.groupSize, 1)
    if length * 2 > tuning.rowTarget {
      headsPerTile = 1
      // If there are few heads and the length is moderate, tiles are smaller, so that there are enough of them to share
      // among threads.
      let others = batchCount * shape.headCount
      var rows = tuning.rowTarget
      while rows > 48, others * ((length + rows - 1) / rows) < tuning.taskTarget { rows /= 2 }
      // The tiles have nearly equal lengths, rounded up to a multiple of 16. Their number is `length / rows`, rounded
      // to the nearest integer.
      let tiles = max(1, (length + rows / 2) / rows)
      queryTileLength = min(length, ((length + tiles - 1) / tiles + 15) / 16 * 16)
    } else {
      headsPerTile = min(group, max(1, tuning.rowTarget / length))
      queryTileLength = length
    }
    let keys = tuning.keyTileByteCount / MemoryLayout<Element>.stride
    keyTileLength =
      switch tiles {
      case .lanes, .matrix: max(64, keys * kernels.vectorByteCount / 64)
      case .fewRows: keys
      // A tile has no more keys than OpenBLAS sums at once.
      case .openBLAS: keys / 2
      }
    farRowByteCount = headsPerTile * queryTileLength < tuning.leastPackedRowCount ? .max : tuning.farRowByteCount
    queryTileCount = (max(shape.queryCount, 1) + queryTileLength - 1) / queryTileLength
    headTileCount = (group + headsPerTile - 1) / headsPerTile
    var turns = 1
    if let mask = schedule.terms?.firstMatrix, mask.headStride == 0, queryTileCount > 1 {
      // The number of bytes is a Double: keys that are broadcast may have more bytes than fit in memory or than an Int
      // holds.
      let keyByteCount = (shape.headDimension + shape.valueDimension) * MemoryLayout<Element>.stride
      let headByteCount = Double(shape.keyCount) * Double(keyByteCount)
      turns = max(
        1, Int(min(Double(shape.keyValueHeadCount), Double(tuning.headTurnByteCount) / max(headByteCount, 1))))
      while shape.keyValueHeadCount % turns != 0 { turns -= 1 }
    }
    headTurnCount = turns
    splitLength = keyTileLength * max(1, tuning.splitLength(tiles == .fewRows) / keyTileLength)
    tileCount = batchCount * shape.keyValueHeadCount * headTileCount * queryTileCount
    // Count the keys that the mask leaves. `total` is the sum of their numbers over the tiles of one head and over the
    // elements of the batch. `splitCount` is the largest number of splits that a tile has.
    var total = Double(batchCount * queryTileCount) * Double(shape.keyCount)
    var splitCount = (shape.keyCount + splitLength - 1) / splitLength
    if schedule.isStructured || !schedule.otherSets.isEmpty {
      (splitCount, total) = (0, 0)
      // If intervals do not differ between elements of the batch, the tiles of one element stand for those of all.
      let walked = schedule.differsByBatch ? batchCount : min(batchCount, 1)
      for index in 0..<walked {
        let batch = batches?[index] ?? index
        for tile in 0..<queryTileCount where shape.queryCount > 0 {
          let queries = tile * queryTileLength..<min((tile + 1) * queryTileLength, shape.queryCount)
          total += Double(schedule.unionCount(batch: batch, queries: queries)) * Double(batchCount / walked)
          splitCount = max(
            splitCount, schedule.splitCount(batch: batch, queries: queries, length: splitLength))
        }
      }
    }
    let isShared = splitCount > 1 && tileCount < tuning.taskTarget && !schedule.sequences.hasDocuments
    splitsPerTile = isShared ? splitCount : 1
    needsStates = !isShared && (splitCount > 1 || hasSinks)
    let products =
      2 * Double(shape.headDimension + shape.valueDimension) * Double(shape.headCount * queryTileLength) * total
    work = products + Double(tileCount * splitsPerTile) * Self.tileWork
    // A call without tiles has no work, but the work of a tile is a divisor below.
    let tileWork = max(work / Double(max(tileCount, 1)), Self.tileWork)
    tilesPerTask = max(1, min(tileCount / 16, Int(ProductCut.leastTaskWork / tileWork)))
    let operandByteCount =
      Double(batchCount * shape.keyValueHeadCount) * Double(shape.keyCount)
      * Double((shape.headDimension + shape.valueDimension) * MemoryLayout<Element>.stride)
    expectsNextTile = tilesPerTask > 1 && shape.keyCount <= keyTileLength && operandByteCount >= Self.farByteCount
  }

  /// The plan of a backward pass.
  ///
  /// A tile of queries belongs to one head, even where several heads share keys. A tile of keys is a region of the
  /// backward pass: the gradients of its keys and values are computed together.
  init<Element>(
    gradientsOf shape: AttentionShape, schedule: MaskSchedule<Element>, kernels: Kernels<Element>,
    context: AttentionContext
  ) {
    let tuning = context.tuning
    let many = Self.manyRows(kernels, context)
    algorithm = many.algorithm
    tiles = many
    precision = context.precision
    batches = nil
    blockLength = tuning.blockLength
    headsPerTile = 1
    // Tiles are no longer than the longest sequence, because memory for `queryTileLength` rows is allocated however few
    // rows a tile has.
    let longest = (0..<shape.batchCount).reduce(0) { longest, batch in
      schedule.sequences.sequencesOfQueries(batch: batch, shape: shape).reduce(longest) { max($0, $1.count) }
    }
    queryTileLength = max(1, min(longest, tuning.gradientRowTarget))
    keyTileLength = tuning.gradientKeyTileLength
    farRowByteCount = queryTileLength < tuning.leastPackedRowCount ? .max : tuning.farRowByteCount
    queryTileCount = max(1, shape.queryCount.dividedRoundingUp(by: queryTileLength))
    headTileCount = max(1, shape.groupSize)
    headTurnCount = 1
    splitLength = keyTileLength
    splitsPerTile = 1
    needsStates = false
    tilesPerTask = 1
    expectsNextTile = false
    tileCount = shape.batchCount * shape.headCount * queryTileCount
    var keyCount = 0.0
    for batch in 0..<(schedule.differsByBatch ? shape.batchCount : min(shape.batchCount, 1)) {
      for tile in 0..<queryTileCount where shape.queryCount > 0 {
        let queries = tile * queryTileLength..<min((tile + 1) * queryTileLength, shape.queryCount)
        keyCount += Double(schedule.unionCount(batch: batch, queries: queries))
      }
    }
    if !schedule.differsByBatch { keyCount *= Double(shape.batchCount) }
    // The operations of the five products of a backward pass: three over the head dimension, two over the value
    // dimension.
    work =
      Double(6 * shape.headDimension + 4 * shape.valueDimension) * Double(shape.headCount * queryTileLength) * keyCount
      + Double(tileCount) * Self.tileWork
  }

  var rowsPerTile: Int { headsPerTile * queryTileLength }

  /// How many of the threads are worth waking.
  package func workerCount(threadCount: Int) -> Int {
    workerCount(threadCount: threadCount, taskCount: tileCount * splitsPerTile)
  }

  /// How many of the threads are worth waking for a number of tasks.
  func workerCount(threadCount: Int, taskCount: Int) -> Int {
    work < ProductCut.leastSharedWork ? 1 : max(1, min(threadCount, taskCount))
  }

  package var description: String {
    "\(algorithm.rawValue), \(tiles.rawValue): tiles of \(headsPerTile) × \(queryTileLength) queries by \(keyTileLength) keys, "
      + "\(tileCount) tiles"
      + (splitsPerTile > 1 ? " in \(splitsPerTile) splits" : "")
  }
}
