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

/// Answers every error with `{"error":"…"}`.
struct ErrorAnswers: RouterMiddleware {
  func handle(
    _ request: Request, context: ConnectionContext, next: (Request, ConnectionContext) async throws -> Response
  ) async throws -> Response {
    do {
      return try await next(request, context)
    } catch let error as HTTPParserError {
      // Hummingbird answers it, and closes the connection.
      throw error
    } catch {
      let answer = describe(error, request)
      if answer.status == .internalServerError { context.logger.error("\(error)") }
      return Response(
        status: answer.status, headers: answer.status == .serviceUnavailable ? [.retryAfter: "1"] : [:],
        json: try ByteBuffer(json: ["error": answer.message]))
    }
  }

  private func describe(_ error: any Error, _ request: Request) -> RequestError {
    switch error {
    case let error as RequestError: error
    case let error as AttentionError where [.busy, .outOfMemory].contains(error.code):
      RequestError(.serviceUnavailable, error.message)
    // Nobody reads it: the client has closed the connection, or the server is being stopped by force.
    case is CancellationError: RequestError(.serviceUnavailable, "the connection was closed")
    case let error as any HTTPResponseError where error.status == .notFound:
      RequestError(.notFound, "POST /embed or GET /health expected; got \(request.method) \(request.uri.path)")
    case let error as any HTTPResponseError: RequestError(error.status, error.status.reasonPhrase)
    default: RequestError(.internalServerError, "internal error")
    }
  }
}
