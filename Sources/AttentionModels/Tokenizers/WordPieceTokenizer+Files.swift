internal import AttentionFiles
internal import AttentionTensors
internal import Foundation

extension WordPieceTokenizer {
  /// The tokenizer of a Hugging Face folder: `tokenizer.json`, or else `vocab.txt` with the settings of `tokenizer_config.json`.
  ///
  /// - Parameter directory: The path of the folder.
  /// - Throws: `AttentionError` if files are missing or wrong, or are for another kind of tokenizer.
  public init(directory: String) throws(AttentionError) {
    let folder = ModelFolder(path: directory)
    try folder.check()
    try self.init(folder: folder)
  }

  /// The tokenizer of a folder. If `lowercases` is true, letters become small letters even if the folder's files keep them
  /// as they are.
  init(folder: ModelFolder, lowercases: Bool = false) throws(AttentionError) {
    let settings = try TokenizerSettings(folder)
    if let kind: TokenizerKind = try folder.json("tokenizer.json") {
      let path = folder.path("tokenizer.json")
      // The kind is checked before the rest is decoded: the files of other kinds of tokenizers have another form.
      guard kind.model?.type ?? "WordPiece" == "WordPiece" else {
        throw AttentionError(
          .unsupported, path, "model of type \"WordPiece\" expected; got \"\(kind.model?.type ?? "")\"")
      }
      let file: TokenizerFile = try folder.required("tokenizer.json")
      var parts = try file.parts(path)
      if file.hasGaps, folder.contains("vocab.txt") {
        // The keys of the JSON object become Swift strings. Tokens that Unicode counts as equal, such as é in one
        // scalar and in two, are equal Swift strings, so only one of them is left. `vocab.txt` still has all of them,
        // because its lines are not compared with one another.
        let tokens = try Self.vocabulary(folder)
        let isSame = parts.tokens.enumerated().allSatisfy { id, token in
          token == nil || tokens.indices.contains(id) && tokens[id] == token
        }
        try requireFile(
          isSame && tokens.count <= parts.tokens.count, folder.path("vocab.txt"), "the vocabulary of \(path) expected")
        let specials = Set(parts.addedTokens.map(\.id))
        for (id, token) in tokens.enumerated() where !specials.contains(Int32(id)) { parts.tokens[id] = token }
      }
      try settings.change(&parts, path)
      if lowercases { parts.normalizer.lowercases = true }
      try self.init(parts, name: path)
      return
    }
    guard folder.contains("vocab.txt") else {
      throw AttentionError(.notFound, folder.path, "tokenizer.json or vocab.txt expected")
    }
    let path = folder.path("vocab.txt")
    var parts = WordPieceTokenizer.Parts(tokens: try Self.vocabulary(folder))
    try settings.complete(&parts, path)
    if lowercases { parts.normalizer.lowercases = true }
    try self.init(parts, name: path)
  }

  /// The lines of `vocab.txt`: each line is a token, whatever it contains.
  private static func vocabulary(_ folder: ModelFolder) throws(AttentionError) -> [String] {
    let path = folder.path("vocab.txt")
    let bytes = try folder.bytes("vocab.txt")
    if let other = bytes.withUnsafeBytes(whatElse) {
      throw AttentionError(.invalidFile, path, "a token in each line expected; it is \(other)")
    }
    let lines = try splitLines(bytes, name: path)
    try requireFile(lines.count <= idLimit, path, "\(idLimit) tokens at most expected; got \(lines.count)")
    return lines
  }

  /// The largest number of ids: a file with more is not a vocabulary.
  fileprivate static let idLimit = 1 << 24
}

/// The settings of BERT's tokenizer in `tokenizer_config.json` and the files next to it.
private struct TokenizerSettings {
  private let file: File
  private let path: String
  /// Tokens that were added to the vocabulary.
  private let added: [WordPieceTokenizer.AddedToken]

  /// A token, stored as a string or as an object with its `content`.
  private struct Token: Decodable {
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

  private struct Names: Decodable {
    var unk_token: Token?
    var cls_token: Token?
    var sep_token: Token?
    var pad_token: Token?
    var mask_token: Token?
  }

  private struct File: Decodable {
    struct AddedToken: Decodable {
      let content: String
      let single_word: Bool?
      let normalized: Bool?
      let special: Bool?
    }
    var tokenizer_class: String?
    var do_lower_case: Bool?
    var strip_accents: Bool?
    var tokenize_chinese_chars: Bool?
    var truncation_side: String?
    var added_tokens_decoder: [String: AddedToken]?
  }

