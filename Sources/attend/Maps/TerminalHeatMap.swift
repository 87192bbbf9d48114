/// A matrix of attention weights as text: one row for each token that attends, one column for each token that it attends to.
struct TerminalHeatMap {
  struct Style {
    let isColoured: Bool

    /// The text in the colour of the map, if colours are used.
    func coloured(_ text: String) -> String { isColoured ? "\u{1b}[38;5;208m\(text)\u{1b}[0m" : text }

    /// Two characters for a weight; `share` is the weight divided by the largest one. Their shade or colour follows the
    /// square root of the share: otherwise one large weight would hide all others.
    func cell(_ share: Float) -> String {
      if isColoured {
        // From black through red to yellow, in the colour cube of 6 × 6 × 6 colours of a terminal with 256 colours.
        let ramp = [16, 52, 88, 124, 160, 166, 172, 178, 220, 227]
        return "\u{1b}[48;5;\(ramp[Self.step(share, of: ramp.count)])m  \u{1b}[0m"
      }
      let shades: [Character] = [" ", "·", "░", "▒", "▓", "█"]
      return String(repeating: shades[Self.step(share, of: shades.count)], count: 2)
    }

    private static func step(_ share: Float, of count: Int) -> Int {
      share.isFinite ? min(count - 1, max(0, Int(share.squareRoot() * Float(count)))) : 0
    }
  }

  let rows: [String]
  let columns: [String]
  let weights: [[Float]]
  let style: Style

  /// The largest number of characters of a column's label.
  private static let labelLimit = 10

  /// The drawing, with a line break at its end.
  var text: String {
    let width = rows.map(\.columnCount).max() ?? 0
    let most = max(weights.joined().max() ?? 0, .leastNormalMagnitude)
    var lines = header(indent: width + 2)
    for (token, row) in zip(rows, weights) {
      let cells = row.map { style.cell($0 / most) }.joined()
      let strongest = row.indices.max { row[$0] < row[$1] }
      // A token that attends to nothing has no strongest weight.
      let note = strongest.flatMap { row[$0] == 0 ? nil : $0 }.map { "  → \(columns[$0]) \(percent(row[$0]))" } ?? ""
      lines.append("\(token.leftPadded(to: width))  \(cells)\(note)")
    }
    return lines.joined(separator: "\n") + "\n"
  }

  /// The columns' labels, written downwards.
  private func header(indent: Int) -> [String] {
    let labels = columns.map { Array($0.prefix(Self.labelLimit)) }
    let height = labels.map(\.count).max() ?? 0
    return (0..<height).map { line in
      let letters = labels.map { label in
        // Labels are aligned at the bottom: each one ends just above the cells of its column.
        let index = line - (height - label.count)
        // Each letter takes two terminal columns, whether it is one or two wide.
        return (index >= 0 ? String(label[index]) : "").padded(to: 2)
      }
      return String(repeating: " ", count: indent) + letters.joined()
    }
  }

  private func percent(_ weight: Float) -> String {
    weight.isFinite ? "\(Int((weight * 100).rounded())) %" : "\(weight)"
  }
}
