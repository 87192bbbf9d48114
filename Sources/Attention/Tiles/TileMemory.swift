internal import AttentionTensors

/// The working memory of one worker that every algorithm needs, an element for each row of a tile unless said otherwise.
struct TileMemory<Element: AttentionElement> {
  /// The greatest score so far.
  let maximum: UnsafeMutablePointer<Element>
  /// Σ exp(score − maximum).
  let sum: UnsafeMutablePointer<Element>
  /// The factors that make each row of the result the mean of the values.
  let factor: UnsafeMutablePointer<Element>
  /// The maximum raised to the scores of the block at hand.
  let newMaximum: UnsafeMutablePointer<Element>
  /// exp(old maximum − new maximum): the factor for the results of earlier blocks, after the softmax of a block.
  let rescale: UnsafeMutablePointer<Element>
  /// The attended keys of each row of a block, counted from its first key: whole numbers.
  let begin: UnsafeMutablePointer<Element>
  let end: UnsafeMutablePointer<Element>
  let normalized: NormalizedRows<Element>
  /// Where rows of results go.
  let targets: UnsafeMutablePointer<UnsafeMutableRawPointer>
  /// The keys of each strip of a block.
  let strips: UnsafeMutablePointer<Range<Int>>
  /// A tile of values without those that are not finite.
  let finiteValue: UnsafeMutablePointer<Element>
  let modifiers: ModifierMemory<Element>

  init(_ call: AttentionCall<Element>, rowCapacity: Int, keyCapacity: Int, _ arrays: inout ScratchArrays) {
    // One array is cut into ten: cutting each by itself takes time that a call on a few numbers shows.
    let capacity = (rowCapacity + 15) / 16 * 16
    maximum = arrays.take((7 + NormalizedRows<Element>.arrayCount) * capacity)
    sum = maximum + capacity
    factor = maximum + 2 * capacity
    newMaximum = maximum + 3 * capacity
    rescale = maximum + 4 * capacity
    begin = maximum + 5 * capacity
    end = maximum + 6 * capacity
    normalized = NormalizedRows(maximum + 7 * capacity, capacity: capacity)
    targets = arrays.take(rowCapacity)
    strips = arrays.take(call.schedule.isRagged ? rowCapacity : 0)
    finiteValue = arrays.take(call.schedule.isHiding ? keyCapacity * call.shape.valueDimension : 0)
    modifiers = ModifierMemory(call, rowCapacity: rowCapacity, keyCapacity: keyCapacity, &arrays)
  }
}
