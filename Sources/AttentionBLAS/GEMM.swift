public import AttentionTensors

/// C ← α·A·B, or C ← C + α·A·B.
///
/// A product that takes one thread more than about 100 µs is shared among `context.threadCount` threads. The bits of
/// the result do not depend on the number of threads. With α = 0, neither A nor B is read. A product of depth 0 is 0.
///
/// - Parameters:
///   - alpha: α. The kernels of this package may compute α·B first, so α·B must not overflow.
///   - a: A, `m × k`; may be transposed in memory.
///   - b: B, `k × n`; may be transposed in memory.
///   - mode: Whether the product overwrites C (whose old contents are then never read) or is added to it.
///   - c: C, `m × n`. Must not overlap A or B.
///   - context: Threads, instruction set, algorithm.
/// - Throws: `AttentionError` if shapes disagree or memory runs out.
public func gemm<Element: BLASElement>(
  alpha: Element = 1, _ a: UnsafeMatrix<Element>, _ b: UnsafeMatrix<Element>, _ mode: ResultMode = .replacing,
  into c: UnsafeMutableMatrix<Element>, context: AttentionContext = .default
) throws(AttentionError) {
  try checkProduct("gemm", a, b, c)
  try runProducts(
    alpha: alpha, rowCount: c.rowCount, columnCount: c.columnCount, depth: a.matrix.columnCount, count: 1, mode,
    context: context
  ) { _ in (a.matrix, b.matrix, c.base, c.stride) }
}

/// ``gemm(alpha:_:_:_:into:context:)`` for `count` products whose matrices lie at equal distances.
///
/// - Parameters:
///   - alpha: α.
///   - a: The first A.
///   - aStride: Elements from one A to the next; 0: every product has the same A.
///   - b: The first B.
///   - bStride: Elements from one B to the next; 0: every product has the same B.
///   - mode: Whether the products overwrite the results or are added to them.
///   - c: The first C.
///   - cStride: Elements from one C to the next.
///   - count: The number of products.
///   - context: Threads, instruction set, algorithm.
/// - Throws: `AttentionError` if shapes disagree, if a buffer is too short for `count` matrices, if a stride or the
///   count is negative, if results would overlap, or if memory runs out.
public func batchedGEMM<Element: BLASElement>(
  alpha: Element = 1, _ a: UnsafeMatrix<Element>, stride aStride: Int, _ b: UnsafeMatrix<Element>,
  stride bStride: Int, _ mode: ResultMode = .replacing, into c: UnsafeMutableMatrix<Element>, stride cStride: Int,
  count: Int, context: AttentionContext = .default
) throws(AttentionError) {
  try checkProduct("batchedGEMM", a, b, c)
  try requireArgument(count >= 0, "batchedGEMM", "the count must not be negative; got \(count)")
  func check(_ name: String, _ stride: Int, _ span: Int, _ available: Int) throws(AttentionError) {
    try requireArgument(stride >= 0, "batchedGEMM", "a stride of \(name) from 0 expected; got \(stride)")
    let (last, overflow) = stride.multipliedReportingOverflow(by: max(count - 1, 0))
    try requireShape(
      !overflow && (span == 0 || count == 0 || available - span >= last), "batchedGEMM",
      "\(count) matrices \(name) at a stride of \(stride) need more elements than the \(available) given")
  }
  let cSpan = elementSpan(rowCount: c.rowCount, columnCount: c.columnCount, stride: c.stride)
  try check("A", aStride, a.elementSpan, a.buffer.count)
  try check("B", bStride, b.elementSpan, b.buffer.count)
  try check("C", cStride, cSpan, c.elementCount)
  // Results may lie side by side in the columns of one wide matrix, or one after another.
  let areInterleaved = cStride >= c.columnCount && cStride > 0 && count <= c.stride / cStride
  try requireArgument(
    count <= 1 || cSpan == 0 || cStride >= cSpan || areInterleaved, "batchedGEMM",
    "results must not overlap: a stride of at least \(cSpan) expected; got \(cStride)")
  try runProducts(
    alpha: alpha, rowCount: c.rowCount, columnCount: c.columnCount, depth: a.matrix.columnCount, count: count,
    mode, context: context
  ) { product in
    var aMatrix = a.matrix
    var bMatrix = b.matrix
    aMatrix.base += product * aStride
    bMatrix.base += product * bStride
    return (aMatrix, bMatrix, c.base + product * cStride, c.stride)
  }
}

/// ``gemm(alpha:_:_:_:into:context:)`` for a list of products. Their shapes may differ.
///
/// - Throws: `AttentionError` if the lists differ in length or the shapes of a product disagree; then nothing has been
///   written. If memory runs out, some products may have been written.
public func batchedGEMM<Element: BLASElement>(
  alpha: Element = 1, _ a: [UnsafeMatrix<Element>], _ b: [UnsafeMatrix<Element>], _ mode: ResultMode = .replacing,
  into c: [UnsafeMutableMatrix<Element>], context: AttentionContext = .default
) throws(AttentionError) {
  if let error = context.environmentError { throw error }
  try requireShape(
    a.count == b.count && b.count == c.count, "batchedGEMM",
    "lists of one length expected; got \(a.count), \(b.count) and \(c.count) matrices")
  for i in a.indices { try checkProduct("batchedGEMM", a[i], b[i], c[i]) }
  // Consecutive products of the same shape form one batch, which is cut into tasks as a whole.
  var start = 0
  while start < a.count {
    func shape(_ i: Int) -> [Int] { [c[i].rowCount, c[i].columnCount, a[i].matrix.columnCount] }
    let first = start
    let end = a.indices[start...].first { shape($0) != shape(first) } ?? a.count
    try runProducts(
      alpha: alpha, rowCount: c[first].rowCount, columnCount: c[first].columnCount, depth: a[first].matrix.columnCount,
      count: end - first, mode, context: context
    ) { product in
      let i = first + product
      return (a[i].matrix, b[i].matrix, c[i].base, c[i].stride)
    }
    start = end
  }
}

