public import AttentionTensors

extension SentenceEncoder {
  /// A text in parts of at most ``maximumLength`` tokens each, including those of the prompt. Parts are cut between words. A word
  /// that is longer than a part is also cut at its punctuation marks and ideographs.
  ///
  /// Each part begins with the last words of the part before: as many as have at most `overlap` tokens together and
  /// leave room for the next word. A run of letters that is longer than the model's limit becomes a part of its own,
  /// and the model cuts it.
  ///
  /// - Parameters:
  ///   - text: Any text.
  ///   - overlap: The largest number of tokens that two parts share; nil: an eighth of a part.
  ///   - prompt: The prompt before each part when it is embedded.
  /// - Returns: The text itself if it fits; otherwise its parts, in order.
  /// - Throws: `AttentionError` for an overlap below 0 or of at least half a part, or for a prompt that the model does
  ///   not have.
  public func chunks(
    of text: String, overlap: Int? = nil, prompt: EmbeddingPrompt = .automatic
  ) throws(AttentionError) -> [String] {
    let resolved = try resolve(prompt)
    let room = maximumLength - tokens("", after: resolved).ids.count
    let overlap = overlap ?? room / 8
    try requireArgument(
      overlap >= 0 && 2 * overlap < max(room, 1), "SentenceEncoder",
      "an overlap from 0 to less than half of the \(max(room, 0)) tokens of a part expected; got \(overlap)")
    if !tokens(text, after: resolved).isCut { return [text] }
    let around = tokenizer.encode("").count
    func count(_ word: Substring) -> Int { tokenizer.encode(String(word)).count - around }
    let words = text.split(whereSeparator: \.isWhitespace).flatMap { count($0) > room ? Self.pieces(of: $0) : [$0] }
    let counts = words.map(count)
    var parts: [String] = []
    var first = 0
    while first < words.count {
      var (end, count) = (first, 0)
      while end < words.count, end == first || count + counts[end] <= room {
        count += counts[end]
        end += 1
      }
      parts.append(String(text[words[first].startIndex..<words[end - 1].endIndex]))
      if end == words.count { break }
      // The next part begins with the words before the cut that fit in the overlap, as long as the first word after the
      // cut fits too: each part must add a new word.
      var (next, common) = (end, 0)
      while next - 1 > first, common + max(counts[next - 1], 1) <= overlap,
        common + max(counts[next - 1], 1) + counts[end] <= room
      {
        next -= 1
        common += max(counts[next], 1)
      }
      first = next
    }
    return parts
  }

  /// A word in pieces: each punctuation mark, each ideograph and each run of letters between them is a piece.
  private static func pieces(of word: Substring) -> [Substring] {
    var pieces: [Substring] = []
    var start = word.startIndex
    var index = start
    while index < word.endIndex {
      let next = word.index(after: index)
      let scalar = word[index].unicodeScalars.first!
      if BertCharacters.isPunctuation(scalar) || BertCharacters.isIdeograph(scalar) {
        if start < index { pieces.append(word[start..<index]) }
        pieces.append(word[index..<next])
        start = next
      }
      index = next
    }
    if start < word.endIndex { pieces.append(word[start...]) }
    return pieces
  }
}
