import Attention
import AttentionFiles
import AttentionModels

/// Who looks at whom in some sentences: words and weights, without padding.
struct AttentionMap {
  struct Sentence: Encodable {
    /// The words that look.
    let rows: [String]
    /// The words that are looked at.
    let columns: [String]
    /// `[layer][head][row][column]`.
    let layers: [[[[Float]]]]

    var layerCount: Int { layers.count }
    var headCount: Int { layers[0].count }

    /// With weights to five decimals, which is what a page shows and half as long.
    var rounded: Sentence {
      Sentence(
        rows: rows, columns: columns,
        layers: layers.map { $0.map { $0.map { $0.map { ($0 * 1e5).rounded() / 1e5 } } } })
    }

    /// The weights of one head; nil: the mean over heads.
    func matrix(layer: Int, head: Int?) -> [[Float]] {
      let weights = layers[layer]
      if let head { return weights[head] }
      return rows.indices.map { row in
        columns.indices.map { column in
          weights.reduce(0) { $0 + $1[row][column] } / Float(headCount)
        }
      }
    }
  }

  let sentences: [Sentence]

  /// Texts through a whole model.
  init(texts: [String], encoder: SentenceEncoder, context: AttentionContext) throws {
    sentences = try texts.map { text in
      let (tokens, layers) = try encoder.attentions(for: text, context: context)
      let words = tokens.map(\.printable)
      return Sentence(
        rows: words, columns: words,
        layers: layers.map { weights in
          (0..<weights.shape[0]).map { head in
            words.indices.map { row in words.indices.map { weights[head, row, $0] } }
          }
        })
    }
  }

  /// The words of `stored` with `weights` `[B, H, L, S]`, of one layer.
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
        layers: [
          (0..<headCount).map { head in
            queries.map { row in keys.map { weights[sentence, head, row, $0] } }
          }
        ])
    }
  }
}
