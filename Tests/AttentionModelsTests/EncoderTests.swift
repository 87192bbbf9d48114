import AttentionFiles
import AttentionModels
import AttentionProblems
import AttentionTensors
import AttentionTestSupport
import Foundation
import Testing

/// A stored file of texts, padded to one length, and of the tensors that the Python library transformers makes of them.
struct StoredResults {
  let file: SafeTensorsFile
  let texts: [String]
  /// The token ids of each text, without padding.
  let tokens: [[Int32]]

  /// Reads the file at `path`. Its metadata hold the texts as a JSON list under the name `key`.
  init(path: String, textsKey key: String) throws {
    file = try SafeTensorsFile(contentsOf: path)
    texts = try JSONDecoder().decode([String].self, from: Data(#require(file.metadata[key]).utf8))
    let (ids, mask) = (try file.tensor("input_ids", as: Int64.self), try file.tensor("attention_mask", as: Int64.self))
    tokens = try texts.indices.map { text in
      let length = try mask.select(text, axis: 0).array.count { $0 != 0 }
      return try ids.select(text, axis: 0).array.prefix(length).map(Int32.init)
    }
    try #require(ids.shape[0] == texts.count && tokens.allSatisfy { !$0.isEmpty })
  }

  /// The part of the tensor `name`, of shape `[texts, …]`, that belongs to one text. Padding is cut from `axes`, the
  /// axes of tokens in this part.
  func part(_ name: String, of text: Int, tokenAxes axes: [Int] = []) throws -> [Double] {
    var part = try file.tensor(name, as: Float.self).select(text, axis: 0)
    for axis in axes { part = try part.slice(0..<tokens[text].count, axis: axis) }
    return part.array.map(Double.init)
  }
}

@Suite("A tiny BERT gives the same results as the Python library transformers, on every path")
struct EncoderTests {
  private let results: StoredResults
  private let model: SentenceEncoder
  private let tolerance = 2e-5

  init() throws {
    results = try StoredResults(path: Fixture.tinyReference, textsKey: "texts")
    model = try SentenceEncoder(directory: Fixture.tiny)
  }

  /// The first difference between the embeddings, on all paths, and the stored ones; nil if there is none.
  private func mismatch(_ model: SentenceEncoder, _ name: String) throws -> String? {
    for context in AttentionContext.everyPath {
      let vectors = try rows(model.embed(results.texts, context: context))
      for (text, vector) in vectors.enumerated() {
        let expected = try results.part(name, of: text)
        if let difference = AttentionTestSupport.mismatch(
          vector, expected, tolerance: tolerance, "\(name) of text \(text), \(context.path)")
        {
          return difference
        }
      }
    }
    return nil
  }

  @Test("tokens are equal to the stored tokens")
  func tokens() {
    #expect(results.texts.map(model.tokens) == results.tokens)
  }

  @Test("embeddings, the states after each layer, and attention weights")
  func inside() throws {
    for context in AttentionContext.everyPath {
      for (text, tokens) in results.tokens.enumerated() {
        let trace = try model.encoder.trace(tokens, context: context)
        #expect(trace.hiddenStates.count == 3)
        #expect(trace.attentions.count == 2)
        for (layer, states) in trace.hiddenStates.enumerated() {
          let expected = try results.part("hidden_states_\(layer)", of: text, tokenAxes: [0])
          let difference = AttentionTestSupport.mismatch(states.array, expected, tolerance: tolerance)
          #expect(difference == nil, "states \(layer) of text \(text), \(context.path)")
        }
        for (layer, weights) in trace.attentions.enumerated() {
          let expected = try results.part("attentions_\(layer)", of: text, tokenAxes: [1, 2])
          let difference = AttentionTestSupport.mismatch(weights.array, expected, tolerance: tolerance)
          #expect(difference == nil, "weights \(layer) of text \(text), \(context.path)")
        }
      }
    }
  }

  @Test("the states of all texts in one call are the stored states after the last layer")
  func hiddenStates() throws {
    let expected = try results.tokens.indices.flatMap { try results.part("hidden_states_2", of: $0, tokenAxes: [0]) }
    for context in AttentionContext.everyPath {
      let states = try model.encoder.hiddenStates(results.tokens, context: context)
      #expect(AttentionTestSupport.mismatch(states.array, expected, tolerance: tolerance, context.path) == nil)
    }
    // With several thousand tokens, every part of the model works in several blocks.
    let copies = 300
    let many = try model.encoder.hiddenStates((0..<copies).flatMap { _ in results.tokens })
    #expect(many.shape[0] > 4096)
    let difference = AttentionTestSupport.mismatch(
      many.array, (0..<copies).flatMap { _ in expected }, tolerance: tolerance)
    #expect(difference == nil)
  }

  @Test("the mean, with and without normalisation")
  func mean() throws {
    #expect(model.pooling == .mean)
    #expect(model.isNormalized)
    #expect(try mismatch(model, "mean_embedding") == nil)
    let plain = try SentenceEncoder(tokenizer: model.tokenizer, encoder: model.encoder, isNormalized: false)
    #expect(try mismatch(plain, "mean_unnormalized") == nil)
  }

  @Test("the first token's state, if the settings of the pooling ask for it")
  func firstToken() throws {
    let copy = try ModelCopy()
    try copy.set("pooling_mode_cls_token", to: "true", in: "1_Pooling/config.json")
    try copy.set("pooling_mode_mean_tokens", to: "false", in: "1_Pooling/config.json")
    let other = try SentenceEncoder(directory: copy.path)
    #expect(other.pooling == .cls)
    #expect(try mismatch(other, "cls_embedding") == nil)
  }

  @Test(
    "other activations", arguments: [("relu", "relu"), ("gelu_new", "gelu_new"), ("gelu_pytorch_tanh", "gelu_new")])
  func activations(name: String, stored: String) throws {
    let copy = try ModelCopy()
    try copy.set("hidden_act", to: "\"\(name)\"")
    #expect(try mismatch(SentenceEncoder(directory: copy.path), "\(stored).mean_embedding") == nil)
  }

  @Test("the two forms of gelu give different embeddings")
  func formsOfGelu() throws {
    let copy = try ModelCopy()
    try copy.set("hidden_act", to: "\"gelu_new\"")
    let (exact, other) = (
      try model.embed(results.texts), try SentenceEncoder(directory: copy.path).embed(results.texts)
    )
    #expect(zip(exact.array, other.array).contains { abs($0 - $1) > 1e-5 })
  }

  @Test("a text that is too long is cut to the length in the folder's settings")
  func longText() throws {
    let text = try #require(results.file.metadata["long.text"])
    let tokens = model.tokens(text)
    #expect(tokens.count == 32)
    #expect(tokens.map(Int64.init) == (try results.file.tensor("long.input_ids", as: Int64.self).array))
    #expect(model.tokenizer.encode(text).count > 32)
    let expected = try results.file.tensor("long.mean_embedding", as: Float.self).array.map(Double.init)
    for context in AttentionContext.everyPath {
      let vector = try model.embed([text], context: context).array
      #expect(AttentionTestSupport.mismatch(vector, expected, tolerance: tolerance, context.path) == nil)
    }
  }

  @Test("settings in the newer form give the same model")
  func newerSettings() throws {
    let copy = try ModelCopy(laying: Fixture.newer)
    let newer = try SentenceEncoder(directory: copy.path)
    #expect(newer.pooling == model.pooling)
    #expect(newer.isNormalized)
    #expect(newer.maximumLength == 32)
    let texts = results.texts + [try #require(results.file.metadata["long.text"])]
    #expect(sameBits(try newer.embed(texts).array, try model.embed(texts).array))
  }

  @Test("without settings of sentence-transformers: the mean, not normalised, with all positions as the limit")
  func plainFolder() throws {
    let copy = try ModelCopy()
    try copy.remove("modules.json", "1_Pooling", "sentence_bert_config.json", "tokenizer_config.json")
    let plain = try SentenceEncoder(directory: copy.path + "/")
    #expect(plain.maximumLength == 40)
    #expect(!plain.isNormalized)
    #expect(try mismatch(plain, "mean_unnormalized") == nil)
  }

  @Test("attentions(for:) returns the text's tokens and the attention weights of the trace")
  func attentions() throws {
    let (tokens, layers) = try model.attentions(for: "The good Café!")
    #expect(tokens == ["[CLS]", "the", "good", "cafe", "!", "[SEP]"])
    let trace = try model.encoder.trace(model.tokens("The good Café!"))
    #expect(layers == trace.attentions)
    #expect(layers.allSatisfy { $0.shape == [3, 6, 6] })
  }
}
