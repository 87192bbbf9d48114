public import AttentionTensors

/// A mask made from a function, which is evaluated once.
///
/// The mask stores whether each block of queries by keys is attended to in full, in part or not at all, and the flags of
/// the blocks that are attended to in part.
///
///     let blocks = try BlockMask(queryCount: 4096, keyCount: 4096) { at in at.key <= at.query && at.key % 7 != 3 }
///     for layer in layers { x = try layer(x, mask: .attending(blocks)) }
///
/// flex_attention's `create_block_mask` makes the same from a `mask_mod`. A block mask is immutable: calls, heads and
/// threads can share it. It takes 4 bytes for each block, and one byte for each score of a block that is attended to in
/// part.
public struct BlockMask: Sendable {
  /// The position of a score.
  public typealias Position = AttentionScoreTile<Float>.Position

  /// L: the number of queries.
  public let queryCount: Int
  /// S: the number of keys.
  public let keyCount: Int
  /// B, or 1 if elements of the batch are alike.
  public let batchCount: Int
  /// H, or 1 if heads are alike.
  public let headCount: Int
  /// The number of queries, and of keys, in a block.
  public let blockLength: Int

  let rowCount: Int
  let columnCount: Int
  /// `[B, H, rows, columns]`: ``empty``, ``full``, or the index of the block in ``flags``.
  private let states: Tensor<Int32>
  /// `[1 + partial blocks, blockLength, blockLength]`: 1 where the query attends. The first block is not a partial one: its
  /// first row is 0, for empty blocks, and its second row is 1, for full blocks.
  private let flags: Tensor<UInt8>

  static let empty: Int32 = -1
  static let full: Int32 = -2

  /// Evaluates `attends` for every query and key, for each of `batchCount` elements of the batch and `headCount` heads.
  ///
  /// - Parameters:
  ///   - queryCount: L.
  ///   - keyCount: S.
  ///   - batchCount: B, or 1 for one mask for the whole batch.
  ///   - headCount: H, or 1 for one mask for all heads.
  ///   - blockLength: The number of queries, and of keys, in a block: from 16 to 1024.
  ///   - context: The threads. `attends` is called on several of them at once.
  ///   - attends: True where the query may attend to the key.
  /// - Throws: `AttentionError` if an extent or `blockLength` is out of range, or if memory runs out.
  public init(
    queryCount: Int, keyCount: Int, batchCount: Int = 1, headCount: Int = 1, blockLength: Int = 64,
    context: AttentionContext = .default, attends: @escaping @Sendable (Position) -> Bool
  ) throws {
    let subject = "BlockMask"
    _ = try elementCount(of: [batchCount, headCount, queryCount, keyCount])
    try requireArgument(
      [batchCount, headCount, queryCount, keyCount].allSatisfy { $0 <= Int(Int32.max) }, subject,
      "extents up to \(Int32.max) expected; got \([batchCount, headCount, queryCount, keyCount])")
    try requireArgument(
      (16...1024).contains(blockLength), subject, "blocks of 16 to 1024 queries and keys expected; got \(blockLength)")
    self.queryCount = queryCount
    self.keyCount = keyCount
    self.batchCount = batchCount
    self.headCount = headCount
    self.blockLength = blockLength
    rowCount = (queryCount + blockLength - 1) / blockLength
    columnCount = (keyCount + blockLength - 1) / blockLength
    let (rowCount, columnCount) = (rowCount, columnCount)
    let lineCount = columnCount == 0 ? 0 : batchCount * headCount * rowCount
    try requireArgument(
      lineCount <= 1 << 26, subject, "at most \(1 << 26) rows of blocks expected; got \(lineCount)")
    let states = try Tensor<Int32>(uninitializedShape: [batchCount, headCount, rowCount, columnCount])
    // For each row of blocks of each head: the flags of its blocks that are attended to in part. They are copied into
    // `flags` below.
    var partials = [[UInt8]](repeating: [], count: lineCount)
    partials.withUnsafeMutableBufferPointer { partials in
      let partials = UncheckedSendable(partials)
      let target = UncheckedSendable(states.mutableBase)
      context.parallelFor(count: lineCount, nanosecondsPerItem: .infinity) { lines, _ in
        for line in lines {
          let (plane, row) = line.quotientAndRemainder(dividingBy: rowCount)
          let (batch, head) = plane.quotientAndRemainder(dividingBy: headCount)
          var own: [UInt8] = []
          for column in 0..<columnCount {
            var block = [UInt8](repeating: 0, count: blockLength * blockLength)
            var attended = 0
            let queries = row * blockLength..<min((row + 1) * blockLength, queryCount)
            let keys = column * blockLength..<min((column + 1) * blockLength, keyCount)
            for query in queries {
              let place = (query - queries.lowerBound) * blockLength - keys.lowerBound
              for key in keys where attends(Position(batch: batch, head: head, query: query, key: key)) {
                block[place + key] = 1
                attended += 1
              }
            }
            let isFull = attended == queries.count * keys.count
            let state = attended == 0 ? Self.empty : isFull ? Self.full : Int32(own.count / block.count)
            target.value[line * columnCount + column] = state
            if state >= 0 { own += block }
          }
          partials.value[line] = own
        }
      }
    }
    let blockCount = blockLength * blockLength
    let partialCount = partials.reduce(0) { $0 + $1.count } / blockCount
    try requireArgument(
      partialCount < Int(Int32.max), subject, "blocks up to \(Int32.max) expected; got \(partialCount)")
    flags = try Tensor(shape: [1 + partialCount, blockLength, blockLength]) { target in
      target.initialize(repeating: 0)
      for i in blockLength..<2 * blockLength { target[i] = 1 }
      var next = blockCount
      for partial in partials {
        for flag in partial {
          target[next] = flag
          next += 1
        }
      }
    }
    var first: Int32 = 1
    for line in 0..<lineCount {
      for column in 0..<columnCount {
        let place = states.mutableBase + (line * columnCount + column)
        if place.pointee >= 0 { place.pointee += first }
      }
      first += Int32(partials[line].count / blockCount)
    }
    self.states = states
  }

