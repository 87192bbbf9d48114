internal import AttentionTensors

/// BERT's tokenizer. It normalises text, splits it into words and punctuation, and splits each word, from left to right, into the
/// longest pieces of a vocabulary.
///
///     let tokenizer = try WordPieceTokenizer(directory: "all-MiniLM-L6-v2")
///     tokenizer.encode("Unbelievable!")          // [101, 23653, 999, 102]
///     tokenizer.encode("Unbelievable!").map(tokenizer.token)   // ["[CLS]", "unbelievable", "!", "[SEP]"]
///
/// Ids are those of Hugging Face's `tokenizers` (0.23): `make test-tokenizer` compares thousands of random texts, and
/// with `ARGUMENTS=--every-scalar` also every scalar. As in `tokenizers`, special and added tokens that are in the
/// text, such as `[SEP]`, are recognised as these tokens.
///
/// Cost: linear in the length of the text up to the word of the last token that is kept. If the first tokens are left
/// out, or if added tokens are searched for in the normalised text, the cost may be linear in the length of the whole
/// text. A tokenizer is safe to use from several threads at once.
/// Source: Devlin et al. 2018 (arXiv:1810.04805); Schuster and Nakajima 2012, "Japanese and Korean voice search".
public struct WordPieceTokenizer: Sendable {
  /// The parts of a tokenizer.
  struct Parts: Sendable {
    /// The pieces of words in the order of their ids; nil where an id is free or belongs to a special token.
    var tokens: [String?]
    var normalizer = BertNormalizer()
    var unknownToken = "[UNK]"
    var continuationPrefix = "##"
    var wordLimit = 100
    /// Tokens that are recognised anywhere in the text: special tokens, and those that were added to the vocabulary later.
    var addedTokens: [AddedToken] = []
    /// Whether a text that is too long loses its first tokens instead of its last ones.
    var cutsFront = false
    /// The tokens before and after every text.
    var prefix: [Int32] = []
    var suffix: [Int32] = []
  }

  /// A token that normalisation and splitting leave whole.
  struct AddedToken: Sendable, Hashable {
    var content: String
    var id: Int32
    /// Whether the token is recognised only if no letter, digit, mark or underscore touches it.
    var isSingleWord = false
    /// Whether the token is normalised and searched for in the normalised text; otherwise it is searched for in the raw
    /// text.
    var isNormalized = false
  }

  private let parts: Parts
  /// Pieces and special tokens in the order of their ids.
  private let names: [String?]
  private let pieces: PieceTrie
  /// The node of the prefix of pieces that do not begin a word; nil: there are no such pieces.
  private let continuation: Int32?
  private let unknown: Int32
  /// Added tokens that are searched for in the raw text, with their places in `parts.addedTokens`.
  private let rawTokens: PieceTrie
  /// Added tokens that are searched for in the normalised text; nil: there are none.
  private let normalizedTokens: PieceTrie?
  private let classes: [ByteClass]

  /// The class of a byte.
  private enum ByteClass: UInt8 {
    case letter, space, punctuation, removed, beyondASCII
  }

  init(_ parts: Parts, name: String) throws(AttentionError) {
    self.parts = parts
    var names = parts.tokens
    for token in parts.addedTokens { names[Int(token.id)] = token.content }
    self.names = names
    var pieces = PieceTrie()
    for (id, token) in parts.tokens.enumerated() {
      if let token { pieces.insert(token.utf8, Int32(id)) }
    }
    self.pieces = pieces
    continuation = pieces.node(parts.continuationPrefix.utf8)
    guard let node = pieces.node(parts.unknownToken.utf8), pieces.value(node) >= 0 else {
      throw AttentionError(.invalidFile, name, "the unknown token \"\(parts.unknownToken)\" expected in the vocabulary")
    }
    unknown = pieces.value(node)
    var rawTokens = PieceTrie()
    var normalizedTokens: PieceTrie?
    for (place, token) in parts.addedTokens.enumerated() {
      if !token.isNormalized {
        if !token.content.isEmpty { rawTokens.insert(token.content.utf8, Int32(place)) }
        continue
      }
      let content = parts.normalizer.normalized(token.content)
      if content.isEmpty { continue }
      if normalizedTokens == nil { normalizedTokens = PieceTrie() }
      normalizedTokens!.insert(content.utf8, Int32(place))
    }
    self.rawTokens = rawTokens
    self.normalizedTokens = normalizedTokens
    classes = (0..<256).map { value in
      guard value < 128 else { return .beyondASCII }
      let scalar = Unicode.Scalar(UInt8(value))
      if parts.normalizer.cleansText && BertCharacters.isRemoved(scalar) { return .removed }
      if BertCharacters.isSpace(scalar) { return .space }
      return BertCharacters.isPunctuation(scalar) ? .punctuation : .letter
    }
  }

  /// The number of ids in the vocabulary; they begin with 0.
  public var vocabularySize: Int { parts.tokens.count }

