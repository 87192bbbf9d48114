import Attention
import AttentionProblems
import AttentionTestSupport
import Testing

/// Tests of how structural masks become intervals of keys. They compute no attention.
@Suite("Intervals of keys")
struct IntervalTests {
  private static let (B, L, S) = (2, 11, 17)

  /// Parts of masks by name, each with the number of interval sets that it needs.
  private static var parts: [(name: String, part: MaskPart, setCount: Int)] {
    let places = ReferencePlaces(L: L, S: S)
    return [
      ("causal", .band(.bottomRight, left: nil, right: 0, places), 1),
      ("top left", .band(.topLeft, left: nil, right: 0, places), 1),
      ("window", .band(.bottomRight, left: 3, right: 1, places), 1),
      ("window to the right", .band(.topLeft, left: 0, right: 4, places), 1),
      ("diagonals", .offsets([-3, 20]), 1), ("key lengths", .keyLengths([5, 17]), 1),
      ("no key", .keyLengths([0, 1]), 1), ("left padding", .leftPadding([2, 17]), 1),
      ("query lengths", .queryLengths([0, 7]), 1), ("prefix", .prefix([4, 0], places), 1),
      ("chunks", .chunks(4, places), 1), ("kept keys", .keepingFirst(2, left: 3, places), 2),
      ("documents", .documents(queries: [0, 3, 3, 11], keys: [0, 5, 9, 17], left: 2, right: 0), 1),
    ]
  }

  private func check(_ parts: [MaskPart], atMost setCount: Int, _ name: String) throws {
    let (B, L, S) = (Self.B, Self.L, Self.S)
    func zeros(_ length: Int) throws -> Tensor<Float> { try Tensor(repeating: 0, shape: [B, 1, length, 1]) }
    let problem = try AttentionProblem<Float>(
      query: zeros(L), key: zeros(S), value: zeros(S), mask: parts.mask(Float.self))
    func attends(_ b: Int, _ i: Int, _ j: Int) -> Bool { parts.allSatisfy { $0.attends(b, 0, i, j) } }
    for b in 0..<B {
      for i in 0..<L {
        let intervals = problem.intervals(batch: b, query: i)
        let keys = intervals.flatMap { Array($0) }
        #expect(keys.sorted() == (0..<S).filter { attends(b, i, $0) }, "\(name) [\(b), \(i)]")
        #expect(intervals.count <= setCount)
        // Set 0 holds the last interval, which is the nearest to the query.
        if !keys.isEmpty { #expect(intervals[0].upperBound == keys.max()! + 1, "\(name) [\(b), \(i)]") }
      }
      for queries in [0..<1, 2..<7, 0..<L] {
        let each = queries.map { problem.intervals(batch: b, query: $0) }
        for (set, bounds) in problem.boundsOfIntervals(batch: b, queries: queries).enumerated() {
          let own = each.map { $0[set] }
          let some = own.filter { !$0.isEmpty }
          let union = (some.map(\.lowerBound).min() ?? 0)..<(some.map(\.upperBound).max() ?? 0)
          #expect(bounds.union == union || union.isEmpty && bounds.union.isEmpty, "\(name) \(queries)")
          let common = (0..<S).filter { key in own.allSatisfy { $0.contains(key) } }
          #expect(Array(bounds.common) == common, "\(name) \(queries)")
        }
      }
    }
  }

  @Test("the intervals of a rule hold the keys that its definition allows", arguments: parts.indices)
  func rules(index: Int) throws {
    let (name, part, setCount) = Self.parts[index]
    try check([part], atMost: setCount, name)
  }

  @Test("the intervals of two rules hold the keys that both rules allow", arguments: parts.indices)
  func pairs(index: Int) throws {
    for other in Self.parts {
      let own = Self.parts[index]
      // Together with documents, the alignments bottom-right and top-left apply within each document. The reference of
      // this test applies them to the whole mask, so these pairs are left to other tests.
      let isAligned = { (name: String) in !["key lengths", "no key", "left padding", "query lengths"].contains(name) }
      if own.name == "documents" && isAligned(other.name) || other.name == "documents" && isAligned(own.name) {
        continue
      }
      // After left padding, chunks begin at the first key that is not padding. Other tests cover that.
      if [own.name, other.name].contains("chunks") && [own.name, other.name].contains("left padding") { continue }
      try check([own.part, other.part], atMost: own.setCount + other.setCount, "\(own.name), \(other.name)")
    }
  }
}
