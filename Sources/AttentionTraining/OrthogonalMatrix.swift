internal import AttentionBLAS
internal import AttentionTensors

/// A random `m × n` matrix with orthonormal columns, m ≥ n, column-major: the tensor is `[n, m]` in row-major order.
///
/// All such matrices are equally likely. The matrix is the Q of the QR factorisation of a matrix of independent normal
/// numbers, with each column multiplied by the sign of its element on R's diagonal. Without the signs, Q would depend
/// on how LAPACK chooses them and would not be uniform (Haar).
/// Source: Mezzadri 2007 (arXiv:math-ph/0609050), §5.
func orthonormalColumns<Element: LAPACKElement>(
  rowCount: Int, columnCount: Int, seed: UInt64
) throws -> Tensor<Element> {
  assert(rowCount >= columnCount)
  try requireArgument(
    rowCount <= Int(CInt.max), "Initializer.orthogonal", "extents up to \(CInt.max) expected; got \(rowCount)")
  var matrix = try Tensor<Element>(normalWithDeviation: 1, shape: [columnCount, rowCount], seed: seed)
  if columnCount == 0 { return matrix }
  var reflectors = [Element](repeating: 0, count: columnCount)
  var status = 0
  try matrix.withMutableView { view in
    let base = view.base
    OpenBLAS.withOneThread {
      OpenBLAS.withCall {
        status = Element._geqrf(rowCount: rowCount, columnCount: columnCount, base, &reflectors)
        if status != 0 { return }
        // Read R's diagonal now: Q will replace it.
        let isNegative = (0..<columnCount).map { base[$0 * rowCount + $0] < 0 }
        status = Element._orgqr(rowCount: rowCount, columnCount: columnCount, base, reflectors)
        for column in 0..<columnCount where isNegative[column] {
          for row in column * rowCount..<(column + 1) * rowCount { base[row] = -base[row] }
        }
      }
    }
  }
  // LAPACKE's arguments are right by construction, so a status other than 0 means that it got no memory for a work array.
  guard status == 0 else {
    throw AttentionError(
      .outOfMemory, "Initializer.orthogonal",
      "LAPACK could not factorise \(rowCount) × \(columnCount): status \(status)")
  }
  return matrix
}
