internal import AttentionTensors

/// What attention to some of the keys gave for each row of a tile.
struct RowState<Element: AttentionElement> {
  /// The greatest score; −inf for a row that attends to nothing.
  let maximum: UnsafeMutablePointer<Element>
  /// Σ exp(score − maximum).
  let sum: UnsafeMutablePointer<Element>
  /// `[rows, Ev]`: means of the values, which do not overflow where states are merged.
  let result: UnsafeMutablePointer<Element>
  private let valueWidth: Int

  init(_ carver: inout Carver, rowCount: Int, valueWidth: Int) {
    maximum = carver.take(rowCount)
    sum = carver.take(rowCount)
    result = carver.take(rowCount * valueWidth)
    self.valueWidth = valueWidth
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

  /// Takes over another state.
  func copy(_ other: RowState, rowCount: Int) {
    maximum.update(from: other.maximum, count: rowCount)
    sum.update(from: other.sum, count: rowCount)
    result.update(from: other.result, count: rowCount * valueWidth)
  }

  /// Adds what attention to other keys gave: means are averaged by their sums, brought to the greater maximum.
  ///
  /// A row that attends to nothing in one of the two keeps the bits of the other.
  func merge(_ other: RowState, rowCount: Int, _ kernels: Kernels<Element>) {
    for row in 0..<rowCount where other.sum[row] != 0 {
      let (share, otherShare) = addSum(other.sum[row], maximum: other.maximum[row], to: row)
      let target = result + row * valueWidth
      let source = other.result + row * valueWidth
      if kernels.isFinite(valueWidth, target) && kernels.isFinite(valueWidth, source) {
        for column in 0..<valueWidth { target[column] = target[column] * share + source[column] * otherShare }
        if kernels.isFinite(valueWidth, target) { continue }
        // Rounded shares may sum to a little more than 1.
        for column in 0..<valueWidth where target[column].isInfinite { target[column] = saturated(target[column]) }
      } else {
        for column in 0..<valueWidth {
          let isFinite = target[column].isFinite && source[column].isFinite
          let mean = target[column] * share + source[column] * otherShare
          target[column] = mean.isInfinite && isFinite ? saturated(mean) : mean
        }
      }
    }
  }

  private func saturated(_ infinity: Element) -> Element {
    infinity < 0 ? -.greatestFiniteMagnitude : .greatestFiniteMagnitude
  }

  /// Adds a logit that has no value for each row.
  func addSinks(_ sink: (_ row: Int) -> Element, rowCount: Int, _ kernels: Kernels<Element>) {
    for row in 0..<rowCount {
      let logit = sink(row)
      if logit == -.infinity { continue }
      let (share, _) = addSum(1, maximum: logit, to: row)
      kernels.scale(valueWidth, result + row * valueWidth, share, result + row * valueWidth)
    }
  }

  /// sum ← Σ exp(score − maximum) over more scores, the maximum raised to theirs.
  /// - Returns: What parts of the new sum the old one and the added one are.
  private func addSum(_ added: Element, maximum other: Element, to row: Int) -> (Element, Element) {
    // Not max: NaN must win, in either operand. A row that has attended to nothing but NaN has sum NaN and maximum −inf.
    let most = maximum[row] > other ? maximum[row] : other
    // Equal ones first: ∞ − ∞ is NaN.
    func factor(_ maximum: Element) -> Element {
      maximum == most ? 1 : Element(nearest: (maximum - most).asDouble.exponential)
    }
    let own = sum[row] == 0 ? 0 : sum[row] * factor(maximum[row])
    let theirs = added * factor(other)
    sum[row] = own + theirs
    maximum[row] = maximum[row].isNaN ? .nan : most
    return (own / sum[row], theirs / sum[row])
  }
}
