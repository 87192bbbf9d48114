internal import AttentionTensors

/// The working memory of ``ScoreModifiers``.
struct ModifierMemory<Element: AttentionElement> {
  /// Where rows of a mask, or of queries, lie.
  let rows: UnsafeMutablePointer<UnsafeRawPointer>
  /// Rows of a bias, of queries or of results in the type that is computed with, where they are stored in another.
  let converted: UnsafeMutablePointer<Element>
  /// One row of a boolean mask whose elements are not contiguous.
  let flags: UnsafeMutablePointer<UInt8>
  /// For each row of a block: its slope, and the key at which its query stands.
  let slope: UnsafeMutablePointer<Element>
  let position: UnsafeMutablePointer<Element>
  /// For each row of a block.
  let heads: UnsafeMutablePointer<Int32>
  let queries: UnsafeMutablePointer<Int32>

  init(_ call: AttentionCall<Element>, rowCapacity: Int, keyCapacity: Int, _ carver: inout Carver) {
    rows = carver.take(rowCapacity)
    var convertedCount = 0
    if call.query.half != nil { convertedCount = rowCapacity * call.shape.width }
    if call.outputs?.half != nil { convertedCount = max(convertedCount, rowCapacity * call.shape.valueWidth) }
    guard let terms = call.schedule.terms else {
      converted = carver.take(convertedCount)
      (flags, slope, position, heads, queries) = (
        carver.none(), carver.none(), carver.none(), carver.none(), carver.none()
      )
      return
    }
    for bias in terms.biases {
      convertedCount = max(convertedCount, bias.half == nil ? keyCapacity : rowCapacity * keyCapacity)
    }
    converted = carver.take(convertedCount)
    flags = carver.take(terms.booleans.isEmpty ? 0 : keyCapacity)
    let distanceCount = terms.distances.isEmpty ? 0 : rowCapacity
    slope = carver.take(distanceCount)
    position = carver.take(distanceCount)
    let functionCount = terms.functions.isEmpty ? 0 : rowCapacity
    heads = carver.take(functionCount)
    queries = carver.take(functionCount)
  }
}
