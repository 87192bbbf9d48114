public import AttentionTensors

extension SentenceEncoder {
  /// A text in parts of at most ``maximumLength`` tokens each, its prompt's counted, cut between words.
  ///
  /// Each part begins with the last words of the one before, as many as fit `overlap` tokens. A single word that is longer than
  /// the model's limit is a part of its own, and cut.
  ///
  /// - Parameters:
  ///   - text: Any text.
  ///   - overlap: Tokens that two parts have in common at most; nil: an eighth of a part.
  ///   - prompt: What is put before each part when it is embedded.
  /// - Returns: The text itself where it fits; else parts of it, in order.
  /// - Throws: `AttentionError` for an overlap below 0 or of half a part and more, and a prompt that the model does not have.
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
    let words = text.split(whereSeparator: \.isWhitespace)
    let around = tokenizer.encode("").count
    let counts = words.map { tokenizer.encode(String($0)).count - around }
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
      // Back by the words that fit the overlap, but on by one at least.
      var (next, common) = (end, 0)
      while next - 1 > first, common + counts[next - 1] <= overlap {
        next -= 1
        common += counts[next]
      }
      first = next
    }
    return parts
  }
}
