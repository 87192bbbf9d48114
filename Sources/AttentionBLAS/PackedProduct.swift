internal import AttentionTensors

/// Products by this package's kernels. The lanes of a vector are columns of C.
///
/// B is packed in panels of a few vectors of columns. A is read in place, an element at a time, and C is written in place.
/// `make compare` shows what percentage of the FMA peak the products reach.
struct PackedProduct<Element: BLASElement>: Sendable {
  private let kernels: Kernels<Element>
  private let lanes: Int
  /// log₂ of `lanes`. Shifts replace divisions, because a division would slow down a small product by about a tenth.
  private let laneShift: Int
  /// The number of columns of a panel.
  let panelWidth: Int

  private let depthLimit: Int
  private let unpackedRowLimit: Int

  /// Nil if most lanes would be idle.
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
    /// Factors of 1, by which the kernel multiplies an existing result before it adds to it.
    fileprivate let ones: UnsafeMutablePointer<Element>
    fileprivate let columns: UnsafeMutablePointer<UnsafeRawPointer>

    fileprivate init(_ arrays: inout ScratchArrays, product: PackedProduct, depth: Int) {
      panel = arrays.take(min(depth, product.depthLimit) * product.panelWidth)
      edge = arrays.take(PanelEdge<Element>.rowCount * product.lanes)
      ones = arrays.take(product.panelWidth)
      columns = arrays.take(product.panelWidth)
    }
  }

  func scratchByteCount(depth: Int) -> Int {
    var arrays = ScratchArrays(base: nil)
    _ = Scratch(&arrays, product: self, depth: depth)
    return arrays.byteCount
  }

  func scratch(at memory: UnsafeMutableRawPointer, depth: Int) -> Scratch {
    var arrays = ScratchArrays(base: memory)
    let scratch = Scratch(&arrays, product: self, depth: depth)
    scratch.ones.update(repeating: 1, count: panelWidth)
    return scratch
  }

  /// C ← α·A·B, or C += α·A·B. One of A's strides must be 1; B's strides are free. Neither α nor the depth may be 0.
  func multiply(
    alpha: Element, _ a: StridedMatrix<Element>, _ b: StridedMatrix<Element>, _ mode: ResultMode,
    into c: UnsafeMutablePointer<Element>, stride: Int, _ scratch: Scratch
  ) {
    if 2 * a.rowCount <= lanes && a.columnStride == 1 && b.rowStride == 1 {
      // There are too few rows to repay packing B.
      return multiplyFewRows(alpha: alpha, a, b, mode, into: c, stride: stride, scratch)
    }
    let isInPlace = alpha == 1 && b.columnStride == 1 && a.rowCount <= unpackedRowLimit
    forEachPanel(b.columnCount) { columns in
      forEachDepthBlock(a.columnCount, limit: depthLimit) { block in
        multiplyPanel(
          alpha, a.columns(block), b.rows(block).columns(columns), isInPlace: isInPlace,
          isAdded: mode == .accumulating || block.lowerBound > 0, c + columns.lowerBound, stride, scratch)
      }
    }
  }

  /// Calls `body` with the columns of each panel of whole vectors, then with the rest, which is less than a vector.
  private func forEachPanel(_ columnCount: Int, _ body: (Range<Int>) -> Void) {
    let vectorCount = columnCount >> laneShift
    AttentionTensors.forEachPanel(vectorCount: vectorCount, limit: kernels.productVectorCount) {
      body($0.lowerBound * lanes..<$0.upperBound * lanes)
    }
    if vectorCount * lanes < columnCount { body(vectorCount * lanes..<columnCount) }
  }

  /// A product with few rows of A: reads the contiguous columns of B in place, one after another.
  private func multiplyFewRows(
    alpha: Element, _ a: StridedMatrix<Element>, _ b: StridedMatrix<Element>, _ mode: ResultMode,
    into c: UnsafeMutablePointer<Element>, stride: Int, _ scratch: Scratch
  ) {
    if mode == .replacing {
      return kernels.dotRows(query: a, key: StoredMatrix(b.transposed), factor: alpha, into: c, stride: stride)
    }
    let width = PanelEdge<Element>.rowCount * lanes / a.rowCount
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

  /// The product of A and one panel of B.
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
    PanelEdge(memory: scratch.edge, stride: lanes).write(
      rowCount: a.rowCount, columnCount: b.columnCount, isAdded: isAdded, into: c, stride: stride
    ) { rows in
      kernels.multiply(
        vectorCount: 1, a.rows(rows), scratch.panel, bStride: lanes, into: scratch.edge, stride: lanes, rescale: nil)
    }
  }

  /// Packs α·B row by row. Each row is filled up to `width`.
  private func pack(_ alpha: Element, _ b: StridedMatrix<Element>, _ scratch: Scratch, width: Int) {
    if b.columnStride == 1 {
      return kernels.copyRows(
        rowCount: b.rowCount, b.columnCount, b.base, stride: b.rowStride, scaledBy: alpha, into: scratch.panel,
        stride: width)
    }
    for column in 0..<b.columnCount { scratch.columns[column] = UnsafeRawPointer(b.base + column * b.columnStride) }
    kernels.pack(
      .scaled(by: alpha._double), rowCount: b.columnCount, columnCount: b.rowCount, rows: scratch.columns,
      columnStride: b.rowStride, into: scratch.panel, stride: width)
  }
}
