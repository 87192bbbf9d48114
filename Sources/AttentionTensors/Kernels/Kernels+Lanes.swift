internal import CAttentionKernels

/// How the elements x of rows become the elements y of lanes.
package enum Packing {
  /// y = x · factor.
  case scaled(by: Double)
  /// y += x. Where x or y is −inf, the result is −inf, even if the other one is NaN.
  case bias
  /// x holds the bytes of a boolean mask: where a byte is 0, the query does not attend to the key, and y = −inf.
  case boolean
}

/// Rows that are prefetched because they will be needed soon. The bytes of a row are contiguous.
package struct RowsAhead {
  fileprivate let kernel: attn_ahead

  /// `rowCount` rows from `base` on. `stride` is the number of bytes from row to row, and `byteCount` is the number of
  /// bytes in a row.
  package init(base: UnsafeRawPointer, rowCount: Int, stride: Int, byteCount: Int) {
    kernel = attn_ahead(base: base, row_count: rowCount, stride: stride, byte_count: byteCount)
  }
}

/// Cuts `vectorCount` vectors into panels of nearly equal width, each of at most `limit` vectors, and calls `body` with
/// the range of vectors of each panel.
@inlinable package func forEachPanel(vectorCount: Int, limit: Int, _ body: (Range<Int>) -> Void) {
  // A single panel needs no division. Divisions would slow small products down.
  if 1...limit ~= vectorCount { return body(0..<vectorCount) }
  var panelCount = (vectorCount + limit - 1) / limit
  var vector = 0
  while panelCount > 0 {
    let count = (vectorCount - vector + panelCount - 1) / panelCount
    body(vector..<vector + count)
    vector += count
    panelCount -= 1
  }
}

/// Functions for tiles whose queries run along the lanes of vectors, in panels. Element i of a panel's query q lies at
/// i·stride + q.
extension Kernels {
  /// The number of elements in a vector.
  package var laneCount: Int { table.pointee.lanes.lane_count }

  package var vectorByteCount: Int { laneCount * MemoryLayout<Element>.stride }

  /// The largest number of vectors in a panel of a tile of scores.
  package var panelVectorCount: Int { table.pointee.lanes.panel_vector_count }

  /// The largest number of vectors in a panel of ``multiply``.
  package var productVectorCount: Int { table.pointee.lanes.product_vector_count }

