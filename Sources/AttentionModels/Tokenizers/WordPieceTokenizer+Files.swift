internal import AttentionFiles
internal import AttentionTensors
internal import Foundation

extension WordPieceTokenizer {
  /// The tokenizer of a Hugging Face folder: `tokenizer.json`, else `vocab.txt` with what `tokenizer_config.json` says.
  ///
  /// - Parameter directory: The path of the folder.
  /// - Throws: `AttentionError` where files are missing or wrong, or name another kind of tokenizer.
  public init(directory: String) throws(AttentionError) {
    let folder = ModelFolder(path: directory)
    try folder.check()
    try self.init(folder: folder)
  }

  init(folder: ModelFolder) throws(AttentionError) {
    if let file: TokenizerFile = try folder.json("tokenizer.json") {
      let path = folder.path("tokenizer.json")
      var parts = try file.parts(path)
      if file.hasGaps, folder.contains("vocab.txt") {
        // JSON's keys are strings of Swift, of which two that look alike, é in one scalar or two, are one. Lines are not.
        let tokens = try Self.vocabulary(folder)
        let isSame = parts.tokens.enumerated().allSatisfy { id, token in
          token == nil || tokens.indices.contains(id) && tokens[id] == token
        }
        try requireFile(
          isSame && tokens.count <= parts.tokens.count, folder.path("vocab.txt"), "the vocabulary of \(path) expected")
        let specials = Set(parts.specialTokens.map(\.id))
        for (id, token) in tokens.enumerated() where !specials.contains(Int32(id)) { parts.tokens[id] = token }
      }
      try self.init(parts, name: path)
      return
    }
    guard folder.contains("vocab.txt") else {
      throw AttentionError(.notFound, folder.path, "tokenizer.json or vocab.txt expected")
    }
    let path = folder.path("vocab.txt")
    let settings: TokenizerSettings = try folder.json("tokenizer_config.json") ?? TokenizerSettings()
    try self.init(settings.parts(vocabulary: Self.vocabulary(folder), path), name: path)
  }

  /// The lines of `vocab.txt`: a token each, whatever it holds.
  private static func vocabulary(_ folder: ModelFolder) throws(AttentionError) -> [String] {
    let path = folder.path("vocab.txt")
    let lines = try splitLines(folder.bytes("vocab.txt"), name: path)
    try requireFile(lines.count <= idLimit, path, "\(idLimit) tokens at most expected; got \(lines.count)")
    return lines
  }

  /// Ids at most: more would be no vocabulary.
  fileprivate static let idLimit = 1 << 24
}

/// `tokenizer_config.json`, as far as BERT's tokenizer reads it.
private struct TokenizerSettings: Decodable {
  /// A token, or a record of it.
  struct Token: Decodable {
    let content: String
    init(from decoder: any Decoder) throws {
      enum Key: String, CodingKey { case content }
      if let text = try? decoder.singleValueContainer().decode(String.self) {
        content = text
      } else {
        content = try decoder.container(keyedBy: Key.self).decode(String.self, forKey: .content)
      }
    }
  }
  var do_lower_case: Bool?
  var strip_accents: Bool?
  var tokenize_chinese_chars: Bool?
  var unk_token: Token?
  var cls_token: Token?
  var sep_token: Token?
  var pad_token: Token?
  var mask_token: Token?

  func parts(vocabulary tokens: [String], _ path: String) throws(AttentionError) -> WordPieceTokenizer.Parts {
    var parts = WordPieceTokenizer.Parts(tokens: tokens)
    let lowercases = do_lower_case ?? true
    parts.normalizer.lowercases = lowercases
    parts.normalizer.stripsAccents = strip_accents ?? lowercases
    parts.normalizer.separatesIdeographs = tokenize_chinese_chars ?? true
    parts.unknownToken = unk_token?.content ?? "[UNK]"
    // By bytes: strings that look alike are equal.
    let ids = Dictionary(tokens.enumerated().map { (Array($1.utf8), Int32($0)) }, uniquingKeysWith: { $1 })
    func id(_ token: Token?, _ other: String) throws(AttentionError) -> Int32 {
      let name = token?.content ?? other
      if let id = ids[Array(name.utf8)] { return id }
      throw AttentionError(.invalidFile, path, "the token \"\(name)\" expected in the vocabulary")
    }
    parts.prefix = [try id(cls_token, "[CLS]")]
    parts.suffix = [try id(sep_token, "[SEP]")]
    let specials =
      [unk_token?.content ?? "[UNK]", cls_token?.content ?? "[CLS]", sep_token?.content ?? "[SEP]"]
      + [pad_token?.content ?? "[PAD]", mask_token?.content ?? "[MASK]"]
    parts.specialTokens = specials.compactMap { name in ids[Array(name.utf8)].map { (name, $0) } }
    return parts
  }
}

