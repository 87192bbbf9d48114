import AttentionModels
import Foundation
import Hummingbird
import NIOCore

/// The endpoints of the server, without its sockets: `POST /embed`, `POST /v1/embeddings` and `GET /health`.
struct EmbeddingService: Sendable {
  let embedder: TextEmbedder
  /// The name of the model in answers.
  let name: String
  let bodyLimit: Int
  let textLimit: Int

  func router() -> Router<ConnectionContext> {
    let router = Router(context: ConnectionContext.self, options: .autoGenerateHeadEndpoints)
    router.add(middleware: HeadAnswers())
    router.add(middleware: ErrorAnswers())
    router.post("embed") { request, context in
      try await embed(EmbeddingRequest.embed(json: body(of: request), limit: textLimit), context)
    }
    router.post("v1/embeddings") { request, context in
      try await embed(EmbeddingRequest.openAI(json: body(of: request), limit: textLimit), context)
    }
    router.get("health") { _, _ in try health() }
    return router
  }

  private func embed(_ request: EmbeddingRequest, _ context: ConnectionContext) async throws -> Response {
    let model = embedder.model
    if case .named(let name) = request.prompt, model.prompts[name] == nil {
      throw RequestError(
        .badRequest, "prompt_name one of \(model.prompts.keys.sorted()), the model's prompts, expected; got \"\(name)\""
      )
    }
    if let dimensions = request.dimensions, !(1...model.dimension).contains(dimensions) {
      throw RequestError(.badRequest, "dimensions from 1 to \(model.dimension) expected; got \(dimensions)")
    }
    if request.normalizes == false, model.isNormalized {
      throw RequestError(.badRequest, "normalize true expected: this model brings its vectors to length 1")
    }
    if request.refusesCuts {
      for (index, text) in request.texts.enumerated() where try model.isCut(text, prompt: request.prompt) {
        throw RequestError(
          .contentTooLarge, "texts of at most \(model.maximumLength) tokens expected; text \(index) has more")
      }
    }
    var vectors = try await ClientWatch.of(context.channel).whileConnected {
      try await embedder.embed(request.texts, prompt: request.prompt)
    }
    if let dimensions = request.dimensions { vectors = vectors.map { Array($0.prefix(dimensions)) } }
    if request.dimensions != nil || (request.normalizes == true && !model.isNormalized) {
      vectors = vectors.map(Self.normalized)
    }
    var tokenCount = 0
    if case .openAI = request.form { tokenCount = request.texts.reduce(0) { $0 + model.tokens($1).count } }
    let answer = EmbeddingAnswer(model: name, vectors: vectors, tokenCount: tokenCount)
    return Response(json: try answer.encoded(request.form))
  }

  /// The vector divided by its length. A vector of zeros stays as it is.
  private static func normalized(_ vector: [Float]) -> [Float] {
    let length = vector.reduce(0) { $0 + $1 * $1 }.squareRoot()
    return length > 0 ? vector.map { $0 / length } : vector
  }

  private func body(of request: Request) async throws -> Data {
    let tooLarge = RequestError(.contentTooLarge, "a body of at most \(bodyLimit) bytes expected")
    // If the client announces a body that is too long, it gets the error before it sends the body.
    if let length = request.headers[.contentLength].flatMap({ Int($0) }), length > bodyLimit { throw tooLarge }
    do {
      return Data(try await request.body.collect(upTo: bodyLimit).readableBytesView)
    } catch is NIOTooManyBytesError { throw tooLarge }
  }

  private struct Health: Encodable {
    let status = "ok"
    let model: String
    let width: Int
  }

  private func health() throws -> Response {
    Response(json: try ByteBuffer(json: Health(model: name, width: embedder.dimension)))
  }
}
