internal import AttentionTensors

/// What may be done to the scores of a block, in one of the ways in which scores lie.
///
/// Each changes the scores that are attended to; what becomes of others does not matter.
protocol ScoreLayout {
  associatedtype Element: AttentionElement

  var call: AttentionCall<Element> { get }
  var memory: ModifierMemory<Element> { get }

  /// True if biases and boolean masks find the maximum of the scores that they leave: `maximum`, an element for each row, is
  /// then raised to them, if it is not nil.
  static var findsMaximum: Bool { get }

  /// score ← cap·tanh(score / cap).
  func softcap(_ block: Block<Element>, _ cap: Element)

  /// score ← score − slope·|position − key|, with ``ModifierMemory/slope`` and `position` of each row, keys counted from the
  /// block's first one.
  func subtractDistances(_ block: Block<Element>)

  /// score ← score + bias, or −inf where the bias is.
  func add(_ bias: Operand, to block: Block<Element>, _ tile: QueryTile, maximum: UnsafeMutablePointer<Element>?)

  /// score ← −inf where a boolean mask does not attend.
  func hide(_ boolean: Operand, in block: Block<Element>, _ tile: QueryTile, maximum: UnsafeMutablePointer<Element>?)

  /// score ← −inf where a block mask does not attend.
  func hide(_ mask: BlockMask, in block: Block<Element>, _ tile: QueryTile)
}