  private var names = Names()

  /// Classes that are BERT's tokenizer under another name.
  private static let classes = ["Bert", "DistilBert", "Electra", "MobileBert", "RetriBert"]
  /// Classes that use `tokenizer.json` as it is, whatever the settings say about normalisation and special tokens.
  private static let plainClasses = ["PreTrainedTokenizerFast", "TokenizersBackend"]

  private var isPlain: Bool { file.tokenizer_class.map(Self.plainClasses.contains) ?? false }

  init(_ folder: ModelFolder) throws(AttentionError) {
    let name = "tokenizer_config.json"
    path = folder.path(name)
    file = try folder.json(name) ?? File()
    let known = Self.classes.flatMap { ["\($0)Tokenizer", "\($0)TokenizerFast"] } + Self.plainClasses
    if let own = file.tokenizer_class, !known.contains(own) {
      throw AttentionError(
        .unsupported, path, "tokenizer_class \"BertTokenizer\", or one that is like it, expected; got \"\(own)\"")
    }
    let sides = ["left", "right"]
    if let side = file.truncation_side, !sides.contains(side) {
      throw AttentionError(.invalidFile, path, "truncation_side left or right expected; got \"\(side)\"")
    }
    // Older releases of transformers keep the names of the special tokens in a separate file.
    let older: Names = try folder.json("special_tokens_map.json") ?? Names()
    names = try folder.json(name) ?? Names()
    names.unk_token = names.unk_token ?? older.unk_token
    names.cls_token = names.cls_token ?? older.cls_token
    names.sep_token = names.sep_token ?? older.sep_token
    names.pad_token = names.pad_token ?? older.pad_token
    names.mask_token = names.mask_token ?? older.mask_token

    var added: [WordPieceTokenizer.AddedToken] = []
    for (number, token) in file.added_tokens_decoder ?? [:] {
      guard let id = Int32(number), id >= 0 else {
        throw AttentionError(.invalidFile, path, "added_tokens_decoder: ids from 0 expected; got \"\(number)\"")
      }
      added.append(
        WordPieceTokenizer.AddedToken(
          content: token.content, id: id, isSingleWord: token.single_word ?? false,
          isNormalized: token.normalized ?? (token.special != true)))
    }
    // `added_tokens.json` is the oldest form of added tokens and holds only their texts and ids. Except for special
    // tokens, these tokens are searched for in the normalised text.
    let oldest: [String: Int32] = try folder.json("added_tokens.json") ?? [:]
    for (content, id) in oldest where !added.contains(where: { $0.id == id }) {
      try requireFile(id >= 0, folder.path("added_tokens.json"), "ids from 0 expected; got \(id)")
      let isSpecial = [names.unk_token, names.cls_token, names.sep_token, names.pad_token, names.mask_token]
        .contains { $0?.content == content }
      added.append(WordPieceTokenizer.AddedToken(content: content, id: id, isNormalized: !isSpecial))
    }
    self.added = added.sorted { $0.id < $1.id }
  }

  /// Completes `parts`, which hold only the vocabulary of `vocab.txt` so far.
  func complete(_ parts: inout WordPieceTokenizer.Parts, _ path: String) throws(AttentionError) {
    parts.normalizer.lowercases = file.do_lower_case ?? true
    parts.normalizer.stripsAccents = file.strip_accents ?? parts.normalizer.lowercases
    parts.normalizer.separatesIdeographs = file.tokenize_chinese_chars ?? true
    parts.cutsFront = file.truncation_side == "left"
    parts.unknownToken = names.unk_token?.content ?? "[UNK]"
    try add(&parts)
    let ids = Self.ids(parts)
    func id(_ token: Token?, _ other: String) throws(AttentionError) -> Int32 {
      let name = token?.content ?? other
      if let id = ids[Array(name.utf8)] { return id }
      throw AttentionError(.invalidFile, path, "the token \"\(name)\" expected in the vocabulary")
    }
    parts.prefix = [try id(names.cls_token, "[CLS]")]
    parts.suffix = [try id(names.sep_token, "[SEP]")]
    let specials = [
      names.unk_token?.content ?? "[UNK]", names.cls_token?.content ?? "[CLS]", names.sep_token?.content ?? "[SEP]",
      names.pad_token?.content ?? "[PAD]", names.mask_token?.content ?? "[MASK]",
    ]
    for name in specials {
      guard let id = ids[Array(name.utf8)], !parts.addedTokens.contains(where: { $0.id == id }) else { continue }
      parts.addedTokens.append(WordPieceTokenizer.AddedToken(content: name, id: id))
    }
  }

