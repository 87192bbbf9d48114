internal import AttentionTensors

/// The state of the softmax for each row of a tile, after the row has attended to some of the keys. Two states of the
/// same rows and of different keys can be merged.
struct RowState<Element: AttentionElement> {
  /// The greatest score; −inf for a row that attends to nothing.
  let maximum: UnsafeMutablePointer<Element>
  /// Σ exp(score − maximum).
  let sum: UnsafeMutablePointer<Element>
  /// `[rows, Ev]`: the mean of the values, weighted by the softmax. It is a mean and not a sum, because a sum could
  /// overflow when states are merged.
  let result: UnsafeMutablePointer<Element>
  private let valueDimension: Int

  init(_ arrays: inout ScratchArrays, rowCount: Int, valueDimension: Int) {
    maximum = arrays.take(rowCount)
    sum = arrays.take(rowCount)
    result = arrays.take(rowCount * valueDimension)
    self.valueDimension = valueDimension
  }

  /// A state in existing memory.
  init(
    maximum: UnsafeMutablePointer<Element>, sum: UnsafeMutablePointer<Element>, result: UnsafeMutablePointer<Element>,
    valueDimension: Int
  ) {
    self.maximum = maximum
    self.sum = sum
    self.result = result
    self.valueDimension = valueDimension
  }

  /// The state of some of the rows.
  func rows(_ rows: Range<Int>) -> RowState {
    RowState(
      maximum: maximum + rows.lowerBound, sum: sum + rows.lowerBound, result: result + rows.lowerBound * valueDimension,
      valueDimension: valueDimension)
  }

  /// The state with the number `index`, in memory that holds several states one after another.
  init(base: UnsafeMutableRawPointer, index: Int, rowCount: Int, valueDimension: Int) {
    var arrays = ScratchArrays(base: base + index * Self.byteCount(rowCount: rowCount, valueDimension: valueDimension))
    self.init(&arrays, rowCount: rowCount, valueDimension: valueDimension)
  }

  static func byteCount(rowCount: Int, valueDimension: Int) -> Int {
    var arrays = ScratchArrays(base: nil)
    _ = RowState(&arrays, rowCount: rowCount, valueDimension: valueDimension)
    return arrays.byteCount
  }

  /// Copies another state into this one.
  func copy(_ other: RowState, rowCount: Int) {
    maximum.update(from: other.maximum, count: rowCount)
    sum.update(from: other.sum, count: rowCount)
    result.update(from: other.result, count: rowCount * valueDimension)
  }

  /// Adds a state of other keys to this one. The new result is the mean of the two results, weighted by the shares that
  /// the two states have in the new sum.
  ///
  /// If a row attends to nothing in one of the two states, its new result has the bits of its result in the other
  /// state.
  func merge(_ other: RowState, rowCount: Int, _ kernels: Kernels<Element>) {
    for row in 0..<rowCount where other.sum[row] != 0 {
      let (share, otherShare) = addSum(other.sum[row], maximum: other.maximum[row], to: row)
      let target = result + row * valueDimension
      let source = other.result + row * valueDimension
      if kernels.isFinite(valueDimension, target) && kernels.isFinite(valueDimension, source) {
        for column in 0..<valueDimension { target[column] = target[column] * share + source[column] * otherShare }
        if kernels.isFinite(valueDimension, target) { continue }
        // Rounded shares may sum to a little more than 1, so the mean of two finite numbers may overflow. It is then
        // limited to the greatest finite number.
        for column in 0..<valueDimension where target[column].isInfinite { target[column] = saturated(target[column]) }
      } else {
        for column in 0..<valueDimension {
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

  /// Adds a sink to each row: one more logit, which takes its share of the softmax but has no value to add to the
  /// result.
  func addSinks(_ sink: (_ row: Int) -> Element, rowCount: Int, _ kernels: Kernels<Element>) {
    for row in 0..<rowCount {
      let logit = sink(row)
      if logit == -.infinity { continue }
      let (share, _) = addSum(1, maximum: logit, to: row)
      kernels.scale(valueDimension, result + row * valueDimension, share, result + row * valueDimension)
    }
  }

  /// Adds the sum of more scores to the sum of a row. `other` is the maximum of these scores, and `added` is their
  /// Σ exp(score − other). If `other` is greater than the row's maximum, it becomes the row's maximum.
  /// - Returns: The share of the old sum in the new sum, and the share of the added sum in it.
  private func addSum(_ added: Element, maximum other: Element, to row: Int) -> (Element, Element) {
    // A NaN in either maximum must stay. `max` is not used, because it may drop a NaN. A row whose scores were all NaN
    // has the maximum −inf and the sum NaN, so here it is the sum that keeps the NaN.
    let most = maximum[row] > other ? maximum[row] : other
    // `maximum` and `most` are compared before they are subtracted, because ∞ − ∞ is NaN.
    func factor(_ maximum: Element) -> Element {
      maximum == most ? 1 : Element(_nearest: (maximum - most)._double.exponential)
    }
    let own = sum[row] == 0 ? 0 : sum[row] * factor(maximum[row])
    let theirs = added * factor(other)
    sum[row] = own + theirs
    maximum[row] = maximum[row].isNaN ? .nan : most
    return (own / sum[row], theirs / sum[row])
  }
}
