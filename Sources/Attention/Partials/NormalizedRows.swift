internal import AttentionTensors

/// The rows of a tile that are computed once more, from normalised weights, and the maximum and the sum that an earlier
/// pass over the keys found for each row.
///
/// The usual result of a row, Σ exp(score − maximum) · value, is divided by the sum of the weights only at the end. If
/// the values are large, this result may overflow, although the weighted mean of the values does not. Normalised
/// weights are divided by their sum before they are multiplied by values. They are also halved, so that the row's
/// result is half of the mean: rounded weights may sum to a little more than 1, and the mean itself could then still
/// overflow. The other rows of the tile go through the new pass as they went through the earlier one, so they keep
/// their bits.
struct NormalizedRows<Element: AttentionElement> {
  /// The factor of each row's weights: 1 / (2 · sum), or 1 for a row that is not computed from normalised weights.
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

  /// Decides whether a row is computed again from normalised weights. This is so if its result is not finite, but its
  /// sum is finite and greater than 0. `isFinite` says whether the result is finite. `maximum` and `sum` are those of
  /// the earlier pass, and are kept for ``restoreMaxima`` and ``restoreSums``.
  func take(_ row: Int, maximum: Element, sum: Element, isFinite: Bool) {
    factor[row] = sum > 0 && sum.isFinite && !isFinite ? 1 / sum / 2 : 1
    self.maximum[row] = maximum
    self.sum[row] = sum
  }

  /// The factor that turns the half mean of a row into the mean, after ``saturated(_:)`` has limited the half mean.
  static var meanFactor: Element { 2 }

  /// Limits an element of a half mean to half of the greatest finite number. Rounding may have made the element a
  /// little larger than that, and twice the element would then overflow. An element that is not finite stays, because
  /// it comes from a value that the row attends to.
  static func saturated(_ half: Element) -> Element {
    let most = Element.greatestFiniteMagnitude / 2
    return half.isFinite ? min(max(half, -most), most) : half
  }

  /// Before the new pass, sets the maxima of these rows to those of the earlier pass. The new pass computes the same
  /// blocks, and so scores of the same bits, so no score exceeds its row's maximum.
  func restoreMaxima(rowCount: Int, _ maximum: UnsafeMutablePointer<Element>) {
    for row in 0..<rowCount where contains(row) { maximum[row] = self.maximum[row] }
  }

  /// After the new pass, sets the sums of these rows to those of the earlier pass. The new pass has summed the weights
  /// again, from 0 and with the final maximum from the start, so its sums may be rounded differently.
  func restoreSums(rowCount: Int, _ sum: UnsafeMutablePointer<Element>) {
    for row in 0..<rowCount where contains(row) { sum[row] = self.sum[row] }
  }
}
