internal import AttentionTensors

/// The state of the softmax for each row of a tile after some of its keys. Two states, of different keys, can be merged.
struct RowState<Element: AttentionElement> {
  /// The greatest score; −inf for a row that attends to nothing.
  let maximum: UnsafeMutablePointer<Element>
  /// Σ exp(score − maximum).
  let sum: UnsafeMutablePointer<Element>
  /// `[rows, Ev]`: the mean of the values, weighted by the softmax. A mean cannot overflow when states are merged; a sum could.
  let result: UnsafeMutablePointer<Element>
  private let valueWidth: Int

  init(_ carver: inout Carver, rowCount: Int, valueWidth: Int) {
    maximum = carver.take(rowCount)
    sum = carver.take(rowCount)
    result = carver.take(rowCount * valueWidth)
    self.valueWidth = valueWidth
  }

  /// The state with a number, in memory that holds several states one after another.
  init(base: UnsafeMutableRawPointer, index: Int, rowCount: Int, valueWidth: Int) {
    var carver = Carver(base: base + index * Self.byteCount(rowCount: rowCount, valueWidth: valueWidth))
    self.init(&carver, rowCount: rowCount, valueWidth: valueWidth)
  }

  static func byteCount(rowCount: Int, valueWidth: Int) -> Int {
    var carver = Carver(base: nil)
    _ = RowState(&carver, rowCount: rowCount, valueWidth: valueWidth)
    return carver.byteCount
  }

  /// Copies another state into this one.
  func copy(_ other: RowState, rowCount: Int) {
    maximum.update(from: other.maximum, count: rowCount)
    sum.update(from: other.sum, count: rowCount)
    result.update(from: other.result, count: rowCount * valueWidth)
  }

  /// Adds a state of other keys to this one: the mean of the two means, weighted by their sums.
  ///
  /// If a row attends to nothing in one of the two states, its result has the bits of the other.
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

  /// Adds a sink to each row: one more logit, which takes its share of the softmax but has no value to add to the result.
  func addSinks(_ sink: (_ row: Int) -> Element, rowCount: Int, _ kernels: Kernels<Element>) {
    for row in 0..<rowCount {
      let logit = sink(row)
      if logit == -.infinity { continue }
      let (share, _) = addSum(1, maximum: logit, to: row)
      kernels.scale(valueWidth, result + row * valueWidth, share, result + row * valueWidth)
    }
  }

  /// Adds Σ exp(score − other) of more scores to the sum of a row, whose maximum is raised to `other` if that is greater.
  /// - Returns: The shares of the new sum: the old sum's, and the added sum's.
  private func addSum(_ added: Element, maximum other: Element, to row: Int) -> (Element, Element) {
    // `max` is not used because it may drop a NaN; a NaN in either maximum must stay. A row whose scores were all NaN has the sum
    // NaN and the maximum −inf.
    let most = maximum[row] > other ? maximum[row] : other
    // Compared before it is subtracted, because ∞ − ∞ is NaN.
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
