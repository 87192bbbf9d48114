import AttentionModels
import AttentionTensors
import AttentionTestSupport
import Foundation
import Testing

@Suite("Wrong settings in a model's folder throw an error that names them")
struct ModelFolderTests {
  private let copy: ModelCopy
  init() throws { copy = try ModelCopy() }

  private func load() throws { _ = try SentenceEncoder(directory: copy.path) }

  static let numbers: [(key: String, value: String?, message: String)] = [
    ("hidden_size", "0", "hidden_size from 1"), ("hidden_size", "-48", "hidden_size from 1"),
    ("hidden_size", "16777217", "hidden_size from 1"), ("hidden_size", "9223372036854775807", "hidden_size from 1"),
    ("hidden_size", "1e30", "whole numbers"), ("hidden_size", "48.5", "whole numbers"),
    ("hidden_size", "\"48\"", "hidden_size"),
    ("hidden_size", "null", "hidden_size"), ("hidden_size", nil, "\"hidden_size\" expected in the file"),
    ("hidden_size", "49", "divides by num_attention_heads expected; got 49 and 3"),
    ("num_attention_heads", "0", "num_attention_heads from 1"),
    ("num_attention_heads", "-3", "num_attention_heads from 1"),
    ("num_attention_heads", "5", "divides by num_attention_heads expected; got 48 and 5"),
    ("num_attention_heads", "96", "divides by num_attention_heads expected; got 48 and 96"),
    ("num_hidden_layers", "-1", "num_hidden_layers from 0"),
    ("num_hidden_layers", "1001", "num_hidden_layers from 0 to 1000"),
    ("num_hidden_layers", "9223372036854775807", "num_hidden_layers from 0"),
    ("intermediate_size", "0", "intermediate_size from 1"), ("intermediate_size", "-80", "intermediate_size from 1"),
    ("intermediate_size", "99999999999", "intermediate_size from 1"), ("vocab_size", "0", "vocab_size from 1"),
    ("vocab_size", "-1", "vocab_size from 1"), ("vocab_size", "4294967409", "vocab_size from 1"),
    ("max_position_embeddings", "0", "max_position_embeddings from 1"),
    ("max_position_embeddings", "-40", "max_position_embeddings from 1"),
    ("type_vocab_size", "0", "type_vocab_size from 1"),
    ("type_vocab_size", "-2", "type_vocab_size from 1"), ("layer_norm_eps", "-1e-12", "layer_norm_eps from 0"),
    ("layer_norm_eps", "\"small\"", "layer_norm_eps"), ("layer_norm_eps", "1e999", "valid JSON"),
    (
      "hidden_act", "\"mish\"",
      "hidden_act one of gelu, gelu_new, gelu_pytorch_tanh, relu, silu, swish expected; got \"mish\""
    ),
    ("hidden_act", "1", "hidden_act"), ("model_type", "\"roberta\"", "model_type \"bert\" expected; got \"roberta\""),
    ("position_embedding_type", "\"relative_key\"", "got \"relative_key\""),
    ("is_decoder", "true", "is_decoder is true"),
  ]

  @Test("invalid numbers and unknown kinds in config.json", arguments: numbers)
  func configuration(key: String, value: String?, message: String) throws {
    try copy.set(key, to: value)
    expectError(copy("config.json"), message) { try load() }
  }

  static let others: [(key: String, value: String, parts: [String])] = [
    ("hidden_size", "96", ["embeddings.word_embeddings.weight is [113, 48], [113, 96] expected"]),
    ("hidden_size", "16777215", ["embeddings.LayerNorm.weight is [48], [16777215] expected"]),
    (
      "intermediate_size", "16777216",
      ["encoder.layer.0.intermediate.dense.weight is [80, 48], [16777216, 48] expected"]
    ),
    ("vocab_size", "16777216", ["embeddings.word_embeddings.weight is [113, 48], [16777216, 48] expected"]),
    (
      "max_position_embeddings", "16777216",
      ["embeddings.position_embeddings.weight is [40, 48], [16777216, 48] expected"]
    ),
    ("type_vocab_size", "3", ["embeddings.token_type_embeddings.weight is [2, 48], [3, 48] expected"]),
    ("num_hidden_layers", "1", ["encoder.layer.1.output.dense.bias [48] is unknown"]),
    ("num_hidden_layers", "3", ["encoder.layer.2.output.dense.bias [48] is missing"]),
  ]

