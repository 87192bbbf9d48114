import Attention
import AttentionFiles
import AttentionModels
import Foundation

/// `{"op":"embed"}`: embeds the sentences of a file with a model.
struct EmbeddingRequest: Decodable {
  /// The model's folder.
  let model: String
  /// The path of a text file with one sentence a line.
  let file: String
  /// If this is n, only every n-th line that is not empty is used; nil or 1: all of them.
  let every: Int?
  /// If true, each call embeds one sentence, and the next call the next sentence. Otherwise, each call embeds all
  /// sentences.
  let single: Bool?
  let threads: Int?
  let iterations: Int?
}

struct EmbeddingAnswer: Encodable {
  let seconds: [Double]
  let operations: Double
  let gflops: Double
  let sentences: Int
  let tokens: Int
  /// The vectors of the first eight sentences, to be compared with those of another program.
  let vectors: [[Float]]
}

/// The model and the sentences of the last request.
final class EmbeddingWorkload {
  private let request: EmbeddingRequest
  private let encoder: SentenceEncoder
  private let texts: [String]
  private let lengths: [Int]
  private var turn = 0

  init(_ request: EmbeddingRequest) throws {
    self.request = request
    let encoder = try SentenceEncoder(directory: request.model)
    let lines = try splitLines(readFile(request.file, byteLimit: 1 << 30), name: request.file).filter { !$0.isEmpty }
    let texts = stride(from: 0, to: lines.count, by: max(1, request.every ?? 1)).map { lines[$0] }
    guard !texts.isEmpty else { throw AttentionError(.invalidFile, request.file, "at least one sentence expected") }
    self.encoder = encoder
    self.texts = texts
    lengths = texts.map { encoder.tokens($0).count }
  }

  func hasInputs(of other: EmbeddingRequest) -> Bool {
    (request.model, request.file, request.every) == (other.model, other.file, other.every)
  }

  func run(_ request: EmbeddingRequest) throws -> EmbeddingAnswer {
    let context = AttentionContext(threadCount: request.threads)
    let isSingle = request.single ?? false
    var operations: [Double] = []
    let seconds = try (0..<max(1, request.iterations ?? 5)).map { _ in
      let chosen = isSingle ? turn % texts.count..<turn % texts.count + 1 : 0..<texts.count
      turn += isSingle ? 1 : 0
      operations.append(lengths[chosen].reduce(0) { $0 + operationCount(length: $1) })
      return try secondsTaken { _ = try encoder.embed(Array(texts[chosen]), context: context) }
    }
    let shown = try encoder.embed(Array(texts.prefix(8)), context: context)
    return EmbeddingAnswer(
      seconds: seconds, operations: median(operations),
      gflops: operations.reduce(0, +) / seconds.reduce(0, +) * 1e-9, sentences: isSingle ? 1 : texts.count,
      tokens: lengths.reduce(0, +), vectors: try (0..<shown.shape[0]).map { try shown.select($0, axis: 0).array })
  }

  /// The operations of projections, feed-forward parts and attention for one sentence.
  private func operationCount(length: Int) -> Double {
    let c = encoder.encoder.configuration
    let (d, inner, l) = (Double(c.hiddenDimension), Double(c.intermediateDimension), Double(length))
    return Double(c.layerCount) * (2 * l * (4 * d * d + 2 * d * inner) + 4 * l * l * d)
  }
}
