internal import AttentionTensors

/// The rows of a tile whose weights are divided by their sum before they are multiplied by values, and what an earlier pass
/// over the keys found of them.
///
/// Σ exp(score − maximum) · value overflows where the values are large, though their mean does not. Such a result is
/// computed once more from normalised weights: half the mean, since rounded weights may sum to a little more than 1. The other
/// rows of its tile go through the pass as they did before, so that they keep their bits.
struct NormalizedRows<Element: AttentionElement> {
  /// By what each row's weights are multiplied: 1 / (2 · sum), or 1 in a row that is not computed again.
  let factor: UnsafeMutablePointer<Element>
  private let capacity: Int

  static var arrayCount: Int { 3 }

  private var maximum: UnsafeMutablePointer<Element> { factor + capacity }
  private var sum: UnsafeMutablePointer<Element> { factor + 2 * capacity }

  /// In memory for ``arrayCount`` arrays of `capacity` elements.
  init(_ memory: UnsafeMutablePointer<Element>, capacity: Int) {
    factor = memory
    self.capacity = capacity
  }

  func contains(_ row: Int) -> Bool { factor[row] != 1 }

  /// Decides whether a row is computed again from normalised weights: if its result is not finite, but its sum is. `maximum` and
  /// `sum` are what the earlier pass found; they are kept for ``restoreMaxima`` and ``restoreSums``.
  func take(_ row: Int, maximum: Element, sum: Element, isFinite: Bool) {
    factor[row] = sum > 0 && sum.isFinite && !isFinite ? 1 / sum / 2 : 1
    self.maximum[row] = maximum
    self.sum[row] = sum
  }

  /// What a row's half mean is to be multiplied by, when it is brought within half of the greatest number.
  static var meanFactor: Element { 2 }

  /// An element of a half mean, of which rounding may have made more than half of the greatest number. Infinity that is
  /// attended to stays.
  static func saturated(_ half: Element) -> Element {
    let most = Element.greatestFiniteMagnitude / 2
    return half.isFinite ? min(max(half, -most), most) : half
  }

  /// Before a pass: these rows' maxima are known. The same blocks give scores of the same bits, none of which exceeds them.
  func restoreMaxima(rowCount: Int, _ maximum: UnsafeMutablePointer<Element>) {
    for row in 0..<rowCount where contains(row) { maximum[row] = self.maximum[row] }
  }

  /// After a pass, which has added these rows' weights once more.
  func restoreSums(rowCount: Int, _ sum: UnsafeMutablePointer<Element>) {
    for row in 0..<rowCount where contains(row) { sum[row] = self.sum[row] }
  }
}
