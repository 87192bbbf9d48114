import AttentionModels
import AttentionTestSupport
import Foundation
import Testing

/// The code in the documentation pages about models, compiled, and run on a small model.
@Suite("Documentation: models")
struct ModelArticleTests {
  private let folder = "\(packageFolder)/Tests/Fixtures/bert/tiny"

  @Test("sentences, their vectors and their attention weights")
  func sentences() throws {
    let encoder = try SentenceEncoder(directory: folder)
    let vectors = try encoder.embed(["She is happy.", "He walks in the rain."])
    let (a, b) = (try vectors.select(0, axis: 0).array, try vectors.select(1, axis: 0).array)
    let cosine = zip(a, b).reduce(0) { $0 + $1.0 * $1.1 }
    print(vectors.shape, cosine)  // [2, 384] for all-MiniLM-L6-v2
    #expect(vectors.shape == [2, 48] && abs(cosine) <= 1.0001)

    let index = try EmbeddingIndex(texts: ["It rains.", "She is happy.", "A letter came."], encoder: encoder)
    for match in try index.search(encoder.embed(["a happy sister"], prompt: .query), limit: 2)[0] {
      print(match.score, match.text)
    }
    #expect(try index.search(encoder.embed(["She is happy."]), limit: 1)[0][0].position == 1)

    let query = try encoder.embed(["who is happy?"], prompt: .query)
    let document = try encoder.embed(["She is happy."], prompt: .document)
    #expect(query.shape == document.shape)

    let long = try EmbeddingIndex(lines: ["It rains."], encoder: encoder, chunking: .init(overlap: 8))
    print(long.count, long.cutCount)  // 1 0
    #expect(long.count == 1 && long.cutCount == 0)

    let (tokens, layers) = try encoder.attentions(for: "She is happy.")
    print(tokens.count, layers[0].shape)  // tokens; heads, tokens, tokens
    let share = layers[1][2, 1, 3]  // layer 1, head 2: how much token 1 attends to token 3
    #expect(tokens == ["[CLS]", "she", "is", "happy", ".", "[SEP]"])
    #expect(layers.count == 2 && (0...1).contains(share))
  }

  @Test("a server's calls")
  func server() async throws {
    let model = try await TextEmbedder(directory: folder)
    let vector: [Float] = try await model.embed("She is happy.")
    let many = try await model.embed(["He walks.", "It rains.", "A letter came."])
    #expect(vector.count == 48 && many.count == 3)
  }

  @Test("the README's sentences")
  func readme() async throws {
    let model = try await TextEmbedder(directory: folder)
    let vectors = try await model.embed(["A man is eating.", "Someone has lunch."])
    #expect(vectors.count == 2)
  }
}
