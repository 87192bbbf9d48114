/// Where the sequences of one call lie: the keys of each, and how many queries it has.
///
/// Tiles and splits of keys are counted from the first key of their sequence: so a sequence has the same ones, and its results
/// the same bits, wherever it lies.
struct SequencePlaces {
  /// Keys after all sequences that every query attends to.
  let trailing: Range<Int>
  /// Nil: one sequence, from the first key on.
  private let table: Table?

  /// A class, and nil for most masks: a call copies it for each of its threads.
  private final class Table: Sendable {
    /// Of each element of the batch, the keys that its left padding takes. Nil: none.
    let firstKeys: [Int]?
    /// Where each packed document begins, and where the last one ends. Nil: no documents.
    let documents: [Int]?
    /// Of each element of the batch, how many queries it has. Nil: all of them.
    let queryCounts: [Int]?

    init(firstKeys: [Int]?, documents: [Int]?, queryCounts: [Int]?) {
      self.firstKeys = firstKeys
      self.documents = documents
      self.queryCounts = queryCounts
    }
  }

  init(_ mask: AttentionMask, keyCount: Int, shape: AttentionShape) {
    trailing = keyCount..<shape.keyCount
    if mask.rules.isEmpty && mask.leftPaddings.isEmpty && mask.queryLengths.isEmpty {
      table = nil
      return
    }
    let documents = mask.rules.lazy.compactMap { if case .documents(_, let keys, _, _) = $0 { keys } else { nil } }
      .first
    if documents == nil && mask.leftPaddings.isEmpty && mask.queryLengths.isEmpty {
      table = nil
      return
    }
    func each(_ counts: [[Int]], _ choose: ([Int]) -> Int) -> [Int]? {
      counts.isEmpty ? nil : (0..<shape.batchCount).map { batch in choose(counts.map { $0[batch] }) }
    }
    table = Table(
      firstKeys: each(mask.leftPaddings) { $0.max()! }, documents: documents,
      queryCounts: each(mask.queryLengths) { $0.min()! })
  }

  func isTrailing(_ key: Int) -> Bool { key >= trailing.lowerBound }

  /// True if a row of keys may hold several sequences.
  var hasDocuments: Bool { table?.documents != nil }

  /// The queries of an element of the batch that may attend to something; nil: all of them.
  func queryCount(batch: Int) -> Int? { table?.queryCounts?[batch] }

  /// The keys of the sequence that a key belongs to; empty ones before it do not count.
  func sequence(ofKey key: Int, batch: Int) -> Range<Int> {
    if key >= trailing.lowerBound { return trailing }
    guard let table else { return 0..<trailing.lowerBound }
    let first = table.firstKeys?[batch] ?? 0
    guard let documents = table.documents else { return key < first ? 0..<first : first..<trailing.lowerBound }
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
