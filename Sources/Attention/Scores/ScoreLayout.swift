internal import AttentionTensors

/// The changes that may be made to the scores of a block, for one layout of scores in memory.
///
/// A method that changes scores changes those of the attended keys. It may leave anything in the other scores.
protocol ScoreLayout {
  associatedtype Element: AttentionElement

  var call: AttentionCall<Element> { get }
  var memory: ModifierMemory<Element> { get }

  /// True if ``add(_:to:_:maximum:)`` and ``hide(_:in:_:maximum:)`` also find the maximum of the new scores. `maximum`
  /// has an element for each row. Unless it is nil, these methods raise each element to the maximum of its row's new
  /// scores.
  static var findsMaximum: Bool { get }

  /// score ← cap·tanh(score / cap).
  func softcap(_ block: Block<Element>, _ cap: Element)

  /// score ← score − slope·|position − key|. The slope and the position of each row are ``ModifierMemory/slope`` and
  /// `position`. Keys and positions are counted from the block's first key.
  func subtractDistances(_ block: Block<Element>)

  /// score ← score + bias; −inf where the bias is −inf.
  func add(_ bias: Operand, to block: Block<Element>, _ tile: QueryTile, maximum: UnsafeMutablePointer<Element>?)

  /// score ← −inf where a boolean mask forbids the key.
  func hide(_ boolean: Operand, in block: Block<Element>, _ tile: QueryTile, maximum: UnsafeMutablePointer<Element>?)

  /// score ← −inf where a block mask forbids the key.
  func hide(_ mask: BlockMask, in block: Block<Element>, _ tile: QueryTile)

  /// Applies dropout to numbers that have the same layout as the scores of a block. ``ModifierMemory/heads`` and
  /// `queries` hold the head and the query of each row.
  func dropOut(_ rule: DropoutRule, _ numbers: UnsafeMutablePointer<Element>, of block: Block<Element>, batch: Int)

  /// Calls `body` for every line of a block. A line is a run of scores that lie one after another. `offset` is the
  /// place of its first score, counted from `block.scores`, and `count` is the number of its scores.
  func forEachLine(of block: Block<Element>, _ body: (_ offset: Int, _ count: Int) -> Void)

  /// Calls `body` for every row of a block with its head, its query, the keys of its interval, and the row's numbers
  /// for these keys, one after another. Rows without keys in the block are left out.
  ///
  /// `numbers`: the numbers of the block, in the same layout as its scores. `memory`: where rows are written if the
  /// numbers of a row do not lie one after another.
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
  /// An array of ones: the factors by which rows are multiplied when they are unpacked from lanes.
  let ones: UnsafeMutablePointer<Element>

  /// `isNeeded`: false if the scores of every row already lie one after another.
  init(rowCapacity: Int, keyCapacity: Int, isNeeded: Bool, _ arrays: inout ScratchArrays) {
    rowStride = keyCapacity
    rows = arrays.take(isNeeded ? rowCapacity * keyCapacity : 0)
    addresses = arrays.take(isNeeded ? rowCapacity : 0)
    ones = arrays.take(isNeeded ? rowCapacity : 0)
  }
}
