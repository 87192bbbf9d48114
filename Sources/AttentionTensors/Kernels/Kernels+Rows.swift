internal import CAttentionKernels

/// Keys or values as they are stored: as elements of `Element`, the type of the computation, or of a type of two bytes.
@usableFromInline package struct StoredMatrix<Element> {
  @usableFromInline package let base: UnsafeRawPointer
  /// The type of two bytes in which the elements are stored; nil if they are stored as `Element`.
  @usableFromInline package let half: HalfFormat?
  @usableFromInline package let rowCount: Int
  @usableFromInline package let columnCount: Int
  @usableFromInline package let rowStride: Int
  @usableFromInline package let columnStride: Int
  /// The row that will be read after the last row of this matrix, to be prefetched; nil if it follows at the same
  /// stride.
  @usableFromInline package let next: UnsafeRawPointer?

  @inlinable package init(
    base: UnsafeRawPointer, half: HalfFormat?, rowCount: Int, columnCount: Int, rowStride: Int, columnStride: Int,
    next: UnsafeRawPointer? = nil
  ) {
    self.base = base
    self.half = half
    self.rowCount = rowCount
    self.columnCount = columnCount
    self.rowStride = rowStride
    self.columnStride = columnStride
    self.next = next
  }

  @inlinable package init(_ matrix: StridedMatrix<Element>, next: UnsafeRawPointer? = nil) {
    self.init(
      base: UnsafeRawPointer(matrix.base), half: nil, rowCount: matrix.rowCount, columnCount: matrix.columnCount,
      rowStride: matrix.rowStride, columnStride: matrix.columnStride, next: next)
  }

  /// The same matrix as a ``StridedMatrix``. Traps if the elements are not stored as `Element`.
  @inlinable package var native: StridedMatrix<Element> {
    precondition(half == nil, "elements of two bytes are not those that are computed with")
    return StridedMatrix(
      base: base.assumingMemoryBound(to: Element.self), rowCount: rowCount, columnCount: columnCount,
      rowStride: rowStride, columnStride: columnStride)
  }

  /// The rows of this matrix in `range`.
  @inlinable package func rows(_ range: Range<Int>) -> StoredMatrix {
    let byteCount = half == nil ? MemoryLayout<Element>.stride : 2
    return StoredMatrix(
      base: base + range.lowerBound * rowStride * byteCount, half: half, rowCount: range.count,
      columnCount: columnCount, rowStride: rowStride, columnStride: columnStride,
      next: range.upperBound == rowCount ? next : nil)
  }

  var stored: attn_stored {
    switch half {
    case nil: attn_stored_native
    case .float16: attn_stored_float16
    case .bfloat16: attn_stored_bfloat16
    }
  }
}

/// Functions for tiles in which each query is a row.
extension Kernels {
  /// The online softmax of a block of scores `[rows, columns]`, which become weights.
  ///
  /// `maximum` and `sum` carry over from tile to tile. The caller multiplies the results of earlier tiles by `rescale`.
  /// `begin` and `end`, which hold whole numbers, bound the columns to which each row attends. If they are nil, every
  /// row attends to all columns.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func softmaxRows(
    rowCount: Int, columnCount: Int, scores: MutablePointer, stride: Int, begin: Pointer?, end: Pointer?,
    maximum: MutablePointer, sum: MutablePointer, rescale: MutablePointer
  ) {
    var arguments = attn_softmax_rows(
      row_count: rowCount, column_count: columnCount, stride: stride, scores: scores, begin: begin, end: end,
      maximum: maximum, sum: sum, rescale: rescale)
    table.pointee.rows.softmax_rows(&arguments)
  }

  /// scores[R, N] ← factor · Q[R, E] · K[N, E]ᵀ, for a few rows. The elements of each row of Q and K are contiguous.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func dotRows(
    query: StridedMatrix<Element>, key: StoredMatrix<Element>, factor: Element, into scores: MutablePointer,
    stride: Int
  ) {
    assert((query.columnStride == 1 && key.columnStride == 1) || key.columnCount <= 1)
    var arguments = attn_row_product(
      row_count: query.rowCount, key_count: key.rowCount, column_count: key.columnCount,
      rows: UnsafeMutableRawPointer(mutating: query.base), row_stride: query.rowStride, key: key.base,
      key_stride: key.rowStride, next: key.next, stored: key.stored, scores: scores, score_stride: stride,
      factor: factor._double, first_index: 0)
    table.pointee.rows.dot_rows(&arguments)
  }

  /// result[R, Ev] += weights[R, N] · V[N, Ev], for a few rows. The elements of each row of weights and V are
  /// contiguous.
  ///
  /// The keys are numbered from `firstIndex` on, and a new group of keys begins at every multiple of 32. The weighted
  /// values of each group are summed by themselves, and the sum is then added to the result.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func accumulateRows(
    weights: StridedMatrix<Element>, value: StoredMatrix<Element>, firstIndex: Int, into result: MutablePointer,
    stride: Int
  ) {
    assert((weights.columnStride == 1 || value.rowCount <= 1) && (value.columnStride == 1 || value.columnCount <= 1))
    var arguments = attn_row_product(
      row_count: weights.rowCount, key_count: value.rowCount, column_count: value.columnCount, rows: result,
      row_stride: stride, key: value.base, key_stride: value.rowStride, next: value.next, stored: value.stored,
      scores: UnsafeMutableRawPointer(mutating: weights.base), score_stride: weights.rowStride, factor: 1,
      first_index: firstIndex)
    table.pointee.rows.accumulate_rows(&arguments)
  }
}