  /// Applies the settings that override a `tokenizer.json`, as transformers does.
  func change(_ parts: inout WordPieceTokenizer.Parts, _ path: String) throws(AttentionError) {
    parts.cutsFront = file.truncation_side == "left"
    try add(&parts)
    if isPlain { return }
    if let lowercases = file.do_lower_case, lowercases != parts.normalizer.lowercases {
      parts.normalizer.lowercases = lowercases
      parts.normalizer.stripsAccents = lowercases
    }
    if let strips = file.strip_accents { parts.normalizer.stripsAccents = strips }
    if let separates = file.tokenize_chinese_chars { parts.normalizer.separatesIdeographs = separates }
    if let unknown = names.unk_token { parts.unknownToken = unknown.content }
    let ids = Self.ids(parts)
    func replace(_ token: Token?, _ place: inout [Int32]) throws(AttentionError) {
      guard let token, place.count == 1 else { return }
      guard let id = ids[Array(token.content.utf8)] else {
        throw AttentionError(
          .invalidFile, self.path, "tokens of the vocabulary expected; got \"\(token.content)\"")
      }
      place = [id]
    }
    try replace(names.cls_token, &parts.prefix)
    try replace(names.sep_token, &parts.suffix)
  }

  /// Adds the added tokens, and makes room for their ids.
  private func add(_ parts: inout WordPieceTokenizer.Parts) throws(AttentionError) {
    for token in added {
      // The limit bounds the memory that gaps between ids take.
      let limit = min(WordPieceTokenizer.idLimit, max(1 << 20, 2 * (parts.tokens.count + added.count)))
      try requireFile(
        Int(token.id) < limit, path, "ids of added tokens below \(limit) expected; got \(token.id)")
      while parts.tokens.count <= Int(token.id) { parts.tokens.append(nil) }
      // What tokenizer.json says about its own tokens takes precedence.
      if parts.addedTokens.contains(where: { $0.id == token.id }) { continue }
      parts.addedTokens.append(token)
    }
  }

  /// The ids by the bytes of their tokens. As keys, Swift strings would not do: tokens that Unicode counts as equal
  /// would share one key.
  private static func ids(_ parts: WordPieceTokenizer.Parts) -> [[UInt8]: Int32] {
    var ids: [[UInt8]: Int32] = [:]
    for (id, token) in parts.tokens.enumerated() {
      if let token { ids[Array(token.utf8)] = Int32(id) }
    }
    for token in parts.addedTokens { ids[Array(token.content.utf8)] = token.id }
    return ids
  }
}

/// The kind of model that a `tokenizer.json` is for.
private struct TokenizerKind: Decodable {
  struct Model: Decodable { let type: String? }
  let model: Model?
}

/// The parts of `tokenizer.json` that BERT's tokenizer uses.
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
  /// A token with its id: `["[SEP]", 102]`.
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

  /// True if some ids below the largest one have no token.
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
    // The limit bounds the memory that gaps between ids take.
    let limit = min(WordPieceTokenizer.idLimit, max(1 << 20, 2 * ids.count))
    try requireFile(
      (ids.min() ?? 0) >= 0 && most < limit, path,
      "ids from 0 to \(limit - 1) expected; got \(ids.min() ?? 0) to \(most)")
    parts.tokens = Array(repeating: nil, count: most + 1)
    for (token, id) in model.vocab { parts.tokens[Int(id)] = token }
    for token in added {
      // lstrip and rstrip, which make white space next to a token part of it, change nothing: white space separates words anyway.
      parts.addedTokens.append(
        WordPieceTokenizer.AddedToken(
          content: token.content, id: token.id, isSingleWord: token.single_word ?? false,
          isNormalized: token.normalized ?? false))
    }
    try around(&parts, path)
    return parts
  }

  /// Sets the tokens before and after a text.
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
    let specials = Set(parts.addedTokens.map(\.id))
    for id in parts.prefix + parts.suffix {
      let isThere = parts.tokens.indices.contains(Int(id)) && (parts.tokens[Int(id)] != nil || specials.contains(id))
      try requireFile(
        isThere, path, "post_processor: ids of the vocabulary expected; got \(id)")
    }
  }
}