/// `tokenizer.json`, as far as BERT's tokenizer is concerned.
private struct TokenizerFile: Decodable {
  struct Model: Decodable {
    let type: String?
    let vocab: [String: Int32]
    let unk_token: String?
    let continuing_subword_prefix: String?
    let max_input_chars_per_word: Int?
  }
  struct Step: Decodable {
    let type: String
    let clean_text: Bool?
    let handle_chinese_chars: Bool?
    let strip_accents: Bool?
    let lowercase: Bool?
  }
  struct AddedToken: Decodable {
    let id: Int32
    let content: String
    let single_word: Bool?
    let lstrip: Bool?
    let rstrip: Bool?
    let normalized: Bool?
  }
  struct Special: Decodable {
    let id: String
    let ids: [Int32]
  }
  struct TemplatePart: Decodable {
    struct Name: Decodable { let id: String }
    let SpecialToken: Name?
    let Sequence: Name?
  }
  /// `["[SEP]", 102]`.
  struct NamedToken: Decodable {
    let id: Int32
    init(from decoder: any Decoder) throws {
      var list = try decoder.unkeyedContainer()
      _ = try list.decode(String.self)
      id = try list.decode(Int32.self)
    }
  }
  struct PostProcessor: Decodable {
    let type: String
    let single: [TemplatePart]?
    let special_tokens: [String: Special]?
    let sep: NamedToken?
    let cls: NamedToken?
  }
  let model: Model
  let normalizer: Step?
  let pre_tokenizer: Step?
  let post_processor: PostProcessor?
  let added_tokens: [AddedToken]?

  /// True if there are fewer tokens than the greatest id says.
  var hasGaps: Bool {
    let ids = Set(model.vocab.values).union((added_tokens ?? []).map(\.id))
    return ids.count < Int(ids.max() ?? -1) + 1
  }

  func parts(_ path: String) throws(AttentionError) -> WordPieceTokenizer.Parts {
    func require(_ name: String, _ type: String?, _ expected: String) throws(AttentionError) {
      guard type == expected else {
        throw AttentionError(
          .unsupported, path, "\(name) of type \"\(expected)\" expected; got \(type.map { "\"\($0)\"" } ?? "none")")
      }
    }
    try require("model", model.type ?? "WordPiece", "WordPiece")
    try require("normalizer", normalizer?.type, "BertNormalizer")
    try require("pre_tokenizer", pre_tokenizer?.type, "BertPreTokenizer")
    var parts = WordPieceTokenizer.Parts(tokens: [])
    parts.normalizer.cleansText = normalizer?.clean_text ?? true
    parts.normalizer.separatesIdeographs = normalizer?.handle_chinese_chars ?? true
    parts.normalizer.lowercases = normalizer?.lowercase ?? true
    parts.normalizer.stripsAccents = normalizer?.strip_accents ?? parts.normalizer.lowercases
    parts.unknownToken = model.unk_token ?? "[UNK]"
    parts.continuationPrefix = model.continuing_subword_prefix ?? "##"
    parts.wordLimit = model.max_input_chars_per_word ?? 100
    let added = added_tokens ?? []
    let ids = model.vocab.values + added.map(\.id)
    let most = Int(ids.max() ?? -1)
    // Gaps take memory.
    let limit = min(WordPieceTokenizer.idLimit, max(1 << 20, 2 * ids.count))
    try requireFile(
      (ids.min() ?? 0) >= 0 && most < limit, path,
      "ids from 0 to \(limit - 1) expected; got \(ids.min() ?? 0) to \(most)")
    parts.tokens = Array(repeating: nil, count: most + 1)
    for (token, id) in model.vocab { parts.tokens[Int(id)] = token }
    for token in added {
      guard token.single_word != true, token.lstrip != true, token.rstrip != true, token.normalized != true else {
        throw AttentionError(
          .unsupported, path,
          "added tokens without single_word, lstrip, rstrip and normalized expected; got \"\(token.content)\"")
      }
      parts.specialTokens.append((token.content, token.id))
    }
    try around(&parts, path)
    return parts
  }

  /// What stands before and behind a text.
  private func around(_ parts: inout WordPieceTokenizer.Parts, _ path: String) throws(AttentionError) {
    guard let post = post_processor else { return }
    switch post.type {
    case "BertProcessing":
      guard let cls = post.cls, let sep = post.sep else {
        throw AttentionError(.invalidFile, path, "post_processor: cls and sep expected")
      }
      parts.prefix = [cls.id]
      parts.suffix = [sep.id]
    case "TemplateProcessing":
      var isBehind = false
      for part in post.single ?? [] {
        if part.Sequence != nil {
          isBehind = true
        } else if let name = part.SpecialToken?.id {
          guard let special = post.special_tokens?[name] else {
            throw AttentionError(.invalidFile, path, "post_processor: the special token \"\(name)\" expected")
          }
          if isBehind { parts.suffix += special.ids } else { parts.prefix += special.ids }
        }
      }
    default:
      throw AttentionError(
        .unsupported, path, "post_processor TemplateProcessing or BertProcessing expected; got \"\(post.type)\"")
    }
    let specials = Set(parts.specialTokens.map(\.id))
    for id in parts.prefix + parts.suffix {
      let isThere = parts.tokens.indices.contains(Int(id)) && (parts.tokens[Int(id)] != nil || specials.contains(id))
      try requireFile(
        isThere, path, "post_processor: ids of the vocabulary expected; got \(id)")
    }
  }
}
