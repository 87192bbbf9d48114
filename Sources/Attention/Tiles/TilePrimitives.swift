internal import AttentionTensors

/// What an algorithm can do with one block of scores. A pass owns the loops and calls these.
///
/// A conforming type is a value of a few words, because closures copy it; its arrays are in memory. Each worker has one.
protocol TilePrimitives: SendableMetatype {
  associatedtype Element: AttentionElement
  associatedtype Scores: ScoreLayout where Scores.Element == Element

  /// `arrays` cuts the working memory out of a block; a arrays without a block only counts the bytes. The size is the same for every
  /// tile of the call, and bounded whatever the lengths.
  init(_ call: AttentionCall<Element>, _ arrays: inout ScratchArrays)

  var memory: TileMemory<Element> { get }

  /// How scores lie, and what may be done to them.
  var scores: Scores { get }

  /// How many elements the memory of some rows of a group has, unused ones included.
  func paddedCount(_ rows: Range<Int>) -> Int

  /// Rows of a strip, by which a block is cut where an edge of the mask crosses it.
  var stripLength: Int { get }

  /// Runs `body` with the settings of the thread that these primitives need.
  static func onWorker(_ body: () -> Void)

  /// True if rows that attend to different keys make smaller groups.
  static var cutsRows: Bool { get }

  /// Calls `body` for the rows of a tile that are computed together; `isRagged` if they attend to different keys.
  func forEachGroup(_ tile: QueryTile, isRagged: Bool, _ body: (Range<Int>) -> Void)

  /// Packs the queries of a tile, times the scale, and forgets the result of the tile before.
  func begin(_ tile: QueryTile)

  /// Some keys of a tile, as the products read them.
  func keys(_ tile: QueryTile, _ keys: Range<Int>, _ set: IntervalSet) -> StoredMatrix<Element>

  /// The values of some keys, as the products read them; in the type that is computed with if `isNative`.
  func values(_ tile: QueryTile, _ keys: Range<Int>, _ set: IntervalSet, isNative: Bool) -> StoredMatrix<Element>

  /// A block of a group of rows by some keys.
  func block(group: Range<Int>, _ keyTile: KeyTile, isRagged: Bool, hasBlocks: Bool) -> Block<Element>

  /// scores ← scale · Q Kᵀ.
  ///
  /// `key`: the keys of the block. `bias`: to be added; only one for which ``addsBias`` is true. `maximum`, an element for each
  /// row of the block, is raised to the scores, if it is not nil; the result says whether it was. `next`: values that are wanted
  /// soon.
  func computeScores(
    _ block: Block<Element>, _ tile: QueryTile, _ key: StoredMatrix<Element>, adding bias: Operand?,
    maximum: UnsafeMutablePointer<Element>?, next: StoredMatrix<Element>?
  ) -> ScoreMaximum

  /// True if ``computeScores`` can add a bias.
  func addsBias(_ bias: Operand) -> Bool

  /// The online softmax of a block: scores become weights, and ``TileMemory/maximum``, `sum` and `rescale` follow.
  ///
  /// `cut` says how the block is cut; nil: every row attends to every key. `maximum` says whether ``TileMemory/newMaximum`` is
  /// the maximum of the scores that every row attends to.
  func softmax(_ block: Block<Element>, _ tile: QueryTile, _ cut: BlockCut?, _ maximum: ScoreMaximum)

  /// result ← result · rescale + weights · V. For each row, values are added in the order of the keys, and the sum of a block
  /// starts at 0: however the block is cut, the bits are the same.
  func accumulate(_ block: Block<Element>, _ cut: BlockCut?, _ value: StoredMatrix<Element>)

  /// Makes the result 0 where nothing was accumulated.
  func end(_ tile: QueryTile)

  /// True if every result of a tile is finite.
  func hasFiniteResult(_ tile: QueryTile) -> Bool

  /// Where the result of a row of a group begins, and how far apart its columns lie.
  func result(ofRow row: Int, group: Range<Int>) -> (base: UnsafeMutablePointer<Element>, columnStride: Int)

  /// Writes every row of the result, times ``TileMemory/factor``, to where ``TileMemory/targets`` says.
  /// - Returns: What ``hasFiniteResult(_:)`` would.
  func writeResult(_ tile: QueryTile, columnStride: Int) -> Bool

  /// Says which tile comes after the one that is computed next, so that its keys can be prefetched.
  func expect(_ next: QueryTile)

  /// Writes the scores of a block to where ``TileMemory/targets`` says, a row's from its first attended key on.
  func writeScores(_ block: Block<Element>, _ tile: QueryTile)
}

/// What is known of the maximum of some scores.
enum ScoreMaximum {
  /// It was found while the scores were computed.
  case known
  /// It is to be looked for.
  case unknown
}
