internal import CAttentionKernels

/// Numbers that are split into BFloat16 parts. Row r of part i begins at base + i·partStride + r·rowStride.
package struct RowParts {
  package let base: UnsafePointer<UInt16>
  package let partCount: Int
  package let rowCount: Int
  package let rowStride: Int
  package let partStride: Int

  package init(base: UnsafePointer<UInt16>, partCount: Int, rowCount: Int, rowStride: Int, partStride: Int) {
    self.base = base
    self.partCount = partCount
    self.rowCount = rowCount
    self.rowStride = rowStride
    self.partStride = partStride
  }
}

/// A panel of lanes that is split into BFloat16 parts, in pairs of rows. Part i begins at base + i·partStride.
package struct LaneParts {
  package let base: UnsafePointer<UInt32>
  package let partCount: Int
  package let partStride: Int

  package init(base: UnsafePointer<UInt32>, partCount: Int, partStride: Int) {
    self.base = base
    self.partCount = partCount
    self.partStride = partStride
  }
}

/// Products of BFloat16 parts, by a matrix unit if the instruction set has one. Only for kernels of Float.
///
/// One part has the first 8 bits of a number, two parts 16, three parts all 24 bits of a Float.
extension Kernels {
  /// True if there are such products for this element type.
  package var hasMatrix: Bool { Element._dataType == .float32 }

  /// The numbers of rows of the depth that a product takes at once: depths are multiples of it.
  package static var matrixDepth: Int { 32 }

  private static var greatest: Double { Double(Float.greatestFiniteMagnitude) }

  private var parts: attn_matrix_kernels {
    guard hasMatrix, let kernels = attn_matrix_kernels_for(attn_isa(UInt32(instructionSet.ordinal))) else {
      preconditionFailure("kernels of Double know no parts")
    }
    return kernels.pointee
  }

  /// The most vectors in a panel of ``multiply(vectorCount:_:_:depth:limit:into:stride:factor:rescale:maximum:)``.
  package var matrixPanelVectorCount: Int { parts.panel_vector_count }

  /// Calls `body`, during which this thread can compute products of parts.
  package func withMatrixUnit(_ body: () -> Void) {
    parts.begin()
    body()
    parts.end()
  }

  /// Splits the elements of `x`, whose columns are adjacent, into `y.partCount` parts. Each row of the parts begins with
  /// `before` zeros and is filled up with 0 to `paddedCount` elements.
  /// - Returns: False if the size of an element is above `greatest`, or NaN.
  @discardableResult
  @_specialize(where Element == Float)
  package func splitRows(
    _ x: StridedMatrix<Element>, before: Int = 0, paddedCount: Int, greatest: Double = .greatestFiniteMagnitude,
    into y: RowParts
  ) -> Bool {
    assert(x.columnStride == 1 || x.columnCount <= 1)
    var arguments = attn_split_rows(
      row_count: x.rowCount, column_count: x.columnCount, x: x.base, x_stride: x.rowStride, part_count: y.partCount,
      before: before, padded_count: paddedCount, greatest: min(greatest, Self.greatest),
      y: UnsafeMutablePointer(mutating: y.base), y_stride: y.rowStride,
      part_stride: y.partStride)
    return parts.split_rows(&arguments)
  }

  /// Splits the rows of a panel, `[rows, lanes]`, into `y.partCount` parts. They begin with `before` rows of 0 and are
  /// filled up with 0 to `paddedCount` rows, an even number.
  /// - Returns: The same as ``splitRows(_:before:paddedCount:greatest:into:)``.
  @discardableResult
  @_specialize(where Element == Float)
  package func splitLanes(
    vectorCount: Int, rowCount: Int, _ x: Pointer, stride: Int, before: Int = 0, paddedCount: Int,
    greatest: Double = .greatestFiniteMagnitude, into y: LaneParts
  ) -> Bool {
    var arguments = attn_split_lanes(
      vector_count: vectorCount, row_count: rowCount, x: x, x_stride: stride, part_count: y.partCount, before: before,
      padded_count: paddedCount, greatest: min(greatest, Self.greatest), y: UnsafeMutablePointer(mutating: y.base),
      part_stride: y.partStride)
    return parts.split_lanes(&arguments)
  }

  /// c[rows, lanes] ← factor · Σ aᵢ·bⱼ over all parts with i + j ≤ `limit`; with `rescale`, c·rescale is added.
  ///
  /// `depth` is a multiple of ``matrixDepth``. `maximum` of each lane is raised to the largest sum in that lane, times the
  /// factor.
  @_specialize(where Element == Float)
  package func multiply(
    vectorCount: Int, _ a: RowParts, _ b: LaneParts, depth: Int, limit: Int, into c: MutablePointer, stride: Int,
    factor: Double = 1, rescale: Pointer? = nil, maximum: MutablePointer? = nil
  ) {
    assert((1...matrixPanelVectorCount).contains(vectorCount))
    assert(depth % Self.matrixDepth == 0)
    var arguments = attn_parts_product(
      vector_count: vectorCount, row_count: a.rowCount, depth: depth, a_part_count: a.partCount,
      b_part_count: b.partCount, limit: limit, a: a.base, a_stride: a.rowStride, a_part_stride: a.partStride, b: b.base,
      b_part_stride: b.partStride, c: c, c_stride: stride, factor: factor, rescale: rescale, maximum: maximum)
    parts.multiply(&arguments)
  }
}
