/// A matrix of attention weights as a picture: a row for each token that attends, and a column for each token that is
/// attended to.
package struct HeatMapPicture {
  private let title: String
  private let rows: [String]
  private let columns: [String]
  private let weights: [[Float]]

  /// A picture of `weights`, `[rows.count][columns.count]`.
  package init(title: String, rows: [String], columns: [String], weights: [[Float]]) {
    self.title = title
    self.rows = rows
    self.columns = columns
    self.weights = weights
  }

  package var svg: String {
    let cell = 30.0
    let margin = 16.0
    let left = margin + 10 + (rows.map(estimatedWidth).max() ?? 0)
    let top = margin + 62 + (columns.map(estimatedWidth).max() ?? 0) * 0.71
    let right = left + cell * Double(columns.count)
    let bottom = top + cell * Double(rows.count)
    // Labels of columns lean to the right, so the label of the last column can extend beyond the matrix.
    let overhang = columns.last.map { estimatedWidth($0) * 0.71 } ?? 0
    let width = max(right + overhang, left + 240, margin + estimatedWidth(title) * 1.35) + margin
    var document = SVGDocument(width: width, height: bottom + 56, title: title)
    document.text(title, x: margin, y: margin + 14, class: "title")
    document.text("rows look at columns", x: margin, y: margin + 34, class: "small")
    for (index, token) in columns.enumerated() {
      document.text(token, x: left + cell * (Double(index) + 0.6), y: top - 8, angle: -45)
    }
    let most = max(weights.joined().filter(\.isFinite).max() ?? 0, .leastNormalMagnitude)
    for (row, token) in rows.enumerated() {
      let y = top + cell * Double(row)
      document.text(token, x: left - 10, y: y + cell / 2 + 4.5, anchor: .end)
      for (column, weight) in weights[row].enumerated() {
        let x = left + cell * Double(column)
        let hint = "\(token) → \(columns[column]): \(threeDigits(weight))"
        document.box(x: x + 1, y: y + 1, width: cell - 2, height: cell - 2, class: "cellframe", radius: 3)
        // The opacity is the square root of the weight's share of the largest weight. If it were the share itself, one
        // large weight would make all others invisible.
        let share = weight.isFinite ? Double(max(0, weight / most)).squareRoot() : 0
        document.box(
          x: x + 1, y: y + 1, width: cell - 2, height: cell - 2, class: "ink", opacity: share, radius: 3, hint: hint)
      }
    }
    let steps = 40
    for step in 0..<steps {
      document.box(
        x: left + 4 * Double(step), y: bottom + 18, width: 4.2, height: 10, class: "ink",
        opacity: Double(step) / Double(steps - 1))
    }
    document.text("0", x: left, y: bottom + 44, class: "small")
    document.text(threeDigits(most), x: left + 4 * Double(steps), y: bottom + 44, class: "small", anchor: .end)
    return document.source
  }

  private func threeDigits(_ value: Float) -> String {
    guard value.isFinite else { return "\(value)" }
    let thousandths = Int((value * 1000).rounded())
    let digits = "\(thousandths % 1000)"
    return "\(thousandths / 1000)." + String(repeating: "0", count: 3 - digits.count) + digits
  }
}
