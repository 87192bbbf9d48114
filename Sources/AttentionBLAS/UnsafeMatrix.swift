public import AttentionTensors

/// A matrix to read, `rowCount × columnCount`, in memory that the caller keeps alive. The memory holds the matrix or
/// its transpose, row by row.
public struct UnsafeMatrix<Element: BLASElement> {
  let matrix: StridedMatrix<Element>
  let buffer: UnsafeBufferPointer<Element>

  /// A matrix to read in `buffer`.
  ///
  /// - Parameters:
  ///   - buffer: The memory, from the first element on.
  ///   - rowCount: The number of rows of the matrix that takes part in the product, that is, after transposition.
  ///   - columnCount: The number of its columns, also after transposition.
  ///   - leadingDimension: Elements from one stored row to the next; default: stored rows lie one after another.
  ///   - isTransposed: True if the memory holds the transpose, `columnCount × rowCount`.
  /// - Throws: `AttentionError` if the buffer is too short, if the leading dimension is less than the length of a
  ///   stored row, or if an extent or the leading dimension is negative or exceeds `Int32.max`.
  public init(
    _ buffer: UnsafeBufferPointer<Element>, rowCount: Int, columnCount: Int, leadingDimension: Int? = nil,
    isTransposed: Bool = false
  ) throws(AttentionError) {
    let stored = isTransposed ? (rows: columnCount, columns: rowCount) : (rows: rowCount, columns: columnCount)
    let stride = leadingDimension ?? max(1, stored.columns)
    try checkMatrix(
      "UnsafeMatrix", rowCount: stored.rows, columnCount: stored.columns, stride: stride, elementCount: buffer.count)
    self.buffer = buffer
    // An empty buffer may have no address. In that case any address will do, because nothing is read.
    let base = buffer.baseAddress ?? UnsafePointer(bitPattern: MemoryLayout<Element>.alignment)!
    let matrix = StridedMatrix(
      base: base, rowCount: stored.rows, columnCount: stored.columns, rowStride: stride, columnStride: 1)
    self.matrix = isTransposed ? matrix.transposed : matrix
  }
}

/// A matrix to write, in memory that the caller keeps alive: `rowCount × columnCount`, row-major.
public struct UnsafeMutableMatrix<Element: BLASElement> {
  let base: UnsafeMutablePointer<Element>
  let rowCount: Int
  let columnCount: Int
  let stride: Int
  let elementCount: Int

  /// A matrix to write in `buffer`.
  ///
  /// - Parameters:
  ///   - buffer: The memory, from the first element on. Gaps between rows stay untouched.
  ///   - rowCount: The number of rows.
  ///   - columnCount: The number of columns.
  ///   - leadingDimension: Elements from one row to the next; default: rows lie one after another.
  /// - Throws: `AttentionError` if the buffer is too short, if the leading dimension is less than `columnCount`, or if
  ///   an extent or the leading dimension is negative or exceeds `Int32.max`.
  public init(
    _ buffer: UnsafeMutableBufferPointer<Element>, rowCount: Int, columnCount: Int, leadingDimension: Int? = nil
  ) throws(AttentionError) {
    stride = leadingDimension ?? max(1, columnCount)
    try checkMatrix(
      "UnsafeMutableMatrix", rowCount: rowCount, columnCount: columnCount, stride: stride, elementCount: buffer.count)
    base = buffer.baseAddress ?? UnsafeMutablePointer(bitPattern: MemoryLayout<Element>.alignment)!
    self.rowCount = rowCount
    self.columnCount = columnCount
    elementCount = buffer.count
  }
}

extension UnsafeMatrix {
  /// The number of elements from the first to the last, both included.
  var elementSpan: Int {
    AttentionBLAS.elementSpan(
      rowCount: matrix.rowCount, columnCount: matrix.columnCount, stride: max(matrix.rowStride, matrix.columnStride),
      isTransposed: matrix.columnStride != 1)
  }
}

func elementSpan(rowCount: Int, columnCount: Int, stride: Int, isTransposed: Bool = false) -> Int {
  if rowCount == 0 || columnCount == 0 { return 0 }
  return isTransposed ? (columnCount - 1) * stride + rowCount : (rowCount - 1) * stride + columnCount
}

private func checkMatrix(_ subject: String, rowCount: Int, columnCount: Int, stride: Int, elementCount: Int)
  throws(AttentionError)
{
  try requireArgument(
    rowCount >= 0 && columnCount >= 0 && max(rowCount, columnCount, stride) <= Int(CInt.max), subject,
    "extents and leading dimension must be from 0 to \(CInt.max); got \(rowCount) × \(columnCount), \(stride)")
  try requireShape(
    stride >= max(1, columnCount), subject,
    "a leading dimension of at least \(max(1, columnCount)) expected; got \(stride)")
  let span = elementSpan(rowCount: rowCount, columnCount: columnCount, stride: stride)
  try requireShape(
    elementCount >= span, subject,
    "\(rowCount) rows of \(columnCount) at a stride of \(stride) need \(span) elements; got \(elementCount)")
}