  /// The share of blocks that are empty, and so cost nothing.
  public var emptyShare: Double {
    states.count == 0 ? 0 : Double(states.array.count { $0 == Self.empty }) / Double(states.count)
  }

  /// The state of a block: ``empty``, ``full``, or its index in ``flags`` if it is attended to in part.
  func state(batch: Int, head: Int, row: Int, column: Int) -> Int32 {
    let plane = (batchCount == 1 ? 0 : batch) * headCount + (headCount == 1 ? 0 : head)
    return states.base[(plane * rowCount + row) * columnCount + column]
  }

  /// Calls `body` for every column of blocks that holds some of `keys`, with the column and those keys.
  func forEachColumn(of keys: Range<Int>, _ body: (_ column: Int, _ keys: Range<Int>) -> Void) {
    var low = keys.lowerBound
    while low < keys.upperBound {
      let column = low / blockLength
      let high = min(keys.upperBound, (column + 1) * blockLength)
      body(column, low..<high)
      low = high
    }
  }

  /// The flags of one query for the keys of one column of blocks: `blockLength` bytes, 1 where the query attends.
  func row(batch: Int, head: Int, query: Int, column: Int) -> UnsafePointer<UInt8> {
    let (row, place) = query.quotientAndRemainder(dividingBy: blockLength)
    switch state(batch: batch, head: head, row: row, column: column) {
    case Self.empty: return flags.base
    case Self.full: return flags.base + blockLength
    case let partial: return flags.base + (Int(partial) * blockLength + place) * blockLength
    }
  }
}

extension BlockMask: CustomStringConvertible {
  /// A drawing of the blocks of the first head and the first element of the batch: █ full, ▒ attended to in part, · empty.
  public var description: String {
    if states.count == 0 { return "" }
    return (0..<rowCount).map { row in
      (0..<columnCount).map { column in
        switch state(batch: 0, head: 0, row: row, column: column) {
        case Self.empty: "·"
        case Self.full: "█"
        default: "▒"
        }
      }.joined()
    }.joined(separator: "\n")
  }
}
