public import Attention

/// Where queries stand and sequences begin, for the reference: what parts of one mask say of each other.
///
/// A class: parts that are added first look at it when all are there.
public final class ReferencePlaces {
  private let L: Int
  private let S: Int
  /// Offsets of packed documents.
  public var documents: (queries: [Int], keys: [Int])?
  /// Left paddings of the samples.
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

  /// The key at which query i stands: in its document, if there are any.
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
