internal import AttentionTensors

/// The rows of a tile whose weights are normalised, and the maximum and the sum that an earlier pass over the keys found
/// for each row.
///
/// Normalised weights are divided by their sum before they are multiplied by values. Without this,
/// Σ exp(score − maximum) · value overflows if the values are large, though their mean does not. Such a result is computed
/// once more from normalised weights. It is computed as half of the mean, because rounded weights may sum to a little more
/// than 1. The other rows of the tile go through the pass as they did before, so that they keep their bits.
struct NormalizedRows<Element: AttentionElement> {
  /// The factor of each row's weights: 1 / (2 · sum), or 1 in a row that is not computed again.
  let factor: UnsafeMutablePointer<Element>
  private let capacity: Int

  static var arrayCount: Int { 3 }

  private var maximum: UnsafeMutablePointer<Element> { factor + capacity }
  private var sum: UnsafeMutablePointer<Element> { factor + 2 * capacity }

  /// Uses memory for ``arrayCount`` arrays of `capacity` elements.
  init(_ memory: UnsafeMutablePointer<Element>, capacity: Int) {
    factor = memory
    self.capacity = capacity
  }

  func contains(_ row: Int) -> Bool { factor[row] != 1 }

  /// Decides whether a row is computed again from normalised weights: it is if its result is not finite, but its sum is.
  /// `maximum` and `sum` are those of the earlier pass, and are kept for ``restoreMaxima`` and ``restoreSums``.
  func take(_ row: Int, maximum: Element, sum: Element, isFinite: Bool) {
    factor[row] = sum > 0 && sum.isFinite && !isFinite ? 1 / sum / 2 : 1
    self.maximum[row] = maximum
    self.sum[row] = sum
  }

  /// The factor that turns the half mean of a row into the mean, after ``saturated(_:)`` has limited the half mean.
  static var meanFactor: Element { 2 }

  /// Limits an element of a half mean to half of the greatest number, which rounding may have exceeded. Infinity stays,
  /// because it comes from a value that the row attends to.
  static func saturated(_ half: Element) -> Element {
    let most = Element.greatestFiniteMagnitude / 2
    return half.isFinite ? min(max(half, -most), most) : half
  }

  /// Before a pass, sets the maxima of these rows, which are known. The same blocks give scores of the same bits, so no
  /// score exceeds its row's maximum.
  func restoreMaxima(rowCount: Int, _ maximum: UnsafeMutablePointer<Element>) {
    for row in 0..<rowCount where contains(row) { maximum[row] = self.maximum[row] }
  }

  /// After a pass, sets the sums of these rows to those of the earlier pass, because the pass has added their weights once
  /// more.
  func restoreSums(rowCount: Int, _ sum: UnsafeMutablePointer<Element>) {
    for row in 0..<rowCount where contains(row) { sum[row] = self.sum[row] }
  }
}
