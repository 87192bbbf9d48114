public import Attention

/// The keys at which queries stand and at which sequences begin, for the reference. All parts of one mask share one
/// object of this class, because documents and paddings change what the other parts mean.
///
/// It is a class, because a part may be made before the documents and paddings are known. The part reads them later.
public final class ReferencePlaces {
  private let L: Int
  private let S: Int
  /// The offsets of packed documents; nil if there are none.
  public var documents: (queries: [Int], keys: [Int])?
  /// For each left padding that the mask has: the number of padding keys in each sample.
  public var paddings: [[Int]] = []

  public init(L: Int, S: Int, documents: (queries: [Int], keys: [Int])? = nil, paddings: [[Int]] = []) {
    self.L = L
    self.S = S
    self.documents = documents
    self.paddings = paddings
  }

  private func document(_ i: Int) -> Int? {
    documents.flatMap { documents in
      (0..<documents.queries.count - 1).first {
        (documents.queries[$0]..<documents.queries[$0 + 1]).contains(i)
      }
    }
  }

  /// The key at which query i stands: on the diagonal of its document or, if it is in no document, of the whole mask.
  public func key(_ i: Int, _ alignment: AttentionMask.Alignment = .bottomRight) -> Int {
    if let documents, let d = document(i) {
      return alignment == .bottomRight
        ? i - documents.queries[d + 1] + documents.keys[d + 1] : i - documents.queries[d] + documents.keys[d]
    }
    return alignment == .bottomRight ? i + S - L : i
  }

  /// The first key of the sequence of query i in sample b.
  public func firstKey(_ b: Int, _ i: Int) -> Int {
    max(paddings.map { $0[b] }.max() ?? 0, document(i).map { documents!.keys[$0] } ?? 0)
  }
}
