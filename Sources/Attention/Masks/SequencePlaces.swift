/// Where each sequence of a call begins and ends among the keys, and how many queries it has.
///
/// A sequence is an element of the batch without its padding, or one packed document. Tiles and splits of keys are counted from
/// the first key of their sequence. So a sequence has the same tiles, and its results the same bits, wherever it lies.
struct SequencePlaces {
  /// The keys that a layer adds at the end, to which every query attends.
  let trailing: Range<Int>
  /// Nil if each element of the batch is one sequence that begins at key 0 and has all queries of the call.
  private let table: Table?

  /// A class because a call copies its compiled mask for each thread: one reference is copied instead of four arrays.
  private final class Table: Sendable {
    /// The number of keys that are left padding, for each element of the batch. Nil: none.
    let firstKeys: [Int]?
    /// Where each packed document begins among the keys, and where the last one ends. Nil: no documents.
    let documents: [Int]?
    /// Where each packed document begins among the queries, and where the last one ends. Nil: no documents.
    let documentQueries: [Int]?
    /// The number of queries of each element of the batch. Nil: all of them.
    let queryCounts: [Int]?

    init(firstKeys: [Int]?, documents: [Int]?, documentQueries: [Int]?, queryCounts: [Int]?) {
      self.firstKeys = firstKeys
      self.documents = documents
      self.documentQueries = documentQueries
      self.queryCounts = queryCounts
    }
  }

  init(_ mask: AttentionMask, keyCount: Int, shape: AttentionShape) {
    trailing = keyCount..<shape.keyCount
    if mask.isNone {
      table = nil
      return
    }
    var (documents, documentQueries): ([Int]?, [Int]?)
    for rule in mask.rules {
      if documents == nil, case .documents(let queries, let keys, _, _) = rule {
        (documents, documentQueries) = (keys, queries)
      }
    }
    if documents == nil && mask.leftPaddings.isEmpty && mask.queryLengths.isEmpty {
      table = nil
      return
    }
    func each(_ counts: [[Int]], _ choose: ([Int]) -> Int) -> [Int]? {
      counts.isEmpty ? nil : (0..<shape.batchCount).map { batch in choose(counts.map { $0[batch] }) }
    }
    table = Table(
      firstKeys: each(mask.leftPaddings) { $0.max()! }, documents: documents, documentQueries: documentQueries,
      queryCounts: each(mask.queryLengths) { $0.min()! })
  }

  func isTrailing(_ key: Int) -> Bool { key >= trailing.lowerBound }

  /// True if a row of keys may hold several sequences.
  var hasDocuments: Bool { table?.documents != nil }

  /// How many queries an element of the batch has; nil if it has all queries of the call.
  func queryCount(batch: Int) -> Int? { table?.queryCounts?[batch] }

  /// The keys of the sequence that a key belongs to. Empty documents that begin at the same key are skipped.
  func sequence(ofKey key: Int, batch: Int) -> Range<Int> {
    if key >= trailing.lowerBound { return trailing }
    guard let table else { return 0..<trailing.lowerBound }
    let first = table.firstKeys?[batch] ?? 0
    guard let documents = table.documents else { return key < first ? 0..<first : first..<trailing.lowerBound }
    guard let own = QueryPlaces.document(at: key, documents) else {
      return documents[documents.count - 1]..<trailing.lowerBound
    }
    let document = documents[own]..<documents[own + 1]
    if !document.contains(first) { return document }
    return key < first ? document.lowerBound..<first : first..<document.upperBound
  }

  /// The queries of each sequence of an element of the batch, in order; together they are all queries.
  ///
  /// With left padding, the queries that stand before the first key that is not padding count as a sequence. So do the
  /// queries after the last document.
  func sequencesOfQueries(batch: Int, shape: AttentionShape) -> [Range<Int>] {
    var bounds = [0]
    if let documents = table?.documentQueries { bounds += documents }
    if let first = table?.firstKeys?[batch] { bounds.append(first + shape.queryCount - trailing.lowerBound) }
    bounds = bounds.map { min(max($0, 0), shape.queryCount) }.sorted() + [shape.queryCount]
    return zip(bounds, bounds.dropFirst()).filter { $0 < $1 }.map { $0..<$1 }
  }
}