  /// The token with an id; for an id that is not in the vocabulary, the unknown token.
  public func token(_ id: Int32) -> String {
    names.indices.contains(Int(id)) ? names[Int(id)] ?? parts.unknownToken : parts.unknownToken
  }

  /// The smallest length that has room for the tokens around a text and one token of the text.
  public var leastLength: Int { parts.prefix.count + parts.suffix.count + 1 }

  /// The number of tokens after every text.
  var suffixLength: Int { parts.suffix.count }

  /// The ids of a text, with the tokens around it: `[CLS] … [SEP]`.
  ///
  /// - Parameters:
  ///   - text: Any text; an empty one has only the tokens around it.
  ///   - maximumLength: The largest number of tokens, including those around the text. The text's last tokens are left out, or
  ///     its first ones if `truncation_side` is left. Nil: no limit.
  /// - Returns: The ids.
  public func encode(_ text: String, maximumLength: Int? = nil) -> [Int32] {
    encode(text, cutTo: maximumLength ?? .max).ids
  }

  /// The ids of a text, and whether tokens were left out.
  func encode(_ text: String, cutTo maximumLength: Int) -> (ids: [Int32], isCut: Bool) {
    let around = parts.prefix.count + parts.suffix.count
    let limit = max(maximumLength, around) - around
    var text = text
    return text.withUTF8 { bytes in
      // One token more than fits shows that something is left out.
      var run = Run(tokenizer: self, limit: parts.cutsFront || limit == .max ? .max : limit + 1)
      run.encode(bytes)
      let ids = parts.cutsFront ? run.ids.suffix(limit) : run.ids.prefix(limit)
      return (parts.prefix + ids + parts.suffix, run.ids.count > limit)
    }
  }

  /// The encoding of one text, while it runs.
  private struct Run {
    let tokenizer: WordPieceTokenizer
    /// The number of tokens at which the encoding stops, at the end of a word.
    let limit: Int
    var ids: [Int32] = []
    /// The current word in normal form, and the number of its characters.
    private var word: [UInt8] = []
    private var characterCount = 0
    /// A run of scalars beyond ASCII. Removed characters do not interrupt a run. The scalars are normalised together,
    /// because normalisation sorts the marks after a letter.
    private var pending: [Unicode.Scalar] = []

    init(tokenizer: WordPieceTokenizer, limit: Int) {
      self.tokenizer = tokenizer
      self.limit = limit
    }

    private static let pendingLimit = 64

    private var isFull: Bool { ids.count >= limit }

    mutating func encode(_ bytes: UnsafeBufferPointer<UInt8>) {
      guard let normalizedTokens = tokenizer.normalizedTokens else { return encodeWords(bytes, tokenizer.rawTokens) }
      // The text between tokens of the raw text is normalised as a whole, and searched for the tokens of the normalised text.
      forEachPart(of: bytes, between: tokenizer.rawTokens) { run, part in
        var text = run.tokenizer.parts.normalizer.normalized(String(decoding: part, as: UTF8.self))
        text.withUTF8 { bytes in
          run.forEachPart(of: bytes, between: normalizedTokens) { $0.encodeWords($1, nil) }
        }
      }
    }

    /// Appends the added tokens, and calls `body` for the text between them.
    private mutating func forEachPart(
      of bytes: UnsafeBufferPointer<UInt8>, between tokens: PieceTrie,
      _ body: (inout Run, UnsafeBufferPointer<UInt8>) -> Void
    ) {
      var start = 0
      var index = 0
      while index < bytes.count, !isFull {
        guard let (end, token) = token(bytes, index, tokens) else {
          index += 1
          continue
        }
        if token.isSingleWord && !standsAlone(bytes, index..<end) {
          index = end
          continue
        }
        if start < index { body(&self, UnsafeBufferPointer(rebasing: bytes[start..<index])) }
        ids.append(token.id)
        (start, index) = (end, end)
      }
      if start < bytes.count, !isFull { body(&self, UnsafeBufferPointer(rebasing: bytes[start...])) }
    }

    /// Splits a text into words and words into pieces, and recognises added tokens. The text may already be in normal
    /// form: normalisation does not change it again.
    private mutating func encodeWords(_ bytes: UnsafeBufferPointer<UInt8>, _ tokens: PieceTrie?) {
      let lowercases = tokenizer.parts.normalizer.lowercases
      var index = 0
      /// The end of the last added token that was found but does not count, because a word character touches it.
      var tokenFreeEnd = 0
      while index < bytes.count, !isFull {
        let byte = bytes[index]
        if index >= tokenFreeEnd, let tokens, let (end, token) = token(bytes, index, tokens) {
          if !token.isSingleWord || standsAlone(bytes, index..<end) {
            endWord()
            ids.append(token.id)
            index = end
            continue
          }
          tokenFreeEnd = end
        }
        switch tokenizer.classes[Int(byte)] {
        case .letter:
          flush()
          word.append(lowercases && byte >= 65 && byte <= 90 ? byte + 32 : byte)
          characterCount += 1
          index += 1
        case .space:
          endWord()
          index += 1
        case .punctuation:
          endWord()
          append(punctuation: CollectionOfOne(byte))
          index += 1
        case .removed: index += 1
        case .beyondASCII:
          let (scalar, count) = decode(bytes, index)
          if let scalar = tokenizer.parts.normalizer.cleaned(scalar) {
            // Many pending scalars are normalised early, as soon as the next scalar is a letter. If it is a mark, they
            // stay pending: normalisation sorts the marks after a letter, and so needs all of them at once.
            if pending.count >= Self.pendingLimit, BertCharacters.isLetter(scalar) { flush() }
            pending.append(scalar)
          }
          index += count
        }
      }
      endWord()
    }

