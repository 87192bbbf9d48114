public import AttentionTensors

/// The softmax of every row along the last axis: `yᵢ = exp(xᵢ − max x) / Σⱼ exp(xⱼ − max x)`.
///
/// - Parameters:
///   - x: `[…, n]`; any strides.
///   - context: Threads, instruction set.
/// - Returns: A tensor of x's shape, contiguous. Rows sum to 1, up to rounding. A row of only −inf gives 0. A row that
///   holds NaN or +inf gives NaN.
/// - Throws: `AttentionError` for a scalar, or if the context asks for something that this machine does not have.
///
/// Accuracy: the error of each exponential exp(xᵢ − max x) is at most 2 + 1.25·|xᵢ − max x| ULP. It is computed as 2^t
/// with t = (xᵢ − max x)·log₂ e. The computation of 2^t has an error of at most 1.5 ULP; the rest comes from t, because
/// the difference and log₂ e are rounded. The tests SoftmaxTests.smallExponentials and
/// SoftmaxTests.smallExponentialsOfDouble check this bound, but allow two more ULP: one for the factor 1 / Σ of the
/// softmax, and one for the division by the row's largest result in the test. The largest exponential of a row is
/// exactly 1. Exponentials that are not greater than 2^−126 (Double: 2^−1022) become 0; with some instruction sets, so
/// do those up to 2^−125.5 (Double: 2^−1021.5).
///
/// Source: Milakov and Gimelshein 2018 (arXiv:1805.02867), Algorithm 2.
@_specialize(where Element == Float)
@_specialize(where Element == Double)
public func softmax<Element: AttentionElement>(
  _ x: Tensor<Element>, context: AttentionContext = .default
) throws -> Tensor<Element> {
  let result = try Tensor<Element>(uninitializedShape: x.shape)
  let target = UncheckedSendable(result.mutableBase)
  let count = x.shape.last ?? 0
  if x.rank > 0 && count == 0 { return result }
  try runRows(of: x, "softmax", context, scratchCount: 0) { kernels, row, source, _ in
    let y = target.value + row * count
    let sum = exponentials(kernels, count, source, x.strides[x.rank - 1], y).sum
    kernels.scale(count, y, sum == 0 ? 0 : 1 / sum, y)
  }
  return result
}

/// The log-sum-exp of every row along the last axis: `max x + ln Σⱼ exp(xⱼ − max x)`.
///
/// - Parameters:
///   - x: `[…, n]`; any strides.
///   - context: Threads, instruction set.
/// - Returns: `[…]`: the shape of x without the last axis. A row of only −inf, or of length 0, gives −inf. A row that
///   holds NaN or +inf gives NaN.
/// - Throws: `AttentionError` for a scalar, or if the context asks for something that this machine does not have.
@_specialize(where Element == Float)
@_specialize(where Element == Double)
public func logSumExp<Element: AttentionElement>(
  _ x: Tensor<Element>, context: AttentionContext = .default
) throws -> Tensor<Element> {
  let result = try Tensor<Element>(uninitializedShape: x.shape.dropLast())
  let target = UncheckedSendable(result.mutableBase)
  let count = x.shape.last ?? 0
  try runRows(of: x, "logSumExp", context, scratchCount: count) { kernels, row, source, scratch in
    let (maximum, sum) = exponentials(kernels, count, source, x.strides[x.rank - 1], scratch)
    target.value[row] =
      sum > 0 ? maximum + Element(_nearest: sum._double.naturalLogarithm) : sum == 0 ? -.infinity : .nan
  }
  return result
}

/// y = exp(x − max x). Returns max x and the sum of y.
private func exponentials<Element: AttentionElement>(
  _ kernels: Kernels<Element>, _ count: Int, _ x: UnsafePointer<Element>, _ stride: Int,
  _ y: UnsafeMutablePointer<Element>
) -> (maximum: Element, sum: Element) {
  var x = x
  if stride != 1 {
    for i in 0..<count { y[i] = x[i * stride] }
    x = UnsafePointer(y)
  }
  let maximum = kernels.maximum(count, x)
  if maximum > -.infinity { return (maximum, kernels.exponentialSum(count, x, maximum, y)) }
  // The maximum ignores NaN, so this row holds only −inf and NaN. Hazard: −inf − −inf is NaN, but a row of only −inf
  // must give 0.
  let sum: Element = (0..<count).contains { x[$0].isNaN } ? .nan : 0
  y.update(repeating: sum, count: count)
  return (maximum, sum)
}

/// Calls `body` for every row along the last axis, on the threads of `context`. Each call gets `scratchCount` elements
/// of working memory.
private func runRows<Element: AttentionElement>(
  of x: Tensor<Element>, _ subject: String, _ context: AttentionContext, scratchCount: Int,
  _ body: (_ kernels: Kernels<Element>, _ row: Int, UnsafePointer<Element>, UnsafeMutablePointer<Element>) -> Void
) throws {
  try requireShape(x.rank >= 1, subject, "at least one axis expected; got a scalar")
  let kernels = try context.kernels(for: Element.self)
  let count = x.shape[x.rank - 1]
  let rowCount = x.shape.dropLast().reduce(1, *)
  if rowCount == 0 { return }
  // An estimate that sets the size of tasks: one thread takes 0.25 ns for each element.
  let loop = ParallelLoop(itemCount: rowCount, nanosecondsPerItem: 0.25 * Double(count), context: context)
  let (byteCount, overflow) = scratchCount.multipliedReportingOverflow(
    by: MemoryLayout<Element>.stride * loop.workerCount)
  guard !overflow, byteCount < Int.max - 64 * loop.workerCount else {
    throw AttentionError(.outOfMemory, subject, "\(loop.workerCount) rows of \(count) elements could not be allocated")
  }
  let rowByteCount = (byteCount / loop.workerCount).roundedUp(toMultipleOf: TensorStorage.alignment)
  try withScratch(byteCount: loop.workerCount * rowByteCount) { memory in
    let (source, scratches) = (UncheckedSendable(x.base), UncheckedSendable(memory))
    loop.run { rows, worker in
      let scratch = (scratches.value + worker * rowByteCount).assumingMemoryBound(to: Element.self)
      for row in rows { body(kernels, row, source.value + x.offset(ofRow: row), scratch) }
    }
  }
}

extension Tensor {
  /// The offset of a row along the last axis, in elements. Rows are counted in row-major order.
  fileprivate func offset(ofRow row: Int) -> Int {
    var rest = row
    var offset = 0
    for axis in (0..<rank - 1).reversed() {
      offset += rest % shape[axis] * strides[axis]
      rest /= shape[axis]
    }
    return offset
  }
}
