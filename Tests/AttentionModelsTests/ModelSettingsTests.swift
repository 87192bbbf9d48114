import AttentionFiles
import AttentionModels
import AttentionTensors
import AttentionTestSupport
import Foundation
import Testing

/// The tiny model with other settings. `Tests/Fixtures/bert/settings.json` lists the settings, and the expected vectors
/// were computed by sentence-transformers.
struct SettingsVariant: Sendable, CustomTestStringConvertible {
  let name: String
  let prompt: String?
  /// The files that differ from the tiny model's. A content of nil means that the variant does not have the file.
  let files: [(name: String, content: String?)]
  /// The number of word embeddings to append. They are copies of those of tokens 10, 11, …
  let growth: Int
  /// Whether the tensors' names are those of Google's checkpoints.
  let hasOlderNames: Bool

  var testDescription: String { name }

  static let (texts, all) = load()

  private static func load() -> (texts: [String], all: [SettingsVariant]) {
    let path = Fixture.folder + "/bert/settings.json"
    guard let data = try? readBytes(path), let root = try? JSONSerialization.jsonObject(with: data) as? [String: Any],
      let texts = root["texts"] as? [String], let variants = root["variants"] as? [String: [String: Any]]
    else { return ([], []) }
    let all = variants.map { name, variant in
      let files = variant["files"] as? [String: Any] ?? [:]
      return SettingsVariant(
        name: name, prompt: variant["prompt"] as? String,
        files: files.sorted { $0.key < $1.key }.map { ($0, json($1)) }, growth: variant["grow"] as? Int ?? 0,
        hasOlderNames: variant["older_names"] as? Bool ?? false)
    }
    return (texts, all.sorted { $0.name < $1.name })
  }

  /// The JSON text of a value; nil if the value is null, which means that the variant does not have the file.
  private static func json(_ value: Any) -> String? {
    guard !(value is NSNull), let data = try? JSONSerialization.data(withJSONObject: value, options: .fragmentsAllowed)
    else { return nil }
    return String(decoding: data, as: UTF8.self)
  }

  /// Makes the folder of the variant: a copy of the tiny model's folder with the variant's changes.
  func make() throws -> ModelCopy {
    let copy = try ModelCopy()
    for (name, content) in files {
      if let content { try copy.write(content, to: name) } else { try copy.remove(name) }
    }
    if growth > 0 {
      try copy.set("vocab_size", to: "\(113 + growth)")
      try copy.editWeights { tensors in
        let words: [Float] = try tensors.values("embeddings.word_embeddings.weight")
        tensors.set(
          "embeddings.word_embeddings.weight", to: words + words[480..<480 + 48 * growth], shape: [113 + growth, 48])
      }
    }
    if hasOlderNames {
      try copy.editWeights { tensors in
        for name in tensors.names {
          var older = "bert." + name
          older = older.replacingOccurrences(of: "LayerNorm.weight", with: "LayerNorm.gamma")
          older = older.replacingOccurrences(of: "LayerNorm.bias", with: "LayerNorm.beta")
          (tensors[older], tensors[name]) = (tensors[name], nil)
        }
        tensors.set("cls.predictions.bias", to: [Float](repeating: 0, count: 113))
      }
    }
    return copy
  }
}

@Suite("Settings of sentence-transformers and its tokenizers")
struct ModelSettingsTests {
  @Test("vectors are those of sentence-transformers", arguments: SettingsVariant.all)
  func vectors(variant: SettingsVariant) async throws {
    let copy = try variant.make()
    let model = try SentenceEncoder(directory: copy.path)
    let reference = try SafeTensorsFile(contentsOf: Fixture.folder + "/bert/settings-reference.safetensors")
    let expected = try reference.tensor(variant.name, as: Float.self)
    let prompt = variant.prompt.map(EmbeddingPrompt.named) ?? .automatic
    let vectors = try model.embed(SettingsVariant.texts, prompt: prompt)
    #expect(vectors.shape == expected.shape)
    for (row, text) in SettingsVariant.texts.enumerated() {
      let (got, want) = (try vectors.select(row, axis: 0).array, try expected.select(row, axis: 0).array)
      // Pooling that divides a sum by √n gives larger vectors for longer texts.
      let size = max(1, want.reduce(0) { max($0, abs($1)) })
      let difference = mismatch(got, want.map(Double.init), tolerance: 2e-5 * Double(size), "\"\(text)\"")
      #expect(difference == nil)
    }
    // The embedder for servers must give the same bits.
    let embedder = try await TextEmbedder(model: model)
    let served = try await embedder.embed(SettingsVariant.texts, prompt: prompt)
    let isSame = sameBits(served.flatMap { $0 }, vectors.array)
    #expect(isSame)
  }

  @Test("the fixture has all variants")
  func count() {
    #expect(SettingsVariant.all.count >= 35)
  }

