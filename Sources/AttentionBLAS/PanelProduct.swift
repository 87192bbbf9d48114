internal import AttentionTensors

// The common code of products with a packed weight and of products that pack B at each call.

/// Cuts a product's depth into as few blocks of at most `limit` as possible, and calls `body` with each of them. All
/// blocks have the same length, but the last one may be shorter. Depth 0 gives one empty block, because the steps after
/// a product (such as bias and activation) must follow this product too.
@inline(__always)
func forEachDepthBlock(_ depth: Int, limit: Int, _ body: (Range<Int>) -> Void) {
  var length = max(depth, 1)
  // There is no division if one block is enough: a division would slow down small products.
  if length > limit { length = length.dividedRoundingUp(by: length.dividedRoundingUp(by: limit)) }
  for low in stride(from: 0, to: max(depth, 1), by: length) { body(low..<min(low + length, depth)) }
}

/// The last columns of a product, if they do not fill a vector. They are computed in separate memory, some rows at a
/// time, and then written to C.
struct PanelEdge<Element: BLASElement> {
  /// The number of rows that are computed at once.
  static var rowCount: Int { 64 }

  /// The separate memory, `[rowCount, stride]`.
  let memory: UnsafeMutablePointer<Element>
  /// Elements from one row to the next: whole vectors.
  let stride: Int

  /// Computes one block of rows after another in ``memory``, and writes the columns of each block to C.
  ///
  /// - Parameters:
  ///   - rowCount: The number of rows of the product.
  ///   - columnCount: How many columns are written to C: the first ones of the ``stride`` columns that are computed.
  ///   - isAdded: Whether these columns are added to what C holds.
  ///   - c: The element of C in the first row and the first of these columns.
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
