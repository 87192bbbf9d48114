internal import AttentionTensors

/// What the online softmax knows of each row of a tile.
struct RowState<Element: AttentionElement> {
  let maximum: UnsafeMutablePointer<Element>
  let sum: UnsafeMutablePointer<Element>
  /// `[rows, Ev]`: Σ exp(score − maximum) · value while a tile goes through its keys, then divided by the sum: the mean
  /// of the values, which does not overflow where states are merged.
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