  @Test("numbers that the weights contradict are an error, before memory for them is allocated", arguments: others)
  func contradictions(key: String, value: String, parts: [String]) throws {
    try copy.set(key, to: value)
    #if os(Linux)
      let before = processByteCount("VmHWM")
    #endif
    let error = expectError(copy("model.safetensors"), code: .invalidFile) { try load() }
    for part in parts { #expect(error?.message.contains(part) == true, "\(error.debugDescription)") }
    #if os(Linux)
      // The bound leaves room for other tests that run at the same time.
      #expect(processByteCount("VmHWM") - before < 1 << 30)
    #endif
  }

  @Test("the only hidden states of a model without layers are its embeddings")
  func noLayers() throws {
    try copy.set("num_hidden_layers", to: "0")
    try copy.editWeights { tensors in
      for name in tensors.names where name.hasPrefix("encoder.") { tensors[name] = nil }
    }
    let model = try SentenceEncoder(directory: copy.path)
    let whole = try SentenceEncoder(directory: Fixture.tiny)
    let trace = try model.encoder.trace([2, 69, 3])
    #expect(trace.hiddenStates == [try whole.encoder.trace([2, 69, 3]).hiddenStates[0]])
    #expect(trace.attentions.isEmpty)
  }

  @Test("members of config.json that may be left out")
  func defaults() throws {
    for key in [
      "hidden_act", "model_type", "position_embedding_type", "is_decoder", "layer_norm_eps", "type_vocab_size",
    ] {
      try copy.set(key, to: nil)
    }
    let (model, whole) = (try SentenceEncoder(directory: copy.path), try SentenceEncoder(directory: Fixture.tiny))
    #expect(model.encoder.configuration == whole.encoder.configuration)
  }

  @Test(
    "files that are missing, are not JSON, or are folders",
    arguments: ["config.json", "tokenizer.json", "modules.json", "1_Pooling/config.json", "sentence_bert_config.json"])
  func files(name: String) throws {
    for text in ["", "[", "\"text\"", "{\"a\":", String(repeating: "[", count: 100_000)] {
      try copy.write(text, to: name)
      expectError(copy(name), code: .invalidFile) { try load() }
    }
    try copy.write(Data([0x7b, 0xff, 0x7d]), to: name)
    expectError(copy(name), code: .invalidFile) { try load() }
    try copy.remove(name)
    if ["config.json", "1_Pooling/config.json"].contains(name) {
      expectError(copy(name), "no such file", code: .notFound) { try load() }
    } else {
      try load()
    }
    try FileManager.default.createDirectory(atPath: copy(name), withIntermediateDirectories: true)
    expectError(copy(name), "regular file", code: .inputOutput) { try load() }
  }

  @Test("a folder without a tokenizer")
  func noTokenizer() throws {
    try copy.remove("tokenizer.json", "vocab.txt")
    expectError(copy.path, "tokenizer.json or vocab.txt expected", code: .notFound) { try load() }
  }

  @Test("a path that is a file, is empty, or does not exist")
  func paths() throws {
    for path in [copy("config.json"), "", copy("missing"), copy("config.json") + "/"] {
      expectError("a folder with config.json", code: .notFound) { _ = try SentenceEncoder(directory: path) }
    }
  }

  private static func list(_ type: String, path: String = "1_Pooling") -> String {
    #"[{"type": "sentence_transformers.models.Transformer", "path": ""}, {"type": "\#(type)", "path": "\#(path)"}]"#
  }

  static let lists: [(json: String, message: String)] = [
    (list("sentence_transformers.models.Dense"), "got \"sentence_transformers.models.Dense\""), (list(""), "got \"\""),
    (list("x.Pooling", path: "../x"), "paths inside of the folder expected; got \"../x\""),
    (list("x.Pooling", path: "1_Pooling/../../x"), "paths inside of the folder"),
    (list("x.Pooling", path: "/etc"), "paths inside of the folder expected; got \"/etc\""),
    (list("x.Pooling", path: ".."), "paths inside of the folder"),
    ("{}", "the file"), (#"[{"path": "1_Pooling"}]"#, "\"type\" expected in [0]"), (#"[{"type": 7}]"#, "[0].type"),
  ]

  @Test("modules.json: unknown kinds, paths that lead out of the folder", arguments: lists)
  func modules(json: String, message: String) throws {
    try copy.write(json, to: "modules.json")
    expectError(copy("modules.json"), message) { try load() }
  }

  static let poolingFiles: [(json: String, message: String)] = [
    (#"{"pooling_mode_mean_tokens": false}"#, "one way of pooling expected; got none"),
    ("{}", "one way of pooling expected; got none"),
    (
      #"{"pooling_mode": "middle"}"#,
      "pooling_mode one of cls, lasttoken, max, mean, mean_sqrt_len_tokens, weightedmean expected; got \"middle\""
    ),
    (#"{"pooling_mode": 7}"#, "pooling_mode"), (#"{"pooling_mode_mean_tokens": "yes"}"#, "pooling_mode_mean_tokens"),
  ]

  @Test("pooling settings that are missing or unknown", arguments: poolingFiles)
  func poolings(json: String, message: String) throws {
    try copy.write(json, to: "1_Pooling/config.json")
    expectError(copy("1_Pooling/config.json"), message) { try load() }
  }

  @Test(
    "maximum lengths that leave no room for a token, in either file",
    arguments: ["0", "2", "-5", "-9223372036854775808"])
  func lengths(length: String) throws {
    try copy.set("max_seq_length", to: length, in: "sentence_bert_config.json")
    // A maximum length below 1 is always wrong, so the error names the file. A length of 2 is too short only for this
    // tokenizer, so the error names the lengths that are possible with the model.
    func message(_ name: String) -> String {
      length == "2" ? "a maximum length from 3 to 40 expected; got 2" : "\(name) from 1 expected; got"
    }
    expectError(message("sentence_bert_config.json: max_seq_length")) { try load() }
    try copy.remove("sentence_bert_config.json")
    try copy.set("model_max_length", to: length, in: "tokenizer_config.json")
    expectError(message("tokenizer_config.json: model_max_length")) { try load() }
  }

  @Test("a maximum length below the range of Int is an error", arguments: ["-1e19", "-1e300"])
  func hugeNegativeLength(length: String) throws {
    try copy.remove("sentence_bert_config.json")
    try copy.set("model_max_length", to: length, in: "tokenizer_config.json")
    expectError("model_max_length from 1 expected") { try load() }
  }

  @Test(
    "no limit, or a limit beyond the model's positions, means all positions",
    arguments: ["1e30", "1000000000000000019884624838656", "41", "null"])
  func noLimit(length: String) throws {
    try copy.remove("sentence_bert_config.json")
    try copy.set("model_max_length", to: length, in: "tokenizer_config.json")
    #expect(try SentenceEncoder(directory: copy.path).maximumLength == 40)
  }

  @Test("a tokenizer with more tokens than the model")
  func tooManyTokens() throws {
    try copy.set("vocab_size", to: "112")
    try copy.editWeights { tensors in
      let words: [Float] = try tensors.values("embeddings.word_embeddings.weight")
      tensors.set("embeddings.word_embeddings.weight", to: Array(words.prefix(112 * 48)), shape: [112, 48])
    }
    expectError("112", "113", code: .invalidArgument) { try load() }
  }
}
