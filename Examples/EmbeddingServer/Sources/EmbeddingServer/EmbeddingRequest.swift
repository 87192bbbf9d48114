import AttentionModels
import Foundation

/// What a client asks for, whatever the form of its body.
struct EmbeddingRequest {
  var texts: [String]
  var prompt = EmbeddingPrompt.automatic
  /// Numbers of a vector that are wanted, the first ones, brought to length 1; nil: all.
  var dimensions: Int?
  /// Whether a text that is longer than the model's limit is an error.
  var refusesCuts = false
  /// Whether vectors are wanted at length 1 or as the model gives them; nil: as the model gives them.
  var normalizes: Bool?
  var form: EmbeddingAnswer.Form

  /// A text, or several. OpenAI's lists of token ids are of another tokenizer.
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

  /// The body of `POST /embed`: `{"texts":["…","…"]}`, `{"text":"…"}` for one, or `{"inputs":…}` as text-embeddings-inference
  /// has it.
  /// - Throws: ``RequestError`` that says what is wrong with it.
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

  /// The body of `POST /v1/embeddings`, as OpenAI's clients send it.
  /// - Throws: ``RequestError`` that says what is wrong with it.
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
    // Foundation guesses other encodings by their zeros; JSON over a network is UTF-8.
    guard !json.contains(0) else { throw RequestError(.badRequest, "\(expectation); the body is no JSON in UTF-8") }
    do { return try JSONDecoder().decode(Body.self, from: json) } catch {
      throw RequestError(.badRequest, "\(expectation); \(complaint(error))")
    }
  }

  /// The decoder's own descriptions are long, and name Swift's types.
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
