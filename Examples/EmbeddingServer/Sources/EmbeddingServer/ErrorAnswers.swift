import AttentionModels
import Hummingbird
import NIOHTTP1

/// An error with the status that a client sees.
struct RequestError: Error {
  let status: HTTPResponse.Status
  let message: String

  init(_ status: HTTPResponse.Status, _ message: String) {
    self.status = status
    self.message = message
  }
}

/// Gives the answer to `HEAD` the header fields of the answer to `GET`, and no body.
struct HeadAnswers: RouterMiddleware {
  func handle(
    _ request: Request, context: ConnectionContext, next: (Request, ConnectionContext) async throws -> Response
  ) async throws -> Response {
    let response = try await next(request, context)
    return request.method == .head ? response.createHeadResponse() : response
  }
}

/// Answers errors with `{"error":"…"}`, and under `/v1/` with `{"error":{"message":"…","type":"…"}}`, the form that
/// OpenAI's clients read. Only errors of the HTTP parser are left to Hummingbird.
struct ErrorAnswers: RouterMiddleware {
  func handle(
    _ request: Request, context: ConnectionContext, next: (Request, ConnectionContext) async throws -> Response
  ) async throws -> Response {
    do {
      return try await next(request, context)
    } catch let error as HTTPParserError {
      // Hummingbird answers an error of the HTTP parser itself, and then closes the connection.
      throw error
    } catch {
      let answer = describe(error, request)
      if answer.status == .internalServerError { context.logger.error("\(error)") }
      let isOpenAI = request.uri.path.hasPrefix("/v1/")
      return Response(
        status: answer.status, headers: answer.status == .serviceUnavailable ? [.retryAfter: "1"] : [:],
        json: isOpenAI
          ? try ByteBuffer(json: ["error": OpenAIError(answer)]) : try ByteBuffer(json: ["error": answer.message]))
    }
  }

  private struct OpenAIError: Encodable {
    let message: String
    let type: String

    init(_ error: RequestError) {
      message = error.message
      type = error.status.kind == .clientError ? "invalid_request_error" : "server_error"
    }
  }

  private func describe(_ error: any Error, _ request: Request) -> RequestError {
    switch error {
    case let error as RequestError: error
    case let error as AttentionError where [.busy, .outOfMemory].contains(error.code):
      RequestError(.serviceUnavailable, error.message)
    // Nobody reads this answer: the client has closed the connection, or the server is being stopped by force.
    case is CancellationError: RequestError(.serviceUnavailable, "the connection was closed")
    case let error as any HTTPResponseError where error.status == .notFound:
      RequestError(
        .notFound, "POST /embed, POST /v1/embeddings or GET /health expected; got \(request.method) \(request.uri.path)"
      )
    case let error as any HTTPResponseError: RequestError(error.status, error.status.reasonPhrase)
    default: RequestError(.internalServerError, "internal error")
    }
  }
}