    /// The longest added token that begins at `start`, and the index of the byte after it.
    private func token(
      _ bytes: UnsafeBufferPointer<UInt8>, _ start: Int, _ tokens: PieceTrie
    ) -> (Int, AddedToken)? {
      var node = PieceTrie.root
      var index = start
      var found: (Int, Int32)?
      while index < bytes.count, let next = tokens.step(node, bytes[index]) {
        node = next
        index += 1
        if tokens.value(node) >= 0 { found = (index, tokens.value(node)) }
      }
      return found.map { ($0, tokenizer.parts.addedTokens[Int($1)]) }
    }

    /// True if no letter, digit, mark or underscore touches this part of the text.
    private func standsAlone(_ bytes: UnsafeBufferPointer<UInt8>, _ part: Range<Int>) -> Bool {
      if part.upperBound < bytes.count, BertCharacters.isOfWord(scalar(bytes, part.upperBound)) { return false }
      if part.lowerBound == 0 { return true }
      var before = part.lowerBound - 1
      while bytes[before] & 0xc0 == 0x80 { before -= 1 }
      return !BertCharacters.isOfWord(scalar(bytes, before))
    }

    private func scalar(_ bytes: UnsafeBufferPointer<UInt8>, _ index: Int) -> Unicode.Scalar {
      bytes[index] < 0x80 ? Unicode.Scalar(bytes[index]) : decode(bytes, index).0
    }

    /// The scalar at `index` of valid UTF-8, and the number of its bytes.
    private func decode(_ bytes: UnsafeBufferPointer<UInt8>, _ index: Int) -> (Unicode.Scalar, Int) {
      let first = UInt32(bytes[index])
      func next(_ i: Int) -> UInt32 { UInt32(bytes[index + i]) & 0x3f }
      if first < 0xe0 { return (Unicode.Scalar((first & 0x1f) << 6 | next(1))!, 2) }
      if first < 0xf0 { return (Unicode.Scalar((first & 0x0f) << 12 | next(1) << 6 | next(2))!, 3) }
      return (Unicode.Scalar((first & 0x07) << 18 | next(1) << 12 | next(2) << 6 | next(3))!, 4)
    }

    /// Normalises the pending scalars and appends them to the word, which ends at each space and punctuation mark.
    private mutating func flush() {
      if pending.isEmpty { return }
      let scalars = tokenizer.parts.normalizer.normalize(pending)
      pending.removeAll(keepingCapacity: true)
      for scalar in scalars {
        if BertCharacters.isSpace(scalar) {
          endPieces()
        } else if BertCharacters.isPunctuation(scalar) {
          endPieces()
          append(punctuation: UTF8.encode(scalar)!)
        } else {
          word.append(contentsOf: UTF8.encode(scalar)!)
          characterCount += 1
        }
      }
    }

    private mutating func endWord() {
      flush()
      endPieces()
    }

    private mutating func append(punctuation bytes: some Sequence<UInt8>) {
      let pieces = tokenizer.pieces
      let id = pieces.node(bytes).map(pieces.value) ?? -1
      ids.append(id >= 0 ? id : tokenizer.unknown)
    }

    /// Appends the longest pieces of the word, from left to right. Appends the unknown token instead if the pieces do
    /// not cover the word or the word has too many characters.
    private mutating func endPieces() {
      if word.isEmpty { return }
      defer {
        word.removeAll(keepingCapacity: true)
        characterCount = 0
      }
      if characterCount > tokenizer.parts.wordLimit { return ids.append(tokenizer.unknown) }
      let before = ids.count
      var start = 0
      while start < word.count {
        var node: Int32? = start == 0 ? PieceTrie.root : tokenizer.continuation
        var found: (end: Int, id: Int32)?
        var index = start
        while index < word.count, let from = node, let next = tokenizer.pieces.step(from, word[index]) {
          index += 1
          if tokenizer.pieces.value(next) >= 0 { found = (index, tokenizer.pieces.value(next)) }
          node = next
        }
        guard let found else {
          ids.removeSubrange(before...)
          return ids.append(tokenizer.unknown)
        }
        ids.append(found.id)
        start = found.end
      }
    }
  }
}
