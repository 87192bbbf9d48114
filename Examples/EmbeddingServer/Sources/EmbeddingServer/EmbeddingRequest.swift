import AttentionModels
import Foundation

/// A request for the vectors of texts, independent of the form of its body.
struct EmbeddingRequest {
  var texts: [String]
  var prompt = EmbeddingPrompt.automatic
  /// If set, the client wants only this many numbers from the beginning of each vector, and these are scaled so that
  /// the shortened vector has length 1; nil: all numbers.
  var dimensions: Int?
  /// Whether a text that is longer than the model's limit is an error.
  var refusesCuts = false
  /// If true, vectors get length 1. If false, they must be as the model gives them, which is an error if the model
  /// normalises them. If nil, they are as the model gives them.
  var normalizes: Bool?
  var form: EmbeddingAnswer.Form

  /// One text or several. OpenAI's lists of token ids are refused, because they come from another tokenizer.
  private struct Texts: Decodable {
    let all: [String]
    init(from decoder: any Decoder) throws {
      let container = try decoder.singleValueContainer()
      if let text = try? container.decode(String.self) {
        all = [text]
      } else {
        all = try container.decode([String].self)
      }
    }
  }

  private struct EmbedBody: Decodable {
    let texts: [String]?
    let text: String?
    let inputs: Texts?
    let truncate: Bool?
    let normalize: Bool?
    let prompt_name: String?
    let dimensions: Int?
  }

  /// Reads the body of `POST /embed`: `{"texts":["…","…"]}`, `{"text":"…"}` for one text, or `{"inputs":…}` in the form
  /// of text-embeddings-inference.
  /// - Throws: ``RequestError`` that says what is wrong with the body.
  static func embed(json: Data, limit: Int) throws -> EmbeddingRequest {
    let body: EmbedBody = try decode(json, "{\"texts\":[\"…\"]} expected")
    let given = [body.texts, body.text.map { [$0] }, body.inputs?.all].compactMap { $0 }
    guard given.count == 1 else {
      throw RequestError(
        .badRequest,
        given.isEmpty
          ? "{\"texts\":[\"…\"]} expected; there is neither \"texts\" nor \"text\" nor \"inputs\""
          : "one of \"texts\", \"text\" and \"inputs\" expected; got several")
    }
    return EmbeddingRequest(
      texts: try checked(given[0], limit), prompt: body.prompt_name.map(EmbeddingPrompt.named) ?? .automatic,
      dimensions: body.dimensions, refusesCuts: body.truncate == false, normalizes: body.normalize,
      form: body.inputs == nil ? .own : .bare)
  }

  private struct OpenAIBody: Decodable {
    let input: Texts
    let encoding_format: String?
    let dimensions: Int?
  }

  /// Reads the body of `POST /v1/embeddings`, as OpenAI's clients send it.
  /// - Throws: ``RequestError`` that says what is wrong with the body.
  static func openAI(json: Data, limit: Int) throws -> EmbeddingRequest {
    let body: OpenAIBody = try decode(json, "{\"input\":[\"…\"]} with texts, not tokens, expected")
    let format = body.encoding_format ?? "float"
    guard ["float", "base64"].contains(format) else {
      throw RequestError(.badRequest, "encoding_format float or base64 expected; got \"\(format)\"")
    }
    return EmbeddingRequest(
      texts: try checked(body.input.all, limit), dimensions: body.dimensions,
      form: .openAI(isBase64: format == "base64"))
  }

  private static func checked(_ texts: [String], _ limit: Int) throws -> [String] {
    guard (1...limit).contains(texts.count) else {
      throw RequestError(
        texts.isEmpty ? .badRequest : .contentTooLarge, "from 1 to \(limit) texts expected; got \(texts.count)")
    }
    return texts
  }

  private static func decode<Body: Decodable>(_ json: Data, _ expectation: String) throws -> Body {
    // The body must be UTF-8, as JSON over a network is. Foundation would take zero bytes as a sign of another
    // encoding.
    guard !json.contains(0) else { throw RequestError(.badRequest, "\(expectation); the body is no JSON in UTF-8") }
    do { return try JSONDecoder().decode(Body.self, from: json) } catch {
      throw RequestError(.badRequest, "\(expectation); \(complaint(error))")
    }
  }

  /// A short description of a decoder's error. The decoder's own descriptions are long and name Swift's types.
  private static func complaint(_ error: any Error) -> String {
    switch error {
    case DecodingError.typeMismatch(_, let context), DecodingError.valueNotFound(_, let context):
      let path = context.codingPath.map { $0.intValue.map { "[\($0)]" } ?? "\"\($0.stringValue)\"" }.joined()
      return path.isEmpty ? "the body is no object" : "\(path) is of another type"
    case DecodingError.keyNotFound(let key, _): return "there is no \"\(key.stringValue)\""
    case DecodingError.dataCorrupted(let context) where !context.codingPath.isEmpty:
      return "\"\(context.codingPath[0].stringValue)\" is no whole number"
    default: return "the body is no JSON in UTF-8"
    }
  }
}
