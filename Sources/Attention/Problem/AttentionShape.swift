internal import AttentionTensors

/// The order of a tensor's axes. Rank 3 leaves out the batch, rank 2 the heads too: `[L, E]`.
public enum AttentionLayout: Sendable, Hashable {
  /// `[B, H, L, E]`, `[H, L, E]`: PyTorch's.
  case headsFirst
  /// `[B, L, H, E]`, `[L, H, E]`: what a projection gives, and JAX's.
  case lengthFirst

  /// A tensor's axes as `[B, H, L, E]`: a view.
  func canonical(_ shape: [Int], _ strides: [Int]) -> (shape: [Int], strides: [Int])? {
    guard (2...4).contains(shape.count) else { return nil }
    // Nothing to add or exchange, nor to allocate.
    if shape.count == 4 && self == .headsFirst { return (shape, strides) }
    let added = 4 - shape.count
    var shape = Array(repeating: 1, count: added) + shape
    var strides = Array(repeating: 0, count: added) + strides
    // Without heads there is nothing to exchange.
    if self == .lengthFirst && added < 2 {
      shape.swapAt(1, 2)
      strides.swapAt(1, 2)
    }
    return (shape, strides)
  }

  /// A canonical shape with as many axes as `rank`, in this layout.
  func shape(_ canonical: [Int], rank: Int) -> [Int] {
    var shape = canonical
    if self == .lengthFirst && rank > 2 { shape.swapAt(1, 2) }
    return rank == 4 ? shape : Array(shape.suffix(rank))
  }
}

/// Every extent of one call, named and checked once.
struct AttentionShape {
  static let subject = "scaledDotProductAttention"

  /// B.
  let batchCount: Int
  /// H: heads of the query.
  let headCount: Int
  /// Hk: heads of key and value. Query head h reads head h / (H / Hk).
  let keyValueHeadCount: Int
  /// L.
  let queryCount: Int
  /// S.
  let keyCount: Int
  /// E: width of query and key.
  let width: Int
  /// Ev: width of value and output.
  let valueWidth: Int

  /// Query heads that share a key/value head.
  var groupSize: Int { headCount / max(keyValueHeadCount, 1) }

  /// The number of a query among those of all heads and elements of the batch: its place in `[B, H, L]`.
  func row(batch: Int, head: Int, query: Int) -> Int { (batch * headCount + head) * queryCount + query }

  /// Names the extents of canonical `[B, H, L, E]` shapes.
  /// - Throws: `AttentionError` where they disagree.
  init(query: [Int], key: [Int], value: [Int]) throws(AttentionError) {
    func require(_ condition: Bool, _ rule: String) throws(AttentionError) {
      try requireShape(
        condition, Self.subject,
        "\(rule); got query \(query), key \(key), value \(value) as [batch, heads, length, width]")
    }
    try require(key[0] == query[0] && value[0] == query[0], "query, key and value need the same batch")
    try require(key[1] == value[1], "key and value need the same heads")
    try require(key[2] == value[2], "key and value need the same length")
    try require(key[3] == query[3], "query and key need the same width")
    try require(
      query[1] == key[1] || (key[1] > 0 && query[1] % key[1] == 0),
      "the query's heads must be a multiple of the key's and value's")
    // OpenBLAS counts in 32 bits; and sums of such lengths are Ints.
    func isCounted(_ extents: [Int]) -> Bool { extents.allSatisfy { $0 <= Int(Int32.max) } }
    try requireArgument(
      isCounted(query) && isCounted(key) && isCounted(value), Self.subject,
      "extents up to \(Int32.max) expected; got query \(query), key \(key), value \(value)")
    batchCount = query[0]
    headCount = query[1]
    keyValueHeadCount = key[1]
    queryCount = query[2]
    keyCount = key[2]
    width = query[3]
    valueWidth = value[3]
  }
}
