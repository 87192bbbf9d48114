internal import AttentionTensors

/// The changes that may be made to the scores of a block, for one layout of scores in memory.
///
/// Each method changes the scores of the keys that are attended to. It may leave anything in the other scores.
protocol ScoreLayout {
  associatedtype Element: AttentionElement

  var call: AttentionCall<Element> { get }
  var memory: ModifierMemory<Element> { get }

  /// True if ``add(_:to:_:maximum:)`` and ``hide(_:in:_:maximum:)`` also find the maximum of the new scores. They then
  /// raise `maximum`, which has an element for each row, to these scores, unless it is nil.
  static var findsMaximum: Bool { get }

  /// score ← cap·tanh(score / cap).
  func softcap(_ block: Block<Element>, _ cap: Element)

  /// score ← score − slope·|position − key|. The slope and the position of each row are ``ModifierMemory/slope`` and
  /// `position`. Keys and positions are counted from the block's first key.
  func subtractDistances(_ block: Block<Element>)

  /// score ← score + bias; −inf where the bias is −inf.
  func add(_ bias: Operand, to block: Block<Element>, _ tile: QueryTile, maximum: UnsafeMutablePointer<Element>?)

  /// score ← −inf where a boolean mask does not attend.
  func hide(_ boolean: Operand, in block: Block<Element>, _ tile: QueryTile, maximum: UnsafeMutablePointer<Element>?)

  /// score ← −inf where a block mask does not attend.
  func hide(_ mask: BlockMask, in block: Block<Element>, _ tile: QueryTile)

  /// Dropout of numbers that lie as the scores of a block do. ``ModifierMemory/heads`` and `queries` hold the head and
  /// the query of each row.
  func dropOut(_ rule: DropoutRule, _ numbers: UnsafeMutablePointer<Element>, of block: Block<Element>, batch: Int)

  /// Calls `body` for the lines in which the scores of a block lie: the place of the line's first score, as an offset from
  /// `block.scores`, and the number of scores, which lie one after another.
  func forEachLine(of block: Block<Element>, _ body: (_ offset: Int, _ count: Int) -> Void)

  /// Calls `body` for every row of a block with its head, its query, the keys of its interval, and the row's numbers
  /// for these keys, one after another.
  ///
  /// `numbers`: the numbers of the block, which lie as its scores do. `memory`: where rows are written if `numbers`
  /// does not hold them one after another.
  func forEachRow(
    of block: Block<Element>, _ tile: QueryTile, _ numbers: UnsafeMutablePointer<Element>,
    _ memory: GradientMemory<Element>,
    _ body: (
      _ row: Int, _ head: Int, _ query: Int, _ keys: Range<Int>, _ numbers: UnsafePointer<Element>
    ) -> Void)
}

/// The working memory in which the numbers of a block are arranged row by row.
struct GradientMemory<Element: AttentionElement> {
  /// `[rows of a group, keys of a tile]`.
  let rows: UnsafeMutablePointer<Element>
  let rowStride: Int
  /// The addresses of these rows.
  let addresses: UnsafeMutablePointer<UnsafeMutableRawPointer>
  /// Factors of 1.
  let ones: UnsafeMutablePointer<Element>

  /// `isNeeded`: false if the scores of every row already lie one after another.
  init(rowCapacity: Int, keyCapacity: Int, isNeeded: Bool, _ arrays: inout ScratchArrays) {
    rowStride = keyCapacity
    rows = arrays.take(isNeeded ? rowCapacity * keyCapacity : 0)
    addresses = arrays.take(isNeeded ? rowCapacity : 0)
    ones = arrays.take(isNeeded ? rowCapacity : 0)
  }
}
