internal import AttentionTensors

/// What an algorithm can do to compute the scores of a block. The passes, forward and backward, own the loops and call
/// these methods.
///
/// A conforming type is a value of a few words, because closures copy it; each worker has one such value. Its arrays
/// are in memory that it points to. The size of that memory is the same for every tile of the call, and bounded for any
/// number of queries and keys.
protocol ScoreTiles: SendableMetatype {
  associatedtype Element: AttentionElement
  associatedtype Scores: ScoreLayout where Scores.Element == Element

  var memory: TileMemory<Element> { get }

  /// How scores lie, and what may be done to them.
  var scores: Scores { get }

  /// True if ``computeScores`` shall find the maximum of the scores, which the online softmax needs.
  static var needsMaximum: Bool { get }

  /// How many elements the memory of some rows of a group has, unused ones included.
  func paddedCount(_ rows: Range<Int>) -> Int

  /// The number of rows in a strip. A block is cut into strips where an edge of the mask crosses it.
  var stripLength: Int { get }

  /// Calls `body` with the settings of the thread that these primitives need.
  static func onWorker(_ kernels: Kernels<Element>, _ body: () -> Void)

  /// True if rows that attend to different keys are divided into smaller groups.
  static var cutsRows: Bool { get }

  /// Calls `body` for the rows of a tile that are computed together; `isRagged` if they attend to different keys.
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
  /// `key`: the keys of the block. `bias`: a bias to add; ``addsBias(_:)`` must be true for it. `maximum`: an element for
  /// each row of the block, which is raised to the scores unless it is nil. The result says whether it was raised. `next`:
  /// values that are read soon.
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
