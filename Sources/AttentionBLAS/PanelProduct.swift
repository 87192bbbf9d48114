internal import AttentionTensors

// What products of a packed weight and products that pack B at each call have in common.

/// Calls `body` with even blocks of a product's depth, of at most `limit` each. A product of depth 0 has one block, which is
/// empty: what follows a product must follow it too.
@inline(__always)
func forEachDepthBlock(_ depth: Int, limit: Int, _ body: (Range<Int>) -> Void) {
  var length = max(depth, 1)
  // Only here, because a small product would pay for the divisions.
  if length > limit { length = length.dividedRoundingUp(by: length.dividedRoundingUp(by: limit)) }
  for low in stride(from: 0, to: max(depth, 1), by: length) { body(low..<min(low + length, depth)) }
}

/// The last columns of a product where they do not fill a vector: they are computed in memory of their own, some rows at a time,
/// and then written where they belong.
struct PanelEdge<Element: BLASElement> {
  /// Rows that are computed at once.
  static var rowCount: Int { 64 }

  /// `[rowCount, stride]`.
  let memory: UnsafeMutablePointer<Element>
  /// Elements from one row to the next: whole vectors.
  let stride: Int

  /// - Parameters:
  ///   - rowCount: Rows of the product.
  ///   - columnCount: Columns that are wanted of the ``stride`` that are computed.
  ///   - isAdded: Whether they are added to what C holds.
  ///   - c: The first of these columns.
  ///   - cStride: Elements from one row of C to the next.
  ///   - product: Computes some rows, from the first row of ``memory`` on.
  @inline(__always)
  func write(
    rowCount: Int, columnCount: Int, isAdded: Bool, into c: UnsafeMutablePointer<Element>, stride cStride: Int,
    _ product: (Range<Int>) -> Void
  ) {
    for first in Swift.stride(from: 0, to: rowCount, by: Self.rowCount) {
      let rows = first..<min(first + Self.rowCount, rowCount)
      product(rows)
      for row in rows {
        let (source, target) = (memory + (row - first) * stride, c + row * cStride)
        if isAdded {
          for column in 0..<columnCount { target[column] += source[column] }
        } else {
          target.update(from: source, count: columnCount)
        }
      }
    }
  }
}
