internal import AttentionTensors

/// What is put before a text before it is embedded: models for search are often trained with one for queries and another
/// for what is searched.
public enum EmbeddingPrompt: Sendable, Hashable {
  /// The model's default prompt, if it has one: what sentence-transformers' `encode` does.
  case automatic
  /// Nothing.
  case none
  /// The model's prompt "query", else as ``automatic``: `encode_query`.
  case query
  /// The model's prompt "document", "passage" or "corpus", the first that there is, else as ``automatic``: `encode_document`.
  case document
  /// The model's prompt of that name.
  case named(String)
  /// These characters.
  case text(String)
}

/// The prompts that a model's settings name.
struct EmbeddingPrompts: Sendable {
  var texts: [String: String] = [:]
  var defaultName: String?

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
  /// The first of some prompts that the model has, else its default one, else none.
  func first(_ names: [String]) -> String {
    (names + [defaultName].compactMap { $0 }).lazy.compactMap { texts[$0] }.first ?? ""
  }
}

/// By what a model's vectors are meant to be compared.
public enum EmbeddingSimilarity: String, Sendable, Hashable, CaseIterable {
  /// The cosine of their angle: the product of both, brought to length 1.
  case cosine
  /// Their product.
  case dot
}
