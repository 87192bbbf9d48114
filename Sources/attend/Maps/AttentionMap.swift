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
  init(stored: SafeTensorsFile, weights: Tensor<Float>) throws {
    let (sentenceCount, headCount) = (weights.shape[0], weights.shape[1])
    guard sentenceCount > 0 else { throw AttentionError(.invalidFile, stored.path, "at least one sentence expected") }
    let lines = (stored.metadata["tokens"] ?? "").split(separator: "\n", omittingEmptySubsequences: false)
    sentences = (0..<sentenceCount).map { sentence in
      let columns = Self.tokens(sentence < lines.count ? lines[sentence] : nil, keyCount: weights.shape[3])
      let rows = Array(columns.prefix(weights.shape[2]))
      return Sentence(
        rows: rows, columns: columns,
        weights: (0..<headCount).map { head in
          rows.indices.map { row in columns.indices.map { weights[sentence, head, row, $0] } }
        })
    }
  }

  /// The words of one sentence without its padding; numbers where the file has no words.
  private static func tokens(_ line: Substring?, keyCount: Int) -> [String] {
    guard let line else { return (0..<keyCount).map(String.init) }
    let words = line.split(separator: " ").prefix(keyCount).map { String($0).printable }
    return Array(words.prefix((words.lastIndex { $0 != "[PAD]" } ?? -1) + 1))
  }
}