  @Test("prompts for search: queries and documents get the prompts of their roles, and unknown names throw")
  func roles() throws {
    let copy = try ModelCopy()
    try copy.write(
      #"{"prompts": {"query": "the ", "passage": "a ", "none": null}, "default_prompt_name": "none"}"#,
      to: "config_sentence_transformers.json")
    let model = try SentenceEncoder(directory: copy.path)
    func embed(_ text: String, _ prompt: EmbeddingPrompt) throws -> [Float] {
      try model.embed([text], prompt: prompt).array
    }
    #expect(try sameBits(embed("man", .query), embed("the man", .none)))
    #expect(try sameBits(embed("man", .document), embed("a man", .none)))
    #expect(try sameBits(embed("man", .automatic), embed("man", .none)))
    #expect(try sameBits(embed("man", .named("passage")), embed("man", .text("a "))))
    expectError("\"none\", \"passage\", \"query\"", "got \"nosuch\"", code: .invalidArgument) {
      _ = try embed("man", .named("nosuch"))
    }
    let plain = try SentenceEncoder(directory: Fixture.tiny)
    #expect(try sameBits(plain.embed(["man"], prompt: .query).array, plain.embed(["man"]).array))
    expectError("got \"query\"") { _ = try plain.embed(["man"], prompt: .named("query")) }
  }

  static let refusals: [(file: String, json: String, parts: [String])] = [
    ("modules.json", "[]", ["modules.json", "got none"]),
    (
      "modules.json", #"[{"type": "x.Transformer", "path": ""}, {"type": "x.Normalize", "path": "n"}]"#,
      ["got Transformer, Normalize"]
    ),
    (
      "modules.json",
      #"[{"type": "x.Transformer", "path": ""}, {"type": "x.Normalize", "path": "n"}, {"type": "x.Pooling", "path": "1_Pooling"}]"#,
      ["got Transformer, Normalize, Pooling"]
    ),
    (
      "modules.json", #"[{"type": "x.Pooling", "path": "1_Pooling"}, {"type": "x.Transformer", "path": ""}]"#,
      ["got Pooling, Transformer"]
    ),
    ("1_Pooling/config.json", #"{"pooling_mode_cls_token": false}"#, ["one way of pooling expected; got none"]),
    ("1_Pooling/config.json", #"{"pooling_mode": ["mean", "middle"]}"#, ["lasttoken", "got \"middle\""]),
    ("config_sentence_transformers.json", #"{"default_prompt_name": "query"}"#, ["default_prompt_name", "\"query\""]),
    ("config_sentence_transformers.json", #"{"similarity_fn_name": "maxsim"}"#, ["similarity_fn_name", "maxsim"]),
    ("config_sentence_transformers.json", #"{"truncate_dim": 0}"#, ["truncate_dim from 1 expected; got 0"]),
    ("config_sentence_transformers.json", #"{"prompts": {"a": 1}}"#, ["prompts.a"]),
    ("tokenizer_config.json", #"{"tokenizer_class": "MPNetTokenizer"}"#, ["tokenizer_class", "MPNetTokenizer"]),
    ("tokenizer_config.json", #"{"truncation_side": "top"}"#, ["truncation_side", "top"]),
    (
      "tokenizer_config.json", #"{"added_tokens_decoder": {"x": {"content": "a"}}}"#, ["added_tokens_decoder", "\"x\""]
    ),
    ("tokenizer_config.json", #"{"cls_token": "[NOSUCH]"}"#, ["[NOSUCH]"]),
    ("added_tokens.json", #"{"a": -1}"#, ["added_tokens.json", "-1"]),
    ("added_tokens.json", #"{"a": 2000000000}"#, ["2000000000"]),
    (
      "tokenizer.json", #"{"model": {"type": "Unigram", "vocab": [["a", 0.5]]}}"#,
      ["tokenizer.json", "model of type \"WordPiece\" expected; got \"Unigram\""]
    ),
  ]

  @Test("settings that are not supported or contradict each other throw, named in the error", arguments: refusals)
  func refused(file: String, json: String, parts: [String]) throws {
    let copy = try ModelCopy()
    try copy.write(json, to: file)
    let error = #expect(throws: AttentionError.self) { try SentenceEncoder(directory: copy.path) }
    for part in parts { #expect(error?.description.contains(part) == true, "\(error?.description ?? "")") }
  }

  @Test("errors say that a file is a git-lfs pointer or a web page, or that metadata holds a number")
  func notWhatItSeems() throws {
    let copy = try ModelCopy()
    try copy.write(
      "version https://git-lfs.github.com/spec/v1\noid sha256:0123456789abcdef\nsize 90868376\n",
      to: "model.safetensors")
    expectError("model.safetensors", "git-lfs", code: .invalidFile) { _ = try SentenceEncoder(directory: copy.path) }
    for page in ["<!DOCTYPE html><html>", "\n  <html lang=\"en\">", "<!doctype HTML>"] {
      try copy.write(page, to: "model.safetensors")
      expectError("model.safetensors", "HTML", code: .invalidFile) {
        _ = try SafeTensorsFile(contentsOf: copy("model.safetensors"))
      }
      try copy.write(page, to: "tokenizer.json")
      expectError("tokenizer.json", "HTML", code: .invalidFile) { _ = try WordPieceTokenizer(directory: copy.path) }
    }
    let header = #"{"__metadata__":{"format":"pt","version":3}}"#
    var bytes = withUnsafeBytes(of: UInt64(header.utf8.count).littleEndian, Array.init)
    bytes += Array(header.utf8)
    try copy.write(Data(bytes), to: "model.safetensors")
    expectError("__metadata__", "\"version\"", "a string", code: .invalidFile) {
      _ = try SafeTensorsFile(contentsOf: copy("model.safetensors"))
    }
  }
}
