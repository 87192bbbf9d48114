internal import AttentionTensors

// The common code of products with a packed weight and of products that pack B at each call.

/// Calls `body` with blocks of a product's depth, equally long and of at most `limit` each. Depth 0 gives one empty block,
/// because the steps after a product (such as bias and activation) must follow this product too.
@inline(__always)
func forEachDepthBlock(_ depth: Int, limit: Int, _ body: (Range<Int>) -> Void) {
  var length = max(depth, 1)
  // Divides only if it must: a division would slow down small products.
  if length > limit { length = length.dividedRoundingUp(by: length.dividedRoundingUp(by: limit)) }
  for low in stride(from: 0, to: max(depth, 1), by: length) { body(low..<min(low + length, depth)) }
}

/// The last columns of a product, if they do not fill a vector. They are computed in separate memory, some rows at a time, and
/// then written to C.
struct PanelEdge<Element: BLASElement> {
  /// The number of rows that are computed at once.
  static var rowCount: Int { 64 }

  /// `[rowCount, stride]`.
  let memory: UnsafeMutablePointer<Element>
  /// Elements from one row to the next: whole vectors.
  let stride: Int

  /// Computes the columns block by block in ``memory``, and writes each block to C.
  ///
  /// - Parameters:
  ///   - rowCount: The number of rows of the product.
  ///   - columnCount: How many columns are written to C: the first ones of the ``stride`` columns that are computed.
  ///   - isAdded: Whether these columns are added to what C holds.
  ///   - c: The first of these columns in C.
  ///   - cStride: Elements from one row of C to the next.
  ///   - product: Computes the given rows and writes them to ``memory``, from its first row on.
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
