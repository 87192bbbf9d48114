/// One line of a table. Cells are as wide as `widths`; a cell with a negative width is aligned to the left.
func tableLine(_ cells: [String], widths: [Int]) -> String {
  zip(cells, widths).map { cell, width in
    let space = String(repeating: " ", count: max(0, abs(width) - cell.count))
    return width < 0 ? cell + space : space + cell
  }.joined(separator: " ")
}
