internal import AttentionTensors

/// Every extent of one call, named and checked once.
struct AttentionShape {
  static let subject = "scaledDotProductAttention"

  /// B: the number of elements of the batch.
  let batchCount: Int
  /// H: the number of heads of the query.
  let headCount: Int
  /// Hk: the number of heads of key and value. Query head h reads head h / (H / Hk).
  let keyValueHeadCount: Int
  /// L: the number of queries of a head.
  let queryCount: Int
  /// S: the number of keys of a head.
  let keyCount: Int
  /// E: the head dimension, that of query and key.
  let headDimension: Int
  /// Ev: the value dimension, that of value and output.
  let valueDimension: Int

  /// The number of query heads that share a key/value head.
  var groupSize: Int { headCount / max(keyValueHeadCount, 1) }

  /// The index of a query among those of all heads and elements of the batch: its place in `[B, H, L]`.
  func row(batch: Int, head: Int, query: Int) -> Int { (batch * headCount + head) * queryCount + query }

  /// Names the extents of canonical `[B, H, L, E]` shapes.
  /// - Throws: `AttentionError` if they disagree.
  init(query: [Int], key: [Int], value: [Int]) throws(AttentionError) {
    func require(_ condition: Bool, _ rule: String) throws(AttentionError) {
      try requireShape(
        condition, Self.subject,
        "\(rule); got query \(query), key \(key), value \(value) as [batch, heads, length, dimension]")
    }
    try require(key[0] == query[0] && value[0] == query[0], "query, key and value need the same batch")
    try require(key[1] == value[1], "key and value need the same heads")
    try require(key[2] == value[2], "key and value need the same length")
    try require(key[3] == query[3], "query and key need the same head dimension")
    try require(
      query[1] == key[1] || (key[1] > 0 && query[1] % key[1] == 0),
      "the query's heads must be a multiple of the key's and value's")
    // Extents must fit in 32 bits, because OpenBLAS counts in 32 bits. Sums of such extents then also fit in an Int.
    func isCounted(_ extents: [Int]) -> Bool { extents.allSatisfy { $0 <= Int(Int32.max) } }
    try requireArgument(
      isCounted(query) && isCounted(key) && isCounted(value), Self.subject,
      "extents up to \(Int32.max) expected; got query \(query), key \(key), value \(value)")
    batchCount = query[0]
    headCount = query[1]
    keyValueHeadCount = key[1]
    queryCount = query[2]
    keyCount = key[2]
    headDimension = query[3]
    valueDimension = value[3]
  }
}
