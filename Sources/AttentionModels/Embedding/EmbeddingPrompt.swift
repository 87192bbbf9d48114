internal import AttentionTensors

/// A prompt: the text that precedes each text that is embedded.
///
/// Models for search are often trained with one prompt for queries and another for documents.
public enum EmbeddingPrompt: Sendable, Hashable {
  /// The model's default prompt, if it has one, as in sentence-transformers' `encode`.
  case automatic
  /// No prompt.
  case none
  /// The model's prompt "query"; if it has none, the same as ``automatic``. As in sentence-transformers'
  /// `encode_query`.
  case query
  /// The first of the prompts "document", "passage" and "corpus" that the model has; if it has none of them, the same
  /// as ``automatic``. As in sentence-transformers' `encode_document`.
  case document
  /// The model's prompt with this name.
  case named(String)
  /// This text as the prompt.
  case text(String)
}

/// The prompts in a model's settings.
struct EmbeddingPrompts: Sendable {
  var texts: [String: String] = [:]
  var defaultName: String?

  /// The text that `prompt` stands for; empty: no prompt.
  /// - Throws: `AttentionError` for a name that the model does not have.
  func text(_ prompt: EmbeddingPrompt) throws(AttentionError) -> String {
    switch prompt {
    case .none: return ""
    case .text(let text): return text
    case .automatic: return first([])
    case .query: return first(["query"])
    case .document: return first(["document", "passage", "corpus"])
    case .named(let name):
      if let text = texts[name] { return text }
      let known = texts.keys.sorted().map { "\"\($0)\"" }.joined(separator: ", ")
      throw AttentionError(
        .invalidArgument, "EmbeddingPrompt",
        "\(known.isEmpty ? "no name of a prompt, for the model has none," : "one of the model's prompts \(known)") expected; "
          + "got \"\(name)\"")
    }
  }
}

extension EmbeddingPrompts {
  /// The text of the first prompt in `names` that the model has; otherwise its default prompt; otherwise an empty text.
  func first(_ names: [String]) -> String {
    (names + [defaultName].compactMap { $0 }).lazy.compactMap { texts[$0] }.first ?? ""
  }
}

/// How a model's vectors are meant to be compared.
public enum EmbeddingSimilarity: String, Sendable, Hashable, CaseIterable {
  /// The cosine of the angle between two vectors: their dot product after both are divided by their lengths.
  case cosine
  /// The dot product of two vectors.
  case dot
}
