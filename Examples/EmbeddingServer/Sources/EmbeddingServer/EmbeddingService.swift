import AttentionModels
import Foundation
import Hummingbird
import NIOCore

/// What the server does, without its sockets: `POST /embed` and `GET /health`.
struct EmbeddingService: Sendable {
  let embedder: TextEmbedder
  /// What answers call the model.
  let name: String
  let bodyLimit: Int
  let textLimit: Int

  func router() -> Router<ConnectionContext> {
    let router = Router(context: ConnectionContext.self)
    router.add(middleware: ErrorAnswers())
    router.post("embed") { request, context in try await embed(request, context) }
    router.get("health") { _, _ in try health() }
    return router
  }

  private func embed(_ request: Request, _ context: ConnectionContext) async throws -> Response {
    let texts = try await texts(of: request)
    let vectors = try await ClientWatch.of(context.channel).whileConnected { try await embedder.embed(texts) }
    return Response(json: try EmbeddingAnswer(model: name, width: embedder.width, vectors: vectors).encoded())
  }

  private func texts(of request: Request) async throws -> [String] {
    let tooLarge = RequestError(.contentTooLarge, "a body of at most \(bodyLimit) bytes expected")
    // Told at once where the client says what it is about to send.
    if let length = request.headers[.contentLength].flatMap({ Int($0) }), length > bodyLimit { throw tooLarge }
    let body: ByteBuffer
    do { body = try await request.body.collect(upTo: bodyLimit) } catch is NIOTooManyBytesError { throw tooLarge }
    return try EmbeddingRequest.texts(json: Data(body.readableBytesView), limit: textLimit)
  }

  private struct Health: Encodable {
    let status = "ok"
    let model: String
    let width: Int
  }

  private func health() throws -> Response {
    Response(json: try ByteBuffer(json: Health(model: name, width: embedder.width)))
  }
}
