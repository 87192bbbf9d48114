internal import AttentionTensors

/// What the online softmax knows of each row of a tile.
struct RowState<Element: AttentionElement> {
  let maximum: UnsafeMutablePointer<Element>
  let sum: UnsafeMutablePointer<Element>
  /// Σ exp(score − maximum) · value, `[rows, Ev]`.
  let result: UnsafeMutablePointer<Element>

  init(_ carver: inout Carver, rowCount: Int, valueWidth: Int) {
    maximum = carver.take(rowCount)
    sum = carver.take(rowCount)
    result = carver.take(rowCount * valueWidth)
  }

  /// One of several states that lie one after another.
  init(base: UnsafeMutableRawPointer, index: Int, rowCount: Int, valueWidth: Int) {
    var carver = Carver(base: base + index * Self.byteCount(rowCount: rowCount, valueWidth: valueWidth))
    self.init(&carver, rowCount: rowCount, valueWidth: valueWidth)
  }

  static func byteCount(rowCount: Int, valueWidth: Int) -> Int {
    var carver = Carver(base: nil)
    _ = RowState(&carver, rowCount: rowCount, valueWidth: valueWidth)
    return carver.byteCount
  }
}
