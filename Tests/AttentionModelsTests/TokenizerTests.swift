import AttentionModels
import AttentionTestSupport
import Foundation
import Testing

@Suite("WordPiece tokens")
struct TokenizerTests {
  private struct Case: Decodable {
    let text: String
    let ids: [Int32]
  }
  private let tokenizer: WordPieceTokenizer
  private let cases: [Case]

  init() throws {
    tokenizer = try WordPieceTokenizer(directory: Fixture.tokenizer)
    cases = try JSONDecoder().decode(
      [Case].self, from: Data(contentsOf: URL(fileURLWithPath: Fixture.tokenizer + "/cases.json")))
    try #require(cases.count == 300)
  }

  /// The tokens of the text, without the tokens that are added before and after it.
  private func inner(_ text: String) -> [Int32] { Array(tokenizer.encode(text).dropFirst().dropLast()) }

  @Test("ids are those of Hugging Face's tokenizers")
  func idsEqual() {
    for item in cases { #expect(tokenizer.encode(item.text) == item.ids, "\(item.text.debugDescription)") }
  }

  @Test("a maximum length keeps the first tokens and the token after the text")
  func maximumLength() {
    for item in cases {
      for length in 3...12 {
        let expected = item.ids.count <= length ? item.ids : item.ids.prefix(length - 1) + item.ids.suffix(1)
        #expect(
          tokenizer.encode(item.text, maximumLength: length) == expected, "\(length) \(item.text.debugDescription)")
      }
    }
  }

  @Test(
    "a maximum length without room for the text gives only the tokens around it, and no number traps",
    arguments: [Int.min, -1, 0, 1, 2])
  func noLength(length: Int) {
    #expect(tokenizer.encode("a man", maximumLength: length) == [101, 102])
  }

  @Test("the largest possible maximum length keeps all tokens")
  func largestLength() { #expect(tokenizer.encode("a man", maximumLength: .max) == tokenizer.encode("a man")) }

  @Test("tokenizer.json and vocab.txt of one model agree")
  func filesAgree() throws {
    let copy = try ModelCopy()
    try copy.remove("tokenizer.json")
    let fromVocabulary = try WordPieceTokenizer(directory: copy.path)
    let fromJSON = try WordPieceTokenizer(directory: Fixture.tiny)
    #expect(fromVocabulary.vocabularySize == 113)
    #expect(fromJSON.vocabularySize == 113)
    for id in Int32(-1)...113 { #expect(fromVocabulary.token(id) == fromJSON.token(id)) }
    var generator = TestGenerator(seed: 1)
    for text in cases.map(\.text) + generator.texts(300) {
      #expect(fromVocabulary.encode(text) == fromJSON.encode(text), "\(text.debugDescription)")
    }
  }

  @Test("ids outside of the vocabulary stand for the unknown token")
  func tokens() {
    #expect(tokenizer.vocabularySize == 30522)
    #expect(tokenizer.leastLength == 3)
    #expect(tokenizer.token(101) == "[CLS]")
    #expect(tokenizer.token(1037) == "a")
    for id in [Int32.min, -1, 30522, .max] { #expect(tokenizer.token(id) == "[UNK]") }
  }

  @Test("special tokens in a text are recognised, but only if they are complete")
  func specialTokens() {
    let (mask, separator) = (Int32(103), Int32(102))
    #expect(inner("[MASK]") == [mask])
    #expect(inner("a[MASK]man") == inner("a") + [mask] + inner("man"))
    #expect(inner("[SEP][SEP] [PAD]") == [separator, separator, 0])
    #expect(inner("[[SEP]]") == inner("[") + [separator] + inner("]"))
    #expect(inner("[CLS] [UNK]") == [101, 100])
    #expect(inner("e[SEP]\u{301}") == inner("e") + [separator])
    for text in ["[mask]", "[MASK", "[ MASK ]", "[MA\u{301}SK]"] {
      #expect(!inner(text).contains(mask), "\(text)")
      #expect(inner(text).count >= 2)
    }
  }

  @Test("words of more than 100 characters become the unknown token")
  func longWords() {
    for letter in ["a", "é", "ж"] {
      #expect(!inner(String(repeating: letter, count: 100)).contains(100))
      #expect(inner(String(repeating: letter, count: 101)) == [100])
    }
  }

  static let megabyte = 1 << 20
  /// Texts of one or two megabytes, and the number of tokens in each.
  static let longTexts: [(name: String, text: String, tokenCount: Int)] = [
    ("one word", String(repeating: "a", count: megabyte), 1),
    ("many words", String(repeating: "a ", count: megabyte / 2), megabyte / 2),
    ("a letter and accents", "e" + String(repeating: "\u{301}", count: 1_000_000), 1),
    ("a letter and accents of two classes", "e" + String(repeating: "\u{301}\u{323}", count: 250_000), 1),
    ("one word of emoji", String(repeating: "😀", count: megabyte / 4), 1),
    ("words of emoji", String(repeating: "😀 👩‍👩‍👧 ", count: megabyte / 24), megabyte / 24 * 2),
    ("ideographs", String(repeating: "中", count: megabyte / 3), megabyte / 3),
    ("punctuation", String(repeating: "!", count: megabyte), megabyte),
    ("special tokens", String(repeating: "[SEP]", count: megabyte / 5), megabyte / 5),
    ("half a special token", String(repeating: "[SEP", count: megabyte / 4), megabyte / 2),
    ("syllables", String(repeating: "한 ", count: megabyte / 4), megabyte / 4 * 3),
    ("blanks", String(repeating: " \u{3000}\t", count: megabyte / 5), 0),
    ("control characters", String(repeating: "\u{0}\u{200b}", count: megabyte / 4), 0),
  ]

  @Test("long texts have the right number of tokens, and no more than the maximum length", arguments: longTexts)
  func longText(name: String, text: String, tokenCount: Int) {
    let all = tokenizer.encode(text)
    #expect(all.count == tokenCount + 2)
    #expect(all.allSatisfy { (0..<30522).contains($0) })
    let few = tokenizer.encode(text, maximumLength: 16)
    #expect(few == (all.count <= 16 ? all : Array(all.prefix(15) + all.suffix(1))))
  }

  @Test(
    "random scalars never trap, and parts that are joined by spaces have the same tokens as each part by itself",
    arguments: 1...4 as ClosedRange<UInt64>)
  func randomScalars(seed: UInt64) {
    var generator = TestGenerator(seed: seed)
    let parts = (0..<2_000).map { _ in
      var scalars = String.UnicodeScalarView()
      for _ in 0..<Int.random(in: 0...300, using: &generator) { scalars.append(generator.scalar()) }
      return String(scalars)
    }
    let text = parts.joined(separator: " ")
    #expect(text.utf8.count > Self.megabyte / 2)
    let all = inner(text)
    #expect(all == parts.flatMap(inner))
    #expect(tokenizer.encode(text, maximumLength: 512) == [101] + all.prefix(510) + [102])
  }

  @Test("several threads at once get the same ids")
  func threads() async {
    let (tokenizer, cases) = (tokenizer, cases)
    let wrongCount = await withTaskGroup(of: Int.self) { group in
      for _ in 0..<8 {
        group.addTask { cases.count { tokenizer.encode($0.text) != $0.ids } }
      }
      return await group.reduce(0, +)
    }
    #expect(wrongCount == 0)
  }
}
