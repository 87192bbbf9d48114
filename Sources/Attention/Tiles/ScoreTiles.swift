internal import AttentionTensors

/// What an algorithm can do to compute the scores of a block. The passes, forward and backward, own the loops and call
/// these methods.
///
/// A conforming type is a value of a few words, because closures copy it. Each worker has one such value, which points
/// to the memory of its arrays. The size of that memory is the same for every tile of the call, and is bounded,
/// whatever the numbers of queries and keys.
protocol ScoreTiles: SendableMetatype {
  associatedtype Element: AttentionElement
  associatedtype Scores: ScoreLayout where Scores.Element == Element

  var memory: TileMemory<Element> { get }

  /// The layout of scores in memory, and the changes that may be made to them.
  var scores: Scores { get }

  /// True if ``computeScores`` shall find the maximum of the scores, which the online softmax needs.
  static var needsMaximum: Bool { get }

  /// The number of elements that arrays have for some rows of a group, including elements that fill up the last vector.
  func paddedCount(_ rows: Range<Int>) -> Int

  /// The number of rows in a strip. A block is cut into strips where an edge of the mask crosses it.
  var stripLength: Int { get }

  /// Calls `body` on the current thread, with the thread settings that these tiles need.
  static func onWorker(_ kernels: Kernels<Element>, _ body: () -> Void)

  /// True if the rows of a tile are divided into smaller groups where they attend to different keys.
  static var cutsRows: Bool { get }

  /// Calls `body` for each group of rows of a tile that are computed together. `isRagged` is true if the rows of the
  /// tile attend to different keys.
  func forEachGroup(_ tile: QueryTile, isRagged: Bool, _ body: (Range<Int>) -> Void)

  /// Packs the queries of a tile, multiplied by the scale, and discards what was computed for the previous tile.
  func begin(_ tile: QueryTile)

  /// Some keys of a tile, as the products read them.
  func keys(_ tile: QueryTile, _ keys: Range<Int>, _ set: IntervalSet) -> StoredMatrix<Element>

  /// The values of some keys, as the products read them. If `isNative`, they are in the type that attention computes
  /// in.
  func values(_ tile: QueryTile, _ keys: Range<Int>, _ set: IntervalSet, isNative: Bool) -> StoredMatrix<Element>

  /// A block of a group of rows by some keys.
  func block(group: Range<Int>, _ keyTile: KeyTile, isRagged: Bool, hasBlocks: Bool) -> Block<Element>

  /// scores ← scale · Q Kᵀ.
  ///
  /// `key`: the keys of the block. `bias`: a bias to add; ``addsBias(_:)`` must be true for it. `maximum`: an element
  /// for each row of the block, which may be raised to the row's scores; nil: no maximum is needed. The result says
  /// whether it was raised. `next`: values that are read soon, and may be prefetched.
  func computeScores(
    _ block: Block<Element>, _ tile: QueryTile, _ key: StoredMatrix<Element>, adding bias: Operand?,
    maximum: UnsafeMutablePointer<Element>?, next: StoredMatrix<Element>?
  ) -> ScoreMaximum

  /// True if ``computeScores`` can add a bias.
  func addsBias(_ bias: Operand) -> Bool
}

/// What is known of the maximum of some scores.
enum ScoreMaximum {
  /// It was found while the scores were computed.
  case known
  /// It must still be found.
  case unknown
}
