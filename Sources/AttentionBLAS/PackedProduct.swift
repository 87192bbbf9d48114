internal import AttentionTensors

/// Products by this package's kernels, whose lanes run along the columns of C.
///
/// B is packed in panels of a few vectors of columns, A is read where it lies, an element at a time, and C is written
/// where it lies. `make compare` tells which percent of the FMA peak products reach.
struct PackedProduct<Element: BLASElement>: Sendable {
  private let kernels: Kernels<Element>
  private let lanes: Int
  /// Their logarithm: a division costs a small product some tenth of its time.
  private let laneShift: Int
  /// Columns of a panel.
  let panelWidth: Int

  private let depthLimit: Int
  private let unpackedRowLimit: Int
  /// Rows of C that are held back where the last vector of columns is not whole.
  private static var edgeRowCount: Int { 64 }

  /// Nil where most lanes would be idle.
  init?(kernels: Kernels<Element>, tuning: Tuning, columnCount: Int) {
    if 2 * columnCount < kernels.laneCount { return nil }
    self.kernels = kernels
    lanes = kernels.laneCount
    laneShift = lanes.trailingZeroBitCount
    panelWidth = lanes * kernels.productVectorCount
    depthLimit = tuning.depthLimit
    unpackedRowLimit = tuning.unpackedRowLimit
  }

  /// The working memory of one thread.
  struct Scratch {
    fileprivate let panel: UnsafeMutablePointer<Element>
    fileprivate let edge: UnsafeMutablePointer<Element>
    /// What a result is multiplied by before it is added to.
    fileprivate let ones: UnsafeMutablePointer<Element>
    fileprivate let columns: UnsafeMutablePointer<UnsafeRawPointer>

    fileprivate init(_ carver: inout Carver, product: PackedProduct, depth: Int) {
      panel = carver.take(min(depth, product.depthLimit) * product.panelWidth)
      edge = carver.take(edgeRowCount * product.lanes)
      ones = carver.take(product.panelWidth)
      columns = carver.take(product.panelWidth)
    }
  }

  func scratchByteCount(depth: Int) -> Int {
    var carver = Carver(base: nil)
    _ = Scratch(&carver, product: self, depth: depth)
    return carver.byteCount
  }

  func scratch(at memory: UnsafeMutableRawPointer, depth: Int) -> Scratch {
    var carver = Carver(base: memory)
    let scratch = Scratch(&carver, product: self, depth: depth)
    scratch.ones.update(repeating: 1, count: panelWidth)
    return scratch
  }

  /// C ← α·A·B, or C += α·A·B. One of A's strides is 1; B's are free. Neither α nor the depth is 0.
  func multiply(
    alpha: Element, _ a: StridedMatrix<Element>, _ b: StridedMatrix<Element>, _ mode: ResultMode,
    into c: UnsafeMutablePointer<Element>, stride: Int, _ scratch: Scratch
  ) {
    if 2 * a.rowCount <= lanes && a.columnStride == 1 && b.rowStride == 1 {
      // Too few rows for what packing B costs.
      return multiplyFewRows(alpha: alpha, a, b, mode, into: c, stride: stride, scratch)
    }
    let isInPlace = alpha == 1 && b.columnStride == 1 && a.rowCount <= unpackedRowLimit
    // Parts of even depth. Small products would pay for the divisions.
    var partLength = a.columnCount
    if partLength > depthLimit {
      let partCount = (partLength + depthLimit - 1) / depthLimit
      partLength = (partLength + partCount - 1) / partCount
    }
    forEachPanel(b.columnCount) { columns in
      for low in Swift.stride(from: 0, to: a.columnCount, by: partLength) {
        let depth = low..<min(low + partLength, a.columnCount)
        multiplyPanel(
          alpha, a.columns(depth), b.rows(depth).columns(columns), isInPlace: isInPlace,
          isAdded: mode == .accumulating || low > 0, c + columns.lowerBound, stride, scratch)
      }
    }
  }

