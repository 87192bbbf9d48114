internal import AttentionTensors

/// The working memory that every algorithm needs for one worker. Arrays have one element for each row of a tile, unless
/// said otherwise.
struct TileMemory<Element: AttentionElement> {
  /// The greatest score so far.
  let maximum: UnsafeMutablePointer<Element>
  /// Σ exp(score − maximum).
  let sum: UnsafeMutablePointer<Element>
  /// The factor by which each row of the result is multiplied at the end, to become the weighted mean of the values.
  let factor: UnsafeMutablePointer<Element>
  /// For each row of a block: the greater of `maximum` and the scores of the block.
  let newMaximum: UnsafeMutablePointer<Element>
  /// For each row of a block, after its softmax: exp(old maximum − new maximum). The result of earlier blocks is
  /// multiplied by this factor.
  let rescale: UnsafeMutablePointer<Element>
  /// For each row of a block: where its attended keys begin and end, counted from the block's first key. These are
  /// whole numbers.
  let begin: UnsafeMutablePointer<Element>
  let end: UnsafeMutablePointer<Element>
  let normalized: NormalizedRows<Element>
  /// The addresses to which rows of results are written.
  let targets: UnsafeMutablePointer<UnsafeMutableRawPointer>
  /// The keys of each strip of a block.
  let strips: UnsafeMutablePointer<Range<Int>>
  /// A copy of a tile of values, in which a row is 0 if any of its elements is not finite.
  let finiteValue: UnsafeMutablePointer<Element>
  let modifiers: ModifierMemory<Element>

  init(_ call: AttentionCall<Element>, rowCapacity: Int, keyCapacity: Int, _ arrays: inout ScratchArrays) {
    // The ten arrays are parts of one array. To take ten arrays one by one would take measurable time in a call on a
    // few numbers.
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
