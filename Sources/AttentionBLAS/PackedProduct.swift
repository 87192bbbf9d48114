internal import AttentionTensors

/// Products by this package's kernels. The lanes of a vector hold columns of C.
///
/// B is packed in panels, which are blocks of columns a few vectors wide, where that pays. A is read one element at a
/// time: in place, or from packed rows if its columns lie far apart. C is written in place, but for columns that do not
/// fill a vector. `make compare` shows what percentage of the FMA peak the products reach.
struct PackedProduct<Element: BLASElement>: Sendable {
  private let kernels: Kernels<Element>
  private let lanes: Int
  /// log₂ of `lanes`. Shifts replace divisions, because a division would slow down a small product by about a tenth.
  private let laneShift: Int
  /// The largest number of columns in a panel.
  let panelWidth: Int

  private let depthLimit: Int
  private let unpackedRowLimit: Int
  private let packedRowLimit: Int

  /// Nil if the result has fewer columns than half a vector has lanes, because most lanes would then be idle.
  init?(kernels: Kernels<Element>, tuning: Tuning, columnCount: Int) {
    if 2 * columnCount < kernels.laneCount { return nil }
    self.kernels = kernels
    lanes = kernels.laneCount
    laneShift = lanes.trailingZeroBitCount
    panelWidth = lanes * kernels.productVectorCount
    depthLimit = tuning.depthLimit
    unpackedRowLimit = tuning.unpackedRowLimit
    packedRowLimit = tuning.packedRowLimit
  }

  /// The working memory of one thread.
  struct Scratch {
    fileprivate let panel: UnsafeMutablePointer<Element>
    fileprivate let edge: UnsafeMutablePointer<Element>
    /// Ones. If the product is added to an existing result, the kernel multiplies that result by these factors first.
    fileprivate let ones: UnsafeMutablePointer<Element>
    /// Pointers to the first elements of the columns to be packed: columns of B or, for packed rows, of A.
    fileprivate let columns: UnsafeMutablePointer<UnsafeRawPointer>
    /// Packed rows of A: their elements in one block of the depth. Empty unless ``packsRows`` is true.
    fileprivate let rows: UnsafeMutablePointer<Element>
    fileprivate let packsRows: Bool

    fileprivate init(_ arrays: inout ScratchArrays, product: PackedProduct, depth: Int, packsRows: Bool) {
      let depth = min(depth, product.depthLimit)
      self.packsRows = packsRows
      panel = arrays.take(depth * product.panelWidth)
      edge = arrays.take(PanelEdge<Element>.rowCount * product.lanes)
      ones = arrays.take(product.panelWidth)
      columns = arrays.take(max(product.panelWidth, packsRows ? depth : 0))
      rows = arrays.take(packsRows ? product.packedRowLimit * product.rowStride(depth: depth) : 0)
    }
  }

  /// Whether it pays to pack rows of A. It does if there are several panels, for each of which the kernel reads these
  /// rows again, and if the columns of A lie far apart.
  func packsRows(_ a: StridedMatrix<Element>, columnCount: Int) -> Bool { columnCount > panelWidth && isFar(a) }

  func scratchByteCount(depth: Int, packsRows: Bool) -> Int {
    var arrays = ScratchArrays(base: nil)
    _ = Scratch(&arrays, product: self, depth: depth, packsRows: packsRows)
    return arrays.byteCount
  }

  func scratch(at memory: UnsafeMutableRawPointer, depth: Int, packsRows: Bool) -> Scratch {
    var arrays = ScratchArrays(base: memory)
    let scratch = Scratch(&arrays, product: self, depth: depth, packsRows: packsRows)
    scratch.ones.update(repeating: 1, count: panelWidth)
    return scratch
  }

  /// C ← α·A·B, or C += α·A·B. One of A's strides must be 1; B may have any strides. Neither α nor the depth may be 0.
  func multiply(
    alpha: Element, _ a: StridedMatrix<Element>, _ b: StridedMatrix<Element>, _ mode: ResultMode,
    into c: UnsafeMutablePointer<Element>, stride: Int, _ scratch: Scratch
  ) {
    if 2 * a.rowCount <= lanes && a.columnStride == 1 && b.rowStride == 1 {
      // There are too few rows to repay packing B.
      return multiplyFewRows(alpha: alpha, a, b, mode, into: c, stride: stride, scratch)
    }
    let isInPlace = alpha == 1 && b.columnStride == 1 && a.rowCount <= unpackedRowLimit
    func multiplyPanel(_ a: StridedMatrix<Element>, _ block: Range<Int>, _ columns: Range<Int>, firstRow: Int) {
      self.multiplyPanel(
        alpha, a, b.rows(block).columns(columns), isInPlace: isInPlace,
        isAdded: mode == .accumulating || block.lowerBound > 0, c + firstRow * stride + columns.lowerBound, stride,
        scratch)
    }
    if scratch.packsRows && isFar(a) {
      return forEachDepthBlock(a.columnCount, limit: depthLimit) { block in
        for first in Swift.stride(from: 0, to: a.rowCount, by: packedRowLimit) {
          let rows = pack(a.rows(first..<min(first + packedRowLimit, a.rowCount)).columns(block), scratch)
          forEachPanel(b.columnCount) { multiplyPanel(rows, block, $0, firstRow: first) }
        }
      }
    }
    forEachPanel(b.columnCount) { columns in
      forEachDepthBlock(a.columnCount, limit: depthLimit) { multiplyPanel(a.columns($0), $0, columns, firstRow: 0) }
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

  /// Rows of A are packed only if its columns lie at least this many bytes apart. Reading such columns in place is
  /// slow, because most of them are on pages of their own: products take 1.25 times as long as with packed rows if
  /// columns lie 4 KiB apart, and 1.9 times as long if they lie 12 KiB apart. If columns lie 1 KiB apart, products with
  /// packed rows take 5 % longer (Intel, model 207, 2 threads, 2026-11).
  private static var farByteCount: Int { 1536 }

  private func isFar(_ a: StridedMatrix<Element>) -> Bool {
    a.rowStride == 1 && a.columnStride * MemoryLayout<Element>.stride >= Self.farByteCount
  }

  /// A copy of `a`, a block of A, in which the elements of each row are contiguous.
  private func pack(_ a: StridedMatrix<Element>, _ scratch: Scratch) -> StridedMatrix<Element> {
    for column in 0..<a.columnCount { scratch.columns[column] = UnsafeRawPointer(a.base + column * a.columnStride) }
    let stride = rowStride(depth: a.columnCount)
    kernels.pack(
      .scaled(by: 1), rowCount: a.columnCount, columnCount: a.rowCount, rows: scratch.columns, columnStride: 1,
      into: scratch.rows, stride: stride)
    return StridedMatrix(
      base: scratch.rows, rowCount: a.rowCount, columnCount: a.columnCount, rowStride: stride, columnStride: 1)
  }

  /// Elements from one packed row of A to the next: enough whole vectors for the row, and one vector more, so that the
  /// rows do not all share a set of the first-level cache.
  private func rowStride(depth: Int) -> Int { depth.roundedUp(toMultipleOf: lanes) + lanes }

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

  /// Packs α·B, row by row, where B is one panel. Each packed row is filled up to `width` elements. Those beyond B's
  /// columns do not reach C.
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