/// Computes products of one shape on the threads of `context`, by the context's algorithm. `operands` returns the
/// matrices of the product with a given index. Shapes are not checked. An operand whose strides the algorithm cannot
/// read is copied into contiguous rows, one block at a time.
@_specialize(where Element == Float)
@_specialize(where Element == Double)
package func runProducts<Element: BLASElement>(
  alpha: Element, rowCount: Int, columnCount: Int, depth: Int, count: Int, _ mode: ResultMode,
  context: AttentionContext,
  operands: (Int) -> (
    a: StridedMatrix<Element>, b: StridedMatrix<Element>, c: UnsafeMutablePointer<Element>, cStride: Int
  )
) throws(AttentionError) {
  if let error = context.environmentError { throw error }
  let packed =
    context.resolvedAlgorithm != .openBLAS
    ? PackedProduct<Element>(
      kernels: try context.kernels(for: Element.self), tuning: context.tuning, columnCount: columnCount) : nil
  if rowCount == 0 || columnCount == 0 || count == 0 { return }
  let cut = ProductCut(
    rowCount: rowCount, columnCount: columnCount, depth: depth, productCount: count,
    panelWidth: packed?.panelWidth ?? 1)
  let workerCount = cut.workerCount(threadCount: context.threadCount)
  func forEachBlock(
    _ task: Int, unless isReadable: (StridedMatrix<Element>) -> Bool,
    _ body: (StridedMatrix<Element>, StridedMatrix<Element>, UnsafeMutablePointer<Element>, Int) -> Void
  ) {
    for block in cut.blocks(ofTask: task) where !block.rows.isEmpty && !block.columns.isEmpty {
      let (a, b, first, cStride) = operands(block.product)
      let c = first + block.rows.lowerBound * cStride + block.columns.lowerBound
      if depth == 0 || alpha == 0 {
        // Neither operand is read, because 0·NaN would be NaN.
        for row in 0..<block.rows.count where mode == .replacing {
          (c + row * cStride).update(repeating: 0, count: block.columns.count)
        }
        continue
      }
      withPacked(a.rows(block.rows), unless: isReadable) { a in body(a, b.columns(block.columns), c, cStride) }
    }
  }
  if let packed {
    // The first product decides for all. This cannot change a result, because its bits are the same with packed rows.
    let packsRows = packed.packsRows(operands(0).a, columnCount: columnCount)
    let scratchByteCount = packed.scratchByteCount(depth: depth, packsRows: packsRows)
    try withScratch(byteCount: workerCount * scratchByteCount) { memory in
      let scratches = UncheckedSendable(memory)
      context.execute(taskCount: cut.taskCount, threadCount: workerCount) { task, worker in
        let scratch = packed.scratch(
          at: scratches.value + worker * scratchByteCount, depth: depth, packsRows: packsRows)
        forEachBlock(task, unless: { $0.rowStride == 1 || $0.columnStride == 1 }) { a, b, c, cStride in
          packed.multiply(alpha: alpha, a, b, mode, into: c, stride: cStride, scratch)
        }
      }
    }
    return
  }
  context.execute(taskCount: cut.taskCount, threadCount: workerCount) { task, _ in
    OpenBLAS.withOneThread {
      forEachBlock(task, unless: { $0.blasLayout != nil }) { a, b, c, cStride in
        withPacked(b, unless: { $0.blasLayout != nil }) { b in
          multiply(alpha: alpha, a, b, mode, into: c, stride: cStride)
        }
      }
    }
  }
}

/// Calls `body` with `matrix` if it can be read as it is, else with a packed copy that lives as long as the call.
private func withPacked<Element: BLASElement>(
  _ matrix: StridedMatrix<Element>, unless isReadable: (StridedMatrix<Element>) -> Bool,
  _ body: (StridedMatrix<Element>) -> Void
) {
  if isReadable(matrix) { return body(matrix) }
  withUnsafeTemporaryAllocation(of: Element.self, capacity: matrix.rowCount * matrix.columnCount) { buffer in
    body(matrix.pack(into: buffer.baseAddress!))
  }
}

private func checkProduct<Element>(
  _ subject: String, _ a: UnsafeMatrix<Element>, _ b: UnsafeMatrix<Element>, _ c: UnsafeMutableMatrix<Element>
) throws(AttentionError) {
  try requireShape(
    a.matrix.columnCount == b.matrix.rowCount && a.matrix.rowCount == c.rowCount
      && b.matrix.columnCount == c.columnCount,
    subject,
    "[m, k] · [k, n] into [m, n] expected; got [\(a.matrix.rowCount), \(a.matrix.columnCount)] · "
      + "[\(b.matrix.rowCount), \(b.matrix.columnCount)] into [\(c.rowCount), \(c.columnCount)]")
}
