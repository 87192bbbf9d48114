internal import AttentionTensors

/// The working memory of what changes scores.
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
    let (schedule, shape) = (call.schedule, call.shape)
    func count(_ isWanted: Bool, _ count: Int) -> Int { isWanted ? count : 0 }
    let biasCount = count(schedule.biases.contains { $0.half != nil }, rowCapacity * keyCapacity)
    rows = carver.take(rowCapacity)
    converted = carver.take(
      max(
        count(call.query.half != nil, rowCapacity * shape.width),
        count(call.outputs?.half != nil, rowCapacity * shape.valueWidth),
        biasCount, count(!schedule.biases.isEmpty, keyCapacity)))
    flags = carver.take(count(!schedule.booleans.isEmpty, keyCapacity))
    let distanceCount = count(!schedule.distances.isEmpty, rowCapacity)
    slope = carver.take(distanceCount)
    position = carver.take(distanceCount)
    let functionCount = count(!schedule.functions.isEmpty, rowCapacity)
    heads = carver.take(functionCount)
    queries = carver.take(functionCount)
  }
}
