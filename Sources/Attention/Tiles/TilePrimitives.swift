internal import AttentionTensors

/// What an algorithm can do with a block of scores in the forward pass.
protocol TilePrimitives: ScoreTiles {
  /// `arrays` cuts the working memory out of one allocation; without an allocation, `arrays` only counts the bytes.
  init(_ call: AttentionCall<Element>, _ arrays: inout ScratchArrays)

  /// The online softmax of a block: scores become weights, and ``TileMemory/maximum``, `sum` and `rescale` are updated.
  ///
  /// `cut` says how the block is cut; nil: the intervals of all rows hold all keys of the block. `maximum` says whether
  /// ``TileMemory/newMaximum`` is already raised to the scores of the keys that every row attends to.
  func softmax(_ block: Block<Element>, _ tile: QueryTile, _ cut: BlockCut?, _ maximum: ScoreMaximum)

  /// result ← result · rescale + weights · V. For each row, values are added in the order of the keys, and the sum of a
  /// block starts at 0, so that the bits are the same however the block is cut.
  func accumulate(_ block: Block<Element>, _ cut: BlockCut?, _ value: StoredMatrix<Element>)

  /// Sets the result to 0 in rows for which no values were accumulated.
  func end(_ tile: QueryTile)

  /// True if every result of a tile is finite.
  func hasFiniteResult(_ tile: QueryTile) -> Bool

  /// Where the result of a row of a group begins, and the distance between its columns, in elements.
  func result(ofRow row: Int, group: Range<Int>) -> (base: UnsafeMutablePointer<Element>, columnStride: Int)

  /// Multiplies every row of the result by ``TileMemory/factor``, and writes it to the row's address in
  /// ``TileMemory/targets``.
  /// - Returns: The same as ``hasFiniteResult(_:)``.
  func writeResult(_ tile: QueryTile, columnStride: Int) -> Bool

  /// Announces the tile that follows the tile to be computed next, so that the keys of `next` can be prefetched.
  func expect(_ next: QueryTile)

  /// Writes the scores of a block to the addresses in ``TileMemory/targets``. Each address is that of the row's first
  /// attended key in the block.
  func writeScores(_ block: Block<Element>, _ tile: QueryTile)
}

extension TilePrimitives {
  static var needsMaximum: Bool { Scores.findsMaximum }
}
