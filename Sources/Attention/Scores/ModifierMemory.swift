internal import AttentionTensors

/// The working memory of ``ScoreModifiers``.
struct ModifierMemory<Element: AttentionElement> {
  /// The addresses of rows of a mask or of queries.
  let rows: UnsafeMutablePointer<UnsafeRawPointer>
  /// Rows of a bias, of queries or of results in the type that attention computes in, if they are stored in another
  /// type. Also one row of a bias whose elements are not contiguous.
  let converted: UnsafeMutablePointer<Element>
  /// One row of a boolean mask whose elements are not contiguous.
  let flags: UnsafeMutablePointer<UInt8>
  /// For each row of a block: its ALiBi slope, and the position of its query among the keys, counted from the block's
  /// first key.
  let slope: UnsafeMutablePointer<Element>
  let position: UnsafeMutablePointer<Element>
  /// The head and the query of each row of a block.
  let heads: UnsafeMutablePointer<Int32>
  let queries: UnsafeMutablePointer<Int32>

  init(_ call: AttentionCall<Element>, rowCapacity: Int, keyCapacity: Int, _ arrays: inout ScratchArrays) {
    rows = arrays.take(rowCapacity)
    var convertedCount = 0
    if call.query.half != nil { convertedCount = rowCapacity * call.shape.headDimension }
    if call.outputs?.output.half != nil {
      convertedCount = max(convertedCount, rowCapacity * call.shape.valueDimension)
    }
    let functionCount = call.dropout != nil || call.schedule.terms?.functions.isEmpty == false ? rowCapacity : 0
    heads = arrays.take(functionCount)
    queries = arrays.take(functionCount)
    guard let terms = call.schedule.terms else {
      converted = arrays.take(convertedCount)
      (flags, slope, position) = (arrays.none(), arrays.none(), arrays.none())
      return
    }
    for bias in terms.biases {
      convertedCount = max(convertedCount, bias.half == nil ? keyCapacity : rowCapacity * keyCapacity)
    }
    converted = arrays.take(convertedCount)
    flags = arrays.take(terms.booleans.isEmpty ? 0 : keyCapacity)
    let distanceCount = terms.distances.isEmpty ? 0 : rowCapacity
    slope = arrays.take(distanceCount)
    position = arrays.take(distanceCount)
  }
}
