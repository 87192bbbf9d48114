internal import AttentionTensors

/// Where the queries of a call stand among its keys. Diagonals, distances and chunks are measured from these places.
///
/// A query stands at its key on the diagonal, which an `Alignment` places. If the mask has
/// ``AttentionMask/documents(_:keyOffsets:left:right:)``, each document has its own diagonal, as if it were the only
/// sequence: `.bottomRight` puts a document's last query at its last key, `.topLeft` its first query at its first key.
/// `.offsets` ignores documents.
struct QueryPlaces {
  private let queryCount: Int
  private let keyCount: Int
  /// Offsets of packed documents: where each begins, and where the last one ends. Nil: no documents.
  private let documents: (queries: [Int], keys: [Int])?
  /// For each element of the batch, the first key that is not padding. Nil: key 0.
  private let firstKeys: [Int]?

  init(_ mask: AttentionMask, keyCount: Int, shape: AttentionShape) {
    queryCount = shape.queryCount
    self.keyCount = keyCount
    documents =
      mask.rules.lazy.compactMap {
        if case .documents(let queries, let keys, _, _) = $0 { (queries, keys) } else { nil }
      }.first
    firstKeys =
      mask.leftPaddings.isEmpty
      ? nil : (0..<shape.batchCount).map { batch in mask.leftPaddings.map { $0[batch] }.max()! }
  }

  /// The key at which a query stands; it may lie before the first key or after the last.
  func key(ofQuery query: Int, batch: Int, _ alignment: AttentionMask.Alignment) -> Int {
    if case .offsets(let offsets) = alignment { return query + offsets[batch] }
    if let documents, let own = Self.document(at: query, documents.queries) {
      return alignment == .topLeft
        ? query - documents.queries[own] + documents.keys[own]
        : query - documents.queries[own + 1] + documents.keys[own + 1]
    }
    return alignment == .topLeft ? query : query + keyCount - queryCount
  }

  /// The first key of the query's sequence: of its document, or after its sample's left padding.
  func firstKey(ofQuery query: Int, batch: Int) -> Int {
    let first = firstKeys?[batch] ?? 0
    guard let documents, let own = Self.document(at: query, documents.queries) else { return first }
    return max(first, documents.keys[own])
  }

  /// The index of the document that holds a query or a key; nil after the end of the last document. `offsets` says where
  /// documents begin and where the last one ends. Empty documents are skipped.
  static func document(at place: Int, _ offsets: [Int]) -> Int? {
    var (low, high) = (0, offsets.count - 1)
    if place >= offsets[high] { return nil }
    while high - low > 1 {
      let middle = (low + high) / 2
      if offsets[middle] <= place { low = middle } else { high = middle }
    }
    return low
  }
}