  /// Whole vectors of columns in panels, then what is left of one.
  private func forEachPanel(_ columnCount: Int, _ body: (Range<Int>) -> Void) {
    let vectorCount = columnCount >> laneShift
    AttentionTensors.forEachPanel(vectorCount: vectorCount, limit: kernels.productVectorCount) {
      body($0.lowerBound * lanes..<$0.upperBound * lanes)
    }
    if vectorCount * lanes < columnCount { body(vectorCount * lanes..<columnCount) }
  }

  /// Columns of B that are contiguous are streamed.
  private func multiplyFewRows(
    alpha: Element, _ a: StridedMatrix<Element>, _ b: StridedMatrix<Element>, _ mode: ResultMode,
    into c: UnsafeMutablePointer<Element>, stride: Int, _ scratch: Scratch
  ) {
    if mode == .replacing {
      return kernels.dotRows(query: a, key: StoredMatrix(b.transposed), factor: alpha, into: c, stride: stride)
    }
    let width = Self.edgeRowCount * lanes / a.rowCount
    for first in Swift.stride(from: 0, to: b.columnCount, by: width) {
      let columns = first..<min(first + width, b.columnCount)
      kernels.dotRows(
        query: a, key: StoredMatrix(b.columns(columns).transposed), factor: alpha, into: scratch.edge,
        stride: columns.count)
      for row in 0..<a.rowCount {
        let (source, target) = (scratch.edge + row * columns.count, c + row * stride + first)
        for column in 0..<columns.count { target[column] += source[column] }
      }
    }
  }

  /// What one panel of B gives.
  private func multiplyPanel(
    _ alpha: Element, _ a: StridedMatrix<Element>, _ b: StridedMatrix<Element>, isInPlace: Bool, isAdded: Bool,
    _ c: UnsafeMutablePointer<Element>, _ stride: Int, _ scratch: Scratch
  ) {
    let vectorCount = (b.columnCount + lanes - 1) >> laneShift
    let isWhole = b.columnCount == vectorCount * lanes
    if isWhole && isInPlace {
      return kernels.multiply(
        vectorCount: vectorCount, a, b.base, bStride: b.rowStride, into: c, stride: stride,
        rescale: isAdded ? UnsafePointer(scratch.ones) : nil)
    }
    pack(alpha, b, scratch, width: vectorCount * lanes)
    if isWhole {
      return kernels.multiply(
        vectorCount: vectorCount, a, scratch.panel, bStride: vectorCount * lanes, into: c, stride: stride,
        rescale: isAdded ? UnsafePointer(scratch.ones) : nil)
    }
    for first in Swift.stride(from: 0, to: a.rowCount, by: Self.edgeRowCount) {
      let rows = first..<min(first + Self.edgeRowCount, a.rowCount)
      kernels.multiply(
        vectorCount: 1, a.rows(rows), scratch.panel, bStride: lanes, into: scratch.edge, stride: lanes, rescale: nil)
      for row in rows {
        let source = scratch.edge + (row - first) * lanes
        let target = c + row * stride
        for column in 0..<b.columnCount { target[column] = isAdded ? target[column] + source[column] : source[column] }
      }
    }
  }

  /// α·B row after row, each filled up to `width`.
  private func pack(_ alpha: Element, _ b: StridedMatrix<Element>, _ scratch: Scratch, width: Int) {
    if b.columnStride == 1 {
      for row in 0..<b.rowCount {
        let target = scratch.panel + row * width
        kernels.scale(b.columnCount, b.base + row * b.rowStride, alpha, target)
        (target + b.columnCount).update(repeating: 0, count: width - b.columnCount)
      }
      return
    }
    for column in 0..<b.columnCount { scratch.columns[column] = UnsafeRawPointer(b.base + column * b.columnStride) }
    kernels.pack(
      .scaled(by: alpha.asDouble), rowCount: b.columnCount, columnCount: b.rowCount, rows: scratch.columns,
      columnStride: b.rowStride, into: scratch.panel, stride: width)
  }
}
