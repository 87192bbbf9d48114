import Attention
import AttentionTestSupport
import Foundation
import Testing

@Suite("Drawings of masks")
struct MaskArticleTests {
  @Test("the drawings in the article are those that its masks give")
  func drawings() throws {
    let first: Tensor<Bool> = [true, true, false, true, false, true]
    let mask = AttentionMask.attending(first)
    let combined = AttentionMask.causal
      .combined(with: .window(left: 2, right: 0))
      .combined(with: .keyLengths([6, 4]))
    let dilated = try BlockMask(queryCount: 6, keyCount: 6) { at in at.key <= at.query && (at.query - at.key) % 2 == 0 }
    let every = AttentionMask.attending(dilated)
    let drawings = [
      try AttentionMask.none.drawing(queryCount: 4, keyCount: 6),
      try AttentionMask.causal.drawing(queryCount: 4, keyCount: 6),
      try AttentionMask.causal(.topLeft).drawing(queryCount: 4, keyCount: 6),
      try AttentionMask.window(left: 1, right: 1).drawing(queryCount: 4, keyCount: 6),
      try AttentionMask.window(left: 2, right: 0).drawing(queryCount: 6, keyCount: 6),
      try AttentionMask.window(left: 1, keepingFirst: 2).drawing(queryCount: 6, keyCount: 6),
      try AttentionMask.prefix([3]).drawing(queryCount: 5, keyCount: 5),
      try AttentionMask.causal.combined(with: .chunks(length: 3)).drawing(queryCount: 6, keyCount: 6),
      try AttentionMask.documents([0, 2, 5]).drawing(queryCount: 5, keyCount: 5),
      try AttentionMask.documents([0, 2, 5], right: 0).drawing(queryCount: 5, keyCount: 5),
      try AttentionMask.keyLengths([6, 4]).drawing(queryCount: 2, keyCount: 6, batchCount: 2),
      try AttentionMask.leftPadding([0, 3]).drawing(queryCount: 2, keyCount: 6, batchCount: 2),
      try AttentionMask.queryLengths([2, 1]).drawing(queryCount: 2, keyCount: 4, batchCount: 2),
      try AttentionMask.causal(.offsets([3, 1])).drawing(queryCount: 2, keyCount: 5, batchCount: 2),
      try mask.drawing(queryCount: 2, keyCount: 6),
      try every.drawing(queryCount: 6, keyCount: 6),
      try combined.drawing(queryCount: 6, keyCount: 6, batchCount: 2),
    ]
    print(try AttentionMask.causal.drawing(queryCount: 4, keyCount: 6))
    let article = try String(
      contentsOfFile: "\(packageFolder)/Sources/Attention/Attention.docc/Masks.md", encoding: .utf8)
    let drawn = article.components(separatedBy: "```text\n").dropFirst().map { $0.components(separatedBy: "\n```")[0] }
    #expect(drawn == drawings)
  }

  @Test("a bias combines with other masks, and forbids keys where it is −inf")
  func bias() throws {
    let distance = try Tensor<Float>(
      (0..<36).map { -0.5 * Float(abs($0 / 6 - $0 % 6)) }, shape: [1, 1, 6, 6])
    let biased = AttentionMask.causal.combined(with: .bias(distance))
    #expect(
      try biased.drawing(queryCount: 6, keyCount: 6) == AttentionMask.causal.drawing(queryCount: 6, keyCount: 6))
    let forbidding = try Tensor<Double>([0, -.infinity, 3], shape: [3])
    #expect(try AttentionMask.bias(forbidding).drawing(queryCount: 1, keyCount: 3) == "● · ●")
  }

  @Test("attendance gives a boolean mask with the same effect")
  func attendance() throws {
    let mask = AttentionMask.window(left: 3, right: 1).combined(with: .leftPadding([2, 0]))
    let x = try Tensor<Float>(uniform: -1..<1, shape: [2, 3, 9, 4], seed: 1)
    let flags = try mask.attendance(queryCount: 9, keyCount: 9, batchCount: 2, headCount: 3)
    #expect(flags.shape == [2, 3, 9, 9])
    let expected = try scaledDotProductAttention(query: x, key: x, value: x, mask: mask)
    let got = try scaledDotProductAttention(query: x, key: x, value: x, mask: .attending(flags))
    #expect(mismatch(got.array, expected.array.map(Double.init), tolerance: 1e-6) == nil)
    #expect(throws: AttentionError.self) { try mask.attendance(queryCount: 9, keyCount: 9) }
    #expect(throws: AttentionError.self) { try AttentionMask.none.drawing(queryCount: -1, keyCount: 2) }
    #expect(try AttentionMask.none.drawing(queryCount: 0, keyCount: 2) == "")
  }

  @Test("if heads have different masks, the first head's mask is drawn")
  func heads() throws {
    let flags = try Tensor<Bool>([true, false, false, true], shape: [1, 2, 1, 2])
    #expect(try AttentionMask.attending(flags).drawing(queryCount: 1, keyCount: 2) == "● ·")
  }

  @Test("a mask describes itself by its drawing")
  func descriptions() throws {
    #expect("\(AttentionMask.causal)" == (try AttentionMask.causal.drawing(queryCount: 8, keyCount: 8)))
    #expect("\(AttentionMask.documents([0, 1, 3]))" == "● · ·\n· ● ●\n· ● ●")
    #expect("\(AttentionMask.keyLengths([2, 1]))".hasSuffix("● ·"))
    let flags = try Tensor<Bool>([true, false, false, true], shape: [2, 2])
    #expect("\(AttentionMask.attending(flags))" == "● ·\n· ●")
    #expect("\(AttentionMask.keyLengths([1000]))" == "a mask of 1 × 8 queries by 1000 keys")
    // The description of a mask that no call accepts gives the extents without a drawing.
    #expect("\(AttentionMask.keyLengths([-1]).combined(with: .chunks(length: 0)))".hasPrefix("a mask of 1 × 8"))
  }
}
