import Attention
import AttentionFiles
import AttentionModels

/// How much each word of a sentence attends to each word, for several sentences, without padding.
struct AttentionMap {
  struct Sentence: Encodable {
    /// The words that attend.
    let rows: [String]
    /// The words that they attend to.
    let columns: [String]
    /// `[layer][head][row][column]`.
    let layers: [[[[Float]]]]

    var layerCount: Int { layers.count }
    var headCount: Int { layers[0].count }

    /// The sentence with weights rounded to five decimals: a page shows no more, and its file is half as long.
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

  /// A map of all layers of a model, for each text.
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

  /// A map of one layer: the words of `stored` with `weights` `[B, H, L, S]`.
  ///
  /// `tokens` in the file's metadata has a line for each sentence, with a word for each key. Without it, the words are
  /// numbers. Keys that the layer adds are called "(added)". If there are as many queries as keys, queries have the
  /// words of the keys; otherwise they are numbered.
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
      // Padding is left out, unless the sentence has nothing else.
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
