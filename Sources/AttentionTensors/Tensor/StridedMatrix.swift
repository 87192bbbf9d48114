/// A matrix in memory with any strides. All products in this package take it as an operand.
///
/// The type is `@usableFromInline`, because other modules could otherwise not inline the methods of this generic type.
/// Unspecialised calls of them take a fifth of the time of a small product (16 × 16 × 16; Intel, model 85; 2026-11).
@usableFromInline package struct StridedMatrix<Element> {
  @usableFromInline package var base: UnsafePointer<Element>
  @usableFromInline package var rowCount: Int
  @usableFromInline package var columnCount: Int
  @usableFromInline package var rowStride: Int
  @usableFromInline package var columnStride: Int

  @inlinable package init(
    base: UnsafePointer<Element>, rowCount: Int, columnCount: Int, rowStride: Int, columnStride: Int
  ) {
    self.base = base
    self.rowCount = rowCount
    self.columnCount = columnCount
    self.rowStride = rowStride
    self.columnStride = columnStride
  }

  @inlinable package func rows(_ range: Range<Int>) -> StridedMatrix {
    var part = self
    part.base += range.lowerBound * rowStride
    part.rowCount = range.count
    return part
  }

  @inlinable package func columns(_ range: Range<Int>) -> StridedMatrix {
    var part = self
    part.base += range.lowerBound * columnStride
    part.columnCount = range.count
    return part
  }

  @inlinable package var transposed: StridedMatrix {
    StridedMatrix(
      base: base, rowCount: columnCount, columnCount: rowCount, rowStride: columnStride, columnStride: rowStride)
  }

  /// Copies the elements to `target` in row-major order without gaps. Returns the copy as a matrix.
  package func pack(into target: UnsafeMutablePointer<Element>) -> StridedMatrix {
    for row in 0..<rowCount {
      copyStridedRow(
        count: columnCount, elementByteCount: MemoryLayout<Element>.stride, from: base + row * rowStride,
        stride: columnStride, to: target + row * columnCount, stride: 1)
    }
    return StridedMatrix(
      base: target, rowCount: rowCount, columnCount: columnCount, rowStride: columnCount, columnStride: 1)
  }
}
