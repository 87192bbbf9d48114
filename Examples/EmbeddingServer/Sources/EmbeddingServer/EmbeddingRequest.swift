import Foundation

/// The body of `POST /embed`: `{"texts":["…","…"]}`, or `{"text":"…"}` for one.
struct EmbeddingRequest: Decodable {
  private let texts: [String]?
  private let text: String?

  /// The texts of a body.
  /// - Throws: ``RequestError`` that says what is wrong with it.
  static func texts(json: Data, limit: Int) throws -> [String] {
    let request: EmbeddingRequest
    do {
      request = try JSONDecoder().decode(EmbeddingRequest.self, from: json)
    } catch {
      throw RequestError(.badRequest, "{\"texts\":[\"…\"]} expected; \(complaint(error))")
    }
    switch (request.texts, request.text) {
    case (nil, let text?): return [text]
    case (let texts?, nil):
      guard (1...limit).contains(texts.count) else {
        throw RequestError(
          texts.isEmpty ? .badRequest : .contentTooLarge, "from 1 to \(limit) texts expected; got \(texts.count)")
      }
      return texts
    case (nil, nil):
      throw RequestError(.badRequest, "{\"texts\":[\"…\"]} expected; there is neither \"texts\" nor \"text\"")
    default: throw RequestError(.badRequest, "either \"texts\" or \"text\" expected; got both")
    }
  }

  /// The decoder's own descriptions are long, and name Swift's types.
  private static func complaint(_ error: any Error) -> String {
    switch error {
    case DecodingError.typeMismatch(_, let context), DecodingError.valueNotFound(_, let context):
      let path = context.codingPath.map { $0.intValue.map { "[\($0)]" } ?? "\"\($0.stringValue)\"" }.joined()
      return path.isEmpty ? "the body is no object" : "\(path) is of another type"
    default: return "the body is no JSON in UTF-8"
    }
  }
}