  /// Transposes rows into lanes: y[column, row] is computed from x = rows[row][column], as `packing` says.
  ///
  /// Lanes that fill up the last vector repeat the last row. `maximum` of each lane is raised to the largest element of
  /// y in that lane.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func pack(
    _ packing: Packing, rowCount: Int, columnCount: Int, rows: UnsafePointer<UnsafeRawPointer>, columnStride: Int,
    into y: MutablePointer, stride: Int, maximum: MutablePointer? = nil
  ) {
    var arguments = attn_pack(
      row_count: rowCount, column_count: columnCount, rows: rows, column_stride: columnStride,
      packing: attn_packing_scaled, factor: 1, y: y, stride: stride, maximum: maximum)
    switch packing {
    case .scaled(let factor): arguments.factor = factor
    case .bias: arguments.packing = attn_packing_bias
    case .boolean: arguments.packing = attn_packing_boolean
    }
    table.pointee.lanes.pack(&arguments)
  }

  /// y[row, column] = x[row, column] · factor, and 0 from `columnCount` up to the stride of y.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func copyRows(
    rowCount: Int, _ columnCount: Int, _ x: Pointer, stride: Int, scaledBy factor: Element, into y: MutablePointer,
    stride yStride: Int
  ) {
    table.pointee.lanes.copy_rows(rowCount, columnCount, x, stride, factor._double, y, yStride)
  }

  /// rows[row][column] = x[column, row] · factor[row].
  /// - Returns: True if every x is finite, including those in lanes that only fill up the last vector.
  @discardableResult
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func unpack(
    rowCount: Int, columnCount: Int, _ x: Pointer, stride: Int, factor: Pointer,
    rows: UnsafePointer<UnsafeMutableRawPointer>, columnStride: Int
  ) -> Bool {
    var arguments = attn_unpack(
      row_count: rowCount, column_count: columnCount, x: x, stride: stride, factor: factor, rows: rows,
      column_stride: columnStride)
    return table.pointee.lanes.unpack(&arguments)
  }

  /// c[rows, lanes] ← f(c·rescale + a[rows, depth]·b[depth, lanes] + bias), where f is `activation`.
  ///
  /// Without `rescale`, the first term is left out, and c is not read unless `continues` is true. With `addend`, which
  /// has a row of a.rowCount elements for each lane, c ← a·b + addendᵀ; the addend is added as ``addBias(_:_:_:)`` adds
  /// a bias.
  ///
  /// Each element is summed in the order of the depth. With `continues`, the sum starts from c instead of 0. So if a
  /// product is cut along its depth, the result has the same bits as that of the whole product.
  ///
  /// One of a's strides must be 1. `maximum` of each lane is raised to the largest element of a·b, or of a·b + addendᵀ,
  /// in that lane. Meanwhile, the rows of `next` and `after` are prefetched.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func multiply(
    vectorCount: Int, _ a: StridedMatrix<Element>, _ b: Pointer, bStride: Int, into c: MutablePointer, stride: Int,
    rescale: Pointer?, continues: Bool = false, bias: Pointer? = nil, activation: Activation = .none,
    addend: UnsafePointer<UnsafeRawPointer>? = nil, maximum: MutablePointer? = nil,
    next: RowsAhead? = nil, after: RowsAhead? = nil
  ) {
    assert((1...productVectorCount).contains(vectorCount))
    assert(a.rowStride == 1 || a.columnStride == 1 || a.rowCount <= 1)
    assert(!continues || (rescale == nil && addend == nil && maximum == nil))
    assert(addend == nil || (rescale == nil && bias == nil && activation == .none && vectorCount <= panelVectorCount))
    var arguments = attn_product(
      vector_count: vectorCount, row_count: a.rowCount, depth: a.columnCount, a: a.base, row_stride: a.rowStride,
      column_stride: a.columnStride, b: b, b_stride: bStride, c: c, c_stride: stride, rescale: rescale,
      continues: continues, bias: bias, activation: activation.kernel, addend: addend, maximum: maximum,
      next: (next?.kernel ?? attn_ahead(), after?.kernel ?? attn_ahead()))
    table.pointee.lanes.multiply(&arguments)
  }

  /// The online softmax of a panel of scores `[keys, lanes]`, which become weights.
  ///
  /// `begin` and `end`, which hold whole numbers, bound the keys to which each lane attends. If they are nil, every
  /// lane attends to all keys.
  ///
  /// If maxima of the scores are already known, `newMaximum` is `maximum` raised to them; otherwise it is nil. The
  /// maxima are over all keys if `begin` and `end` are nil, else over the keys of `common`, to which every lane
  /// attends.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func softmaxLanes(
    vectorCount: Int, keyCount: Int, stride: Int, scores: MutablePointer, begin: Pointer?,
    end: Pointer?, common: Range<Int> = 0..<0, maximum: MutablePointer, newMaximum: Pointer?, sum: MutablePointer,
    rescale: MutablePointer
  ) {
    var arguments = attn_softmax_lanes(
      vector_count: vectorCount, key_count: keyCount, stride: stride, scores: scores, begin: begin,
      end: end, maximum: maximum, sum: sum, rescale: rescale, new_maximum: newMaximum, common_begin: common.lowerBound,
      common_end: common.upperBound)
    table.pointee.lanes.softmax_lanes(&arguments)
  }

  /// y[rows, lanes] ← y·rescale + x, where x is a sum that was computed separately.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func addRescaled(
    vectorCount: Int, rowCount: Int, into y: MutablePointer, stride: Int, rescale: Pointer, _ x: Pointer, xStride: Int
  ) {
    table.pointee.lanes.add_rescaled(vectorCount, rowCount, y, stride, rescale, x, xStride)
  }
}
