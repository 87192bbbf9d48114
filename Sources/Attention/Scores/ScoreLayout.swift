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
}
