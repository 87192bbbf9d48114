public import AttentionTensors

/// The matrix product of the last two axes: `C[…, i, j] = α · Σₖ A[…, i, k] · B[…, k, j]`.
///
///     let y = try matmul(x, weight.transposed())      // x · Wᵀ, without a copy of W
///
/// Axes before the last two are a batch and broadcast as in NumPy. The operands may have any strides. Transposed views,
/// and views that are broadcast along axes of the batch, are read without a copy of the tensor. A matrix in which
/// neither stride is 1 may be copied, one block at a time.
///
/// - Parameters:
///   - a: `[…, m, k]`.
///   - b: `[…, k, n]`.
///   - alpha: α.
///   - context: Threads, instruction set, algorithm.
/// - Returns: `[…, m, n]`, contiguous.
/// - Throws: `AttentionError` if shapes disagree, if m, k or n exceeds `Int32.max`, or if memory runs out.
public func matmul<Element: BLASElement>(
  _ a: Tensor<Element>, _ b: Tensor<Element>, alpha: Element = 1, context: AttentionContext = .default
) throws -> Tensor<Element> {
  var result = try Tensor<Element>(uninitializedShape: matmulShape(a, b))
  try result.withMutableView { try matmul(a, b, alpha: alpha, .replacing, into: &$0, context: context) }
  return result
}

/// ``matmul(_:_:alpha:context:)`` into an existing view, which it overwrites or adds to.
///
/// - Parameters:
///   - a: `[…, m, k]`.
///   - b: `[…, k, n]`.
///   - alpha: α.
///   - mode: Whether the product overwrites `result` (whose old contents are then never read) or is added to it.
///   - result: `[…, m, n]`; the last axis is contiguous. Must not overlap `a` or `b`.
///   - context: Threads, instruction set, algorithm.
/// - Throws: `AttentionError` if shapes disagree, if m, k, n or the distance between rows of `result` exceeds
///   `Int32.max` elements, if the last axis of `result` is not contiguous, or if memory runs out.
@_specialize(where Element == Float)
@_specialize(where Element == Double)
public func matmul<Element: BLASElement>(
  _ a: Tensor<Element>, _ b: Tensor<Element>, alpha: Element = 1, _ mode: ResultMode,
  into result: inout MutableTensorView<Element>, context: AttentionContext = .default
) throws {
  let shape = try matmulShape(a, b)
  try requireShape(result.shape == shape, "matmul", "a result of shape \(shape) expected; got \(result.shape)")
  let rank = shape.count
  let a = try a.broadcast(to: Array(shape.dropLast(2)) + a.shape.suffix(2))
  let b = try b.broadcast(to: Array(shape.dropLast(2)) + b.shape.suffix(2))
  let columnCount = shape[rank - 1]
  let depth = a.shape[rank - 1]
  try requireArgument(
    max(shape[rank - 2], columnCount, depth) <= Int(CInt.max), "matmul",
    "extents up to \(CInt.max) expected; got \(a.shape) · \(b.shape)")
  try requireShape(
    columnCount <= 1 || result.strides[rank - 1] == 1, "matmul",
    "a result with a contiguous last axis expected; got strides \(result.strides)")
  try requireArgument(
    result.strides[rank - 2] <= Int(CInt.max), "matmul",
    "a result whose rows lie at most \(CInt.max) elements apart expected; got strides \(result.strides)")

  let (rowCount, batchRank) = foldedRows(shape, a.strides, b.strides, result.strides)
  // The operands of the first product.
  let firstA = StridedMatrix(
    base: a.base, rowCount: rowCount, columnCount: depth, rowStride: a.strides[rank - 2],
    columnStride: a.strides[rank - 1])
  let firstB = StridedMatrix(
    base: b.base, rowCount: depth, columnCount: columnCount, rowStride: b.strides[rank - 2],
    columnStride: b.strides[rank - 1])
  let base = UncheckedSendable(result.base)
  let rowStride = max(result.strides[rank - 2], columnCount)
  let axes = (0..<batchRank).reversed().map {
    (count: shape[$0], a: a.strides[$0], b: b.strides[$0], c: result.strides[$0])
  }
  try runProducts(
    alpha: alpha, rowCount: rowCount, columnCount: columnCount, depth: depth,
    count: shape[..<batchRank].reduce(1, *), mode, context: context
  ) { product in
    var (a, b, c, rest) = (firstA, firstB, base.value, product)
    for axis in axes {
      var index = rest
      // If `rest` is less than the extent of the axis, it is the index. This saves a division, which would slow down
      // small products.
      if rest >= axis.count { (rest, index) = rest.quotientAndRemainder(dividingBy: axis.count) } else { rest = 0 }
      a.base += index * axis.a
      b.base += index * axis.b
      c += index * axis.c
    }
    return (a, b, c, rowStride)
  }
}

/// The number of rows of each product, and the number of batch axes that remain. The last batch axis becomes rows of a
/// taller product if B is the same at all its indices, and if the rows of A and of the result are equally spaced across
/// it. The same is then tried with the batch axis before it.
private func foldedRows(
  _ shape: [Int], _ a: [Int], _ b: [Int], _ c: [Int]
) -> (rowCount: Int, batchRank: Int) {
  let rank = shape.count
  var rowCount = shape[rank - 2]
  var batchRank = rank - 2
  func followsOn(_ strides: [Int], _ axis: Int) -> Bool {
    shape[axis] == 1 || strides[axis] == rowCount * strides[rank - 2]
  }
  while batchRank > 0, b[batchRank - 1] == 0 || shape[batchRank - 1] == 1, followsOn(a, batchRank - 1),
    followsOn(c, batchRank - 1), rowCount * shape[batchRank - 1] <= Int(CInt.max)
  {
    rowCount *= shape[batchRank - 1]
    batchRank -= 1
  }
  return (rowCount, batchRank)
}

private func matmulShape<Element>(_ a: Tensor<Element>, _ b: Tensor<Element>) throws(AttentionError) -> [Int] {
  try requireShape(
    a.rank >= 2 && b.rank >= 2 && a.shape[a.rank - 1] == b.shape[b.rank - 2], "matmul",
    "[…, m, k] · […, k, n] expected; got \(a.shape) · \(b.shape)")
  let rank = max(a.rank, b.rank)
  func batch(_ shape: [Int]) -> [Int] { Array(repeating: 1, count: rank - shape.count) + shape.dropLast(2) }
  let shape = zip(batch(a.shape), batch(b.shape)).map { $0 == 1 ? $1 : $0 }
  try requireShape(
    isBroadcastable(Array(a.shape.dropLast(2)), to: shape) && isBroadcastable(Array(b.shape.dropLast(2)), to: shape),
    "matmul", "batch axes that broadcast expected; got \(a.shape) · \(b.shape)")
  return shape + [a.shape[a.rank - 2], b.shape[b.rank - 1]]
}
