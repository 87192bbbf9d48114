package import AttentionTensors

extension StridedMatrix {
  /// How BLAS would read this matrix: the leading dimension, and whether the matrix is transposed. Nil if BLAS cannot
  /// read it, because neither stride is 1, because rows (or columns, if it is transposed) overlap, or because the
  /// leading dimension does not fit BLAS's 32-bit integers.
  package var blasLayout: (isTransposed: Bool, stride: Int)? {
    func leadingDimension(_ count: Int, _ width: Int, _ stride: Int, _ inner: Int) -> Int? {
      guard inner == 1 || width <= 1 else { return nil }
      if count <= 1 { return max(1, width) }
      return stride >= max(1, width) && stride <= Int(CInt.max) ? stride : nil
    }
    if let stride = leadingDimension(rowCount, columnCount, rowStride, columnStride) { return (false, stride) }
    if let stride = leadingDimension(columnCount, rowCount, columnStride, rowStride) { return (true, stride) }
    return nil
  }
}

/// Whether a product overwrites its result or is added to it.
public enum ResultMode: Sendable {
  /// The product overwrites the result. Its old contents are never read: NaN there has no effect.
  case replacing
  /// The product is added to the result's old contents.
  case accumulating
}

/// C ← α·A·B, or C += α·A·B, in one call of OpenBLAS. Nothing is checked.
///
/// `c` is row-major, with `cStride` elements from row to row. Both operands must have a ``StridedMatrix/blasLayout``.
@_specialize(where Element == Float)
@_specialize(where Element == Double)
package func multiply<Element: BLASElement>(
  alpha: Element = 1, _ a: StridedMatrix<Element>, _ b: StridedMatrix<Element>,
  _ mode: ResultMode, into c: UnsafeMutablePointer<Element>, stride cStride: Int
) {
  assert(a.columnCount == b.rowCount)
  let rowCount = a.rowCount
  let columnCount = b.columnCount
  if rowCount == 0 || columnCount == 0 { return }
  // Some kernels of OpenBLAS read A even if α = 0, and 0·NaN is NaN.
  if a.columnCount == 0 || alpha == 0 {
    if mode == .replacing {
      for row in 0..<rowCount { (c + row * cStride).update(repeating: 0, count: columnCount) }
    }
    return
  }
  guard let aLayout = a.blasLayout, let bLayout = b.blasLayout else {
    preconditionFailure("multiply: an operand has no BLAS layout")
  }
  Element._gemm(
    transposeA: aLayout.isTransposed, transposeB: bLayout.isTransposed,
    rowCount: rowCount, columnCount: columnCount, depth: a.columnCount,
    alpha: alpha, a: a.base, aStride: aLayout.stride, b: b.base, bStride: bLayout.stride,
    beta: mode == .replacing ? 0 : 1, c: c, cStride: max(cStride, columnCount))
}
