import Attention
import AttentionFiles

/// Who looks at whom in the sentences of a stored multi-head attention: words and weights, without padding.
struct AttentionMap {
  struct Sentence: Encodable {
    /// The words that look.
    let rows: [String]
    /// The words that are looked at.
    let columns: [String]
    /// `[head][row][column]`.
    let weights: [[[Float]]]

    var headCount: Int { weights.count }

    /// The weights of one head; nil: the mean over heads.
    func matrix(head: Int?) -> [[Float]] {
      if let head { return weights[head] }
      return rows.indices.map { row in
        columns.indices.map { column in
          weights.reduce(0) { $0 + $1[row][column] } / Float(headCount)
        }
      }
    }
  }

  let sentences: [Sentence]

  /// The words of `stored` with `weights` `[B, H, L, S]`.
  ///
  /// `tokens` in the file's metadata is a line of words for each sentence, a word for each key; without it, words are
  /// numbers. Keys that the layer adds, and queries that are no keys, have no words.
  init(stored: SafeTensorsFile, layer: MultiHeadAttention<Float>, weights: Tensor<Float>) throws {
    let (sentenceCount, headCount) = (weights.shape[0], weights.shape[1])
    guard sentenceCount > 0 else { throw AttentionError(.invalidFile, stored.path, "at least one sentence expected") }
    let addedCount =
      (layer.configuration.addsBiasKeyValue ? 1 : 0) + (layer.configuration.addsZeroAttention ? 1 : 0)
    let lines = stored.metadata["tokens"]?.split(separator: "\n", omittingEmptySubsequences: false)
    if let lines, lines.count != sentenceCount {
      throw AttentionError(
        .invalidFile, stored.path, "tokens: a line for each of \(sentenceCount) sentences expected; got \(lines.count)")
    }
    sentences = try (0..<sentenceCount).map { sentence in
      let keyCount = weights.shape[3] - addedCount
      var words = (0..<keyCount).map(String.init)
      if let line = lines?[sentence] {
        words = line.split(separator: " ").map { String($0).printable }
        guard words.count == keyCount else {
          throw AttentionError(
            .invalidFile, stored.path,
            "tokens: \(keyCount) words in line \(sentence) expected, one for each key; got \(words.count)")
        }
      }
      // Without padding, unless there is nothing else.
      let shownCount = (words.lastIndex { $0 != "[PAD]" } ?? keyCount - 1) + 1
      let isSelf = weights.shape[2] == keyCount
      let queries = isSelf ? Array(0..<shownCount) : Array(0..<weights.shape[2])
      let keys = Array(0..<shownCount) + Array(keyCount..<keyCount + addedCount)
      return Sentence(
        rows: queries.map { isSelf ? words[$0] : String($0) },
        columns: keys.map { $0 < keyCount ? words[$0] : "(added)" },
        weights: (0..<headCount).map { head in
          queries.map { row in keys.map { weights[sentence, head, row, $0] } }
        })
    }
  }
}
