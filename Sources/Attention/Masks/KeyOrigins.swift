/// Where sequences begin among the keys of one call.
///
/// Tiles and splits of keys are counted from the first key of their sequence: so a sequence has the same ones, and its results
/// the same bits, wherever it lies.
struct KeyOrigins {
  /// Keys after all sequences that every query attends to.
  let trailing: Range<Int>
  /// Of each sample, the keys that its left padding takes. Nil: none.
  private let firstKeys: [Int]?
  /// Where each packed document begins, and where the last one ends. Nil: no documents.
  private let documents: [Int]?

  init(_ mask: AttentionMask, keyCount: Int, shape: AttentionShape) {
    trailing = keyCount..<shape.keyCount
    documents =
      mask.rules.lazy.compactMap { if case .documents(_, let keys, _, _) = $0 { keys } else { nil } }.first
    firstKeys =
      mask.leftPaddings.isEmpty
      ? nil : (0..<shape.batchCount).map { batch in mask.leftPaddings.map { $0[batch] }.max()! }
  }

  func isTrailing(_ key: Int) -> Bool { key >= trailing.lowerBound }

  /// True if a row of keys may hold several sequences.
  var hasDocuments: Bool { documents != nil }

  /// The keys of the sequence that a key belongs to; empty ones before it do not count.
  func sequence(ofKey key: Int, batch: Int) -> Range<Int> {
    if key >= trailing.lowerBound { return trailing }
    let first = firstKeys?[batch] ?? 0
    guard let documents else { return key < first ? 0..<first : first..<trailing.lowerBound }
    var (low, high) = (0, documents.count - 1)
    if key >= documents[high] { return documents[high]..<trailing.lowerBound }
    while high - low > 1 {
      let middle = (low + high) / 2
      if documents[middle] <= key { low = middle } else { high = middle }
    }
    let document = documents[low]..<documents[low + 1]
    return document.contains(first) && key >= first ? first..<document.upperBound : document
  }
}
