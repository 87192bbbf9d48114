/// One line of a table: cells as wide as `widths`, those of negative width at the left edge of theirs.
func tableLine(_ cells: [String], widths: [Int]) -> String {
  zip(cells, widths).map { cell, width in
    let space = String(repeating: " ", count: max(0, abs(width) - cell.count))
    return width < 0 ? cell + space : space + cell
  }.joined(separator: " ")
}
