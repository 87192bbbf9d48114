internal import AttentionTensors

/// What an algorithm can do with one block of scores. A pass owns the loops and calls these.
///
/// A conforming type is a value of a few words, because closures copy it. Its arrays are in memory that it points to. Each
/// worker has one.
protocol TilePrimitives: SendableMetatype {
  associatedtype Element: AttentionElement
  associatedtype Scores: ScoreLayout where Scores.Element == Element

  /// `arrays` cuts the working memory out of one allocation; without an allocation, `arrays` only counts the bytes. The
  /// size is the same for every tile of the call, and bounded for any number of queries and keys.
  init(_ call: AttentionCall<Element>, _ arrays: inout ScratchArrays)

  var memory: TileMemory<Element> { get }

  /// How scores lie, and what may be done to them.
  var scores: Scores { get }

  /// How many elements the memory of some rows of a group has, unused ones included.
  func paddedCount(_ rows: Range<Int>) -> Int

  /// The number of rows in a strip. A block is cut into strips where an edge of the mask crosses it.
  var stripLength: Int { get }

  /// Calls `body` with the thread settings that these primitives need.
  static func onWorker(_ body: () -> Void)

  /// True if rows that attend to different keys are divided into smaller groups.
  static var cutsRows: Bool { get }

  /// Calls `body` for the rows of a tile that are computed together; `isRagged` if they attend to different keys.
  func forEachGroup(_ tile: QueryTile, isRagged: Bool, _ body: (Range<Int>) -> Void)

  /// Packs the queries of a tile, multiplied by the scale, and discards the result of the previous tile.
  func begin(_ tile: QueryTile)

  /// Some keys of a tile, as the products read them.
  func keys(_ tile: QueryTile, _ keys: Range<Int>, _ set: IntervalSet) -> StoredMatrix<Element>

  /// The values of some keys, as the products read them; in the type that is computed with if `isNative`.
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

  /// The online softmax of a block: scores become weights, and ``TileMemory/maximum``, `sum` and `rescale` are updated.
  ///
  /// `cut` says how the block is cut; nil: every row attends to every key. `maximum` says whether ``TileMemory/newMaximum`` is
  /// the maximum of the scores that every row attends to.
  func softmax(_ block: Block<Element>, _ tile: QueryTile, _ cut: BlockCut?, _ maximum: ScoreMaximum)

  /// result ← result · rescale + weights · V. For each row, values are added in the order of the keys, and the sum of a
  /// block starts at 0, so that the bits are the same however the block is cut.
  func accumulate(_ block: Block<Element>, _ cut: BlockCut?, _ value: StoredMatrix<Element>)

  /// Sets the result of rows to 0 if nothing was accumulated.
  func end(_ tile: QueryTile)

  /// True if every result of a tile is finite.
  func hasFiniteResult(_ tile: QueryTile) -> Bool

  /// Where the result of a row of a group begins, and how far apart its columns lie.
  func result(ofRow row: Int, group: Range<Int>) -> (base: UnsafeMutablePointer<Element>, columnStride: Int)

  /// Multiplies every row of the result by ``TileMemory/factor``, and writes it to where ``TileMemory/targets`` says.
  /// - Returns: The same as ``hasFiniteResult(_:)``.
  func writeResult(_ tile: QueryTile, columnStride: Int) -> Bool

  /// Announces the tile after the one that is computed next, so that its keys can be prefetched.
  func expect(_ next: QueryTile)

  /// Writes the scores of a block to where ``TileMemory/targets`` says. Each row is written from its first attended key on.
  func writeScores(_ block: Block<Element>, _ tile: QueryTile)
}

/// What is known of the maximum of some scores.
enum ScoreMaximum {
  /// It was found while the scores were computed.
  case known
  /// It must still be found.
  case unknown
}
