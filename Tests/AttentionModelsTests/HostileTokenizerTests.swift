import AttentionModels
import AttentionTensors
import AttentionTestSupport
import Foundation
import Testing

@Suite("Invalid tokenizer files throw errors that name the file")
struct HostileTokenizerTests {
  private let folder: TemporaryFolder
  init() throws { folder = try TemporaryFolder() }

  private static let members = [
    "model": ###"{"type": "WordPiece", "vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "##b": 4, "[": 7}}"###,
    "normalizer": #"{"type": "BertNormalizer"}"#,
    "pre_tokenizer": #"{"type": "BertPreTokenizer"}"#,
    "added_tokens": #"[{"id": 2, "content": "[SEP]"}]"#,
    "post_processor": template,
  ]
  private static let template = template(#"{"id": "[SEP]", "ids": [2]}"#)

  private static func template(_ separator: String) -> String {
    #"{"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[CLS]"}}, {"Sequence": {"id": "A"}}, "#
      + #"{"SpecialToken": {"id": "[SEP]"}}], "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [1]}, "#
      + #""[SEP]": \#(separator)}}"#
  }

  /// The tokenizer of a valid tokenizer.json, in which `changes` replaces some members.
  private func tokenizer(_ changes: [String: String] = [:]) throws -> WordPieceTokenizer {
    let members = Self.members.merging(changes) { $1 }.map { "\"\($0)\": \($1)" }
    return try tokenizer(file: Array("{\(members.joined(separator: ", "))}".utf8))
  }

  private func tokenizer(file: [UInt8], name: String = "tokenizer.json") throws -> WordPieceTokenizer {
    _ = try folder.write(file, to: name)
    return try WordPieceTokenizer(directory: folder.path)
  }

  @Test("valid files load")
  func right() throws {
    #expect(try tokenizer().encode("AB a[SEP]") == [1, 3, 4, 3, 2, 2])
    #expect(try tokenizer().vocabularySize == 8)
    let bert = #"{"type": "BertProcessing", "cls": ["[CLS]", 1], "sep": ["[SEP]", 2]}"#
    #expect(try tokenizer(["post_processor": bert]).encode("ab") == [1, 3, 4, 2])
    #expect(try tokenizer(["post_processor": "null", "added_tokens": "null"]).encode("ab") == [3, 4])
    #expect(try tokenizer(["normalizer": #"{"type": "BertNormalizer", "lowercase": false}"#]).encode("A") == [1, 0, 2])
  }

  @Test("ids that no token has stand for the unknown token")
  func gaps() throws {
    let sparse = try tokenizer(["model": #"{"vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 100000}}"#])
    #expect(sparse.vocabularySize == 100_001)
    #expect(sparse.token(5) == "[UNK]")
    #expect(sparse.encode("a") == [1, 100_000, 2])
  }

  @Test("vocab.txt restores a token that JSON loses because another one looks the same, and added tokens stay")
  func lookingAlike() throws {
    let lines = ["[UNK]", "[CLS]", "[SEP]", "e\u{301}", "\u{e9}", "a"]
    _ = try folder.write(Array(lines.joined(separator: "\n").utf8), to: "vocab.txt")
    let vocabulary = lines.enumerated().map { "\"\($1)\": \($0)" }.joined(separator: ", ")
    let added = #"[{"id": 9, "content": "[X]"}]"#
    let kept = #"{"type": "BertNormalizer", "strip_accents": false}"#
    let members = ["model": "{\"vocab\": {\(vocabulary)}}", "added_tokens": added, "normalizer": kept]
    let both = try tokenizer(members)
    #expect(both.encode("\u{e9} e\u{301} [X] x") == [1, 4, 3, 9, 0, 2])
    #expect(both.token(9) == "[X]" && both.token(7) == "[UNK]")
    // This vocab.txt does not have the vocabulary of the tokenizer.json.
    _ = try folder.write(Array("[UNK]\n[CLS]\n[SEP]\nb\n\u{e9}\nc\n".utf8), to: "vocab.txt")
    expectError("vocab.txt: the vocabulary of ", code: .invalidFile) { _ = try tokenizer(members) }
  }

  @Test(
    "any limit of the characters of a word is accepted without a trap",
    arguments: ["-9223372036854775808", "-1", "0", "1", "9223372036854775807"])
  func wordLimit(limit: String) throws {
    let vocabulary = ###""vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "##a": 4}"###
    let model = #"{\#(vocabulary), "max_input_chars_per_word": \#(limit)}"#
    let expected: [Int32] = limit.count == 19 ? [3, 4, 4] : [0]
    #expect(try tokenizer(["model": model]).encode("aaa") == [1] + expected + [2])
  }

  static let vocabulary = #""vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2"#
  static let lies: [(member: String, value: String, message: String)] = [
    ("model", "7", "model"), ("model", "{}", "\"vocab\" expected in model"), ("model", "null", "model"),
    ("model", #"{"type": "BPE", "vocab": {}}"#, "model of type \"WordPiece\" expected; got \"BPE\""),
    ("model", #"{"type": "Unigram", "vocab": [["a", -1.5]]}"#, "model of type \"WordPiece\" expected; got \"Unigram\""),
    ("model", #"{"type": 3, "vocab": {}}"#, "model.type"), ("model", #"{\#(vocabulary), "a": "3"}}"#, "model.vocab.a"),
    ("model", #"{\#(vocabulary), "a": 3.5}}"#, "whole numbers"),
    ("model", #"{\#(vocabulary), "a": null}}"#, "model.vocab.a"),
    ("model", #"{\#(vocabulary), "a": -1}}"#, "ids from 0 to 1048575 expected; got -1 to 2"),
    ("model", #"{\#(vocabulary), "a": 16777216}}"#, "got 0 to 16777216"),
    ("model", #"{\#(vocabulary), "a": 2147483648}}"#, "whole numbers"),
    ("model", #"{\#(vocabulary), "a": 1e300}}"#, "whole numbers"),
    ("model", #"{"vocab": {"[CLS]": 1, "[SEP]": 2}}"#, "the unknown token \"[UNK]\" expected in the vocabulary"),
    ("model", #"{\#(vocabulary)}, "unk_token": "<unk>"}"#, "the unknown token \"<unk>\" expected"),
    ("model", #"{\#(vocabulary)}, "unk_token": ""}"#, "the unknown token \"\" expected"),
    ("model", #"{"vocab": {}}"#, "vocabulary expected"),
    ("normalizer", "null", "normalizer of type \"BertNormalizer\" expected; got none"),
    ("normalizer", #"{"type": "Lowercase"}"#, "got \"Lowercase\""),
    ("normalizer", "{}", "\"type\" expected in normalizer"),
    ("normalizer", #"{"type": "BertNormalizer", "lowercase": "yes"}"#, "normalizer.lowercase"),
    ("pre_tokenizer", "null", "pre_tokenizer of type \"BertPreTokenizer\" expected"),
    ("pre_tokenizer", #"{"type": "Sequence"}"#, "got \"Sequence\""),
    ("post_processor", #"{"type": "RobertaProcessing"}"#, "got \"RobertaProcessing\""),
    ("post_processor", #"{"type": "BertProcessing", "cls": ["[CLS]", 1]}"#, "cls and sep expected"),
    ("post_processor", #"{"type": "BertProcessing", "cls": ["[CLS]", 1], "sep": [2, "[SEP]"]}"#, "post_processor.sep"),
    ("post_processor", #"{"type": "BertProcessing", "cls": ["[CLS]", 1], "sep": ["[SEP]", 8]}"#, "got 8"),
    ("post_processor", template(#"{"id": "[SEP]", "ids": [8]}"#), "ids of the vocabulary expected; got 8"),
    ("post_processor", template(#"{"id": "[SEP]", "ids": [5]}"#), "ids of the vocabulary expected; got 5"),
    ("post_processor", template(#"{"id": "[SEP]", "ids": [-1]}"#), "ids of the vocabulary expected; got -1"),
    ("post_processor", template(#"{"id": "[SEP]", "ids": [2e9, 1e99]}"#), "whole numbers"),
    (
      "post_processor", template(#"{"id": "[SEP]", "ids": [2]}"#).replacing(#""[SEP]": {"#, with: #""[END]": {"#),
      "the special token \"[SEP]\" expected"
    ),
    ("added_tokens", "{}", "added_tokens"), ("added_tokens", #"[{"content": "x"}]"#, "\"id\" expected in added_tokens"),
    ("added_tokens", #"[{"id": -3, "content": "x"}]"#, "got -3"),
    ("added_tokens", #"[{"id": 2147483647, "content": "x"}]"#, "got 0 to 2147483647"),
  ]

  @Test("wrong types, ids, kinds of model and special tokens in tokenizer.json", arguments: lies)
  func lie(member: String, value: String, message: String) {
    expectError(folder("tokenizer.json"), message) { _ = try tokenizer([member: value]) }
  }

  @Test(
    "files that are not a tokenizer.json at all",
    arguments: [
      "", " ", "null", "[]", "7", "{", "{}", "not JSON", "\u{0}", #"{"model": {"#,
      String(repeating: "[", count: 1_000_000),
      String(repeating: #"{"model":"#, count: 100_000),
    ])
  func noTokenizer(text: String) {
    expectError(folder("tokenizer.json"), code: .invalidFile) { _ = try tokenizer(file: Array(text.utf8)) }
  }

  @Test("bytes that are not UTF-8")
  func noUTF8() throws {
    expectError(folder("tokenizer.json"), code: .invalidFile) { _ = try tokenizer(file: [0x7b, 0xff, 0xfe, 0x7d]) }
    let other = try TemporaryFolder()
    let path = try other.write(Array("[UNK]\n[CLS]\n[SEP]\n".utf8) + [0xc3, 0x28, 0x0a], to: "vocab.txt")
    expectError(path, "UTF-8", code: .invalidFile) { _ = try WordPieceTokenizer(directory: other.path) }
  }

  @Test("a tokenizer.json that is cut off anywhere is an error and never traps")
  func cut() throws {
    let whole = [UInt8](try ModelCopy().read("tokenizer.json"))
    for count in stride(from: 0, to: whole.count - 1, by: 61) {
      expectError(folder("tokenizer.json")) { _ = try tokenizer(file: Array(whole[..<count])) }
    }
  }

  @Test("a vocabulary is the same if its lines end in CR LF, or if its last line has no line end")
  func lineEnds() throws {
    let lines = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "\u{301}", "é", "e\u{301}"]
    let expected = try tokenizer(file: Array((lines.joined(separator: "\n") + "\n").utf8), name: "vocab.txt")
    #expect(expected.encode("ab[MASK]") == [2, 5, 6, 4, 3])
    #expect(expected.vocabularySize == lines.count)
    for (separator, end) in [("\r\n", "\r\n"), ("\r\n", ""), ("\n", "")] {
      let other = try tokenizer(file: Array((lines.joined(separator: separator) + end).utf8), name: "vocab.txt")
      #expect(other.vocabularySize == lines.count)
      #expect((0..<Int32(lines.count)).map(other.token) == lines)
      #expect(other.encode("ab[MASK]") == expected.encode("ab[MASK]"))
    }
  }

  @Test("tokens that differ only in Unicode composition are two tokens of vocab.txt")
  func composition() throws {
    _ = try folder.write(Array(#"{"do_lower_case": false}"#.utf8), to: "tokenizer_config.json")
    let both = try tokenizer(file: Array("[UNK]\n[CLS]\n[SEP]\n\u{e9}\ne\u{301}\n".utf8), name: "vocab.txt")
    #expect(both.encode("\u{e9} e\u{301}") == [1, 3, 4, 2])
  }

  static let vocabularies: [(vocabulary: String, settings: String?, parts: [String])] = [
    ("", nil, ["vocab.txt"]), ("[UNK]\n[SEP]\n", nil, ["vocab.txt", "\"[CLS]\" expected"]),
    ("[UNK]\n[CLS]\n", nil, ["vocab.txt", "\"[SEP]\" expected"]),
    ("[CLS]\n[SEP]\n", nil, ["vocab.txt", "\"[UNK]\" expected"]),
    ("[UNK]\n[CLS]\n[SEP]\n", #"{"cls_token": "<s>"}"#, ["vocab.txt", "\"<s>\" expected"]),
    ("[UNK]\n[CLS]\n[SEP]\n", #"{"unk_token": {"content": "<u>"}}"#, ["vocab.txt", "\"<u>\" expected"]),
    ("[UNK]\n[CLS]\n[SEP]\n", #"{"cls_token": 7}"#, ["tokenizer_config.json", "cls_token"]),
    ("[UNK]\n[CLS]\n[SEP]\n", #"{"do_lower_case": "no"}"#, ["tokenizer_config.json", "do_lower_case"]),
    ("[UNK]\n[CLS]\n[SEP]\n", "", ["tokenizer_config.json"]),
  ]

  @Test("vocabularies without the required tokens, and wrong settings", arguments: vocabularies)
  func vocabulary(vocabulary: String, settings: String?, parts: [String]) throws {
    if let settings { _ = try folder.write(Array(settings.utf8), to: "tokenizer_config.json") }
    let error = expectError { _ = try tokenizer(file: Array(vocabulary.utf8), name: "vocab.txt") }
    for part in parts { #expect(error?.description.contains(part) == true, "\(part): \(error.debugDescription)") }
  }

  @Test("folders without a tokenizer, and paths that are not a folder")
  func folders() throws {
    expectError(folder.path, "tokenizer.json or vocab.txt", code: .notFound) {
      _ = try WordPieceTokenizer(directory: folder.path)
    }
    expectError("missing", code: .notFound) { _ = try WordPieceTokenizer(directory: folder("missing")) }
    let file = try folder.write([], to: "file")
    expectError(file, code: .notFound) { _ = try WordPieceTokenizer(directory: file) }
    try FileManager.default.createDirectory(atPath: folder("tokenizer.json"), withIntermediateDirectories: false)
    expectError(folder("tokenizer.json"), "regular file") { _ = try WordPieceTokenizer(directory: folder.path) }
  }
}
