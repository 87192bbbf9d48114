import AttentionModels
import AttentionProblems
import AttentionTensors
import AttentionTestSupport
import Foundation
import Testing

/// The folder of all-MiniLM-L6-v2, where `attend fetch-model` has installed it.
private let miniLM: String = {
  let environment = ProcessInfo.processInfo.environment
  var models = NSHomeDirectory() + "/.cache/swift-attention/models"
  #if os(macOS)
    models = NSHomeDirectory() + "/Library/Caches/swift-attention/models"
  #endif
  if let cache = environment["XDG_CACHE_HOME"], cache.hasPrefix("/") { models = cache + "/swift-attention/models" }
  if let own = environment["ATTENTION_MODELS"], !own.isEmpty { models = own }
  return models + "/all-MiniLM-L6-v2"
}()

@Suite(
  "all-MiniLM-L6-v2 gives the same results as the transformers library, on every path",
  .enabled(
    if: FileManager.default.fileExists(atPath: miniLM + "/model.safetensors"),
    "all-MiniLM-L6-v2 is not installed; `make model` installs it"))
struct RealModelTests {
  private let results: StoredResults
  private let model: SentenceEncoder
  private let tolerance = 2e-5

  init() throws {
    results = try StoredResults(path: Fixture.miniLMReference, textsKey: "sentences")
    model = try SentenceEncoder(directory: miniLM)
  }

  @Test("token ids are equal")
  func tokens() {
    #expect(results.texts.map(model.tokens) == results.tokens)
  }

  @Test("embeddings, the first layer's states and weights, and the last states")
  func inside() throws {
    for context in AttentionContext.everyPath {
      for (text, tokens) in results.tokens.enumerated() {
        let trace = try model.encoder.trace(tokens, context: context)
        try #require(trace.hiddenStates.count == 7)
        for (states, name) in [(0, "embeddings_out"), (1, "layer0_out"), (6, "last_hidden_state")] {
          let expected = try results.part(name, of: text, tokenAxes: [0])
          let difference = mismatch(trace.hiddenStates[states].array, expected, tolerance: tolerance, name)
          #expect(difference == nil, "text \(text), \(context.path)")
        }
        let expected = try results.part("layer0_attention", of: text, tokenAxes: [1, 2])
        #expect(mismatch(trace.attentions[0].array, expected, tolerance: tolerance, "weights, \(context.path)") == nil)
      }
    }
  }

  @Test("sentence embeddings")
  func sentences() throws {
    for context in AttentionContext.everyPath {
      let vectors = try model.embed(results.texts, context: context)
      let expected = try results.texts.indices.flatMap { try results.part("sentence_embedding", of: $0) }
      #expect(mismatch(vectors.array, expected, tolerance: tolerance, context.path) == nil)
    }
  }

  @Test("a text has the same vector alone and together with others, on 1, 2 and 7 threads")
  func sameBitsInBatches() throws {
    let texts = results.texts + results.texts.map { $0 + " " + $0 } + [""]
    for var context in AttentionContext.everyPath {
      context.threadCount = 1
      let alone = try texts.map { try model.embed([$0], context: context).array }
      for threadCount in [1, 2, 7] {
        context.threadCount = threadCount
        let together = try rows(model.embed(texts, context: context))
        let again = try model.embed([texts[5]], context: context).array
        let difference = texts.indices.lazy.compactMap { companyMismatch(together[$0], alone[$0], context) }.first
        #expect(difference == nil, "\(threadCount) threads")
        #expect(sameBits(again, alone[5]), "\(context.path), \(threadCount) threads")
      }
    }
  }
}
