public import AttentionTensors

/// The softmax of every row along the last axis: `yᵢ = exp(xᵢ − max x) / Σⱼ exp(xⱼ − max x)`.
///
/// - Parameters:
///   - x: `[…, n]`.
///   - context: Threads, instruction set.
/// - Returns: The same shape; rows sum to 1. A row of nothing but −inf gives 0; one that holds NaN or
///   +inf gives NaN.
/// - Throws: ``AttentionError`` for a scalar, or where the context asks for what this machine lacks.
///
/// Accuracy: each exponential within 1.5 ULP of its argument's. Exponentials below 2^−126 (Double: 2^−1022)
/// of the row's largest are 0. Source: Milakov and Gimelshein 2018 (arXiv:1805.02867), Algorithm 2.
public func softmax<Element: AttentionElement>(
  _ x: Tensor<Element>, context: AttentionContext = .default
) throws -> Tensor<Element> {
  let result = try Tensor<Element>(uninitializedShape: x.shape)
  let target = UncheckedSendable(result.mutableBase)
  let count = x.shape.last ?? 0
  try forEachRow(of: x, "softmax", context) { kernels, row, source in
    let y = target.value + row * count
    let sum = exponentials(kernels, count, source, y).sum
    kernels.scale(count, y, sum == 0 ? 0 : 1 / sum, y)
  }
  return result
}

/// The log-sum-exp of every row along the last axis: `max x + ln Σⱼ exp(xⱼ − max x)`.
///
/// - Parameters:
///   - x: `[…, n]`.
///   - context: Threads, instruction set.
/// - Returns: `[…]`: without the last axis. A row of nothing but −inf, and one of length 0, gives −inf;
///   one that holds NaN or +inf gives NaN.
/// - Throws: ``AttentionError`` for a scalar, or where the context asks for what this machine lacks.
public func logSumExp<Element: AttentionElement>(
  _ x: Tensor<Element>, context: AttentionContext = .default
) throws -> Tensor<Element> {
  let result = try Tensor<Element>(uninitializedShape: x.shape.dropLast())
  let target = UncheckedSendable(result.mutableBase)
  let count = x.shape.last ?? 0
  try forEachRow(of: x, "logSumExp", context) { kernels, row, source in
    withUnsafeTemporaryAllocation(of: Element.self, capacity: max(count, 1)) { buffer in
      let (maximum, sum) = exponentials(kernels, count, source, buffer.baseAddress!)
      target.value[row] =
        sum > 0 ? maximum + Element(nearest: sum.asDouble.naturalLogarithm) : sum == 0 ? -.infinity : .nan
    }
  }
  return result
}

/// y = exp(x − max x), and what it was made with.
private func exponentials<Element: AttentionElement>(
  _ kernels: _Kernels<Element>, _ count: Int, _ x: UnsafePointer<Element>, _ y: UnsafeMutablePointer<Element>
) -> (maximum: Element, sum: Element) {
  let maximum = kernels.maximum(count, x)
  if maximum > -.infinity { return (maximum, kernels.exponentialSum(count, x, maximum, y)) }
  // Hazard: −inf − −inf is NaN. The row holds nothing but −inf, or NaN, which the maximum leaves out.
  let sum: Element = (0..<count).contains { x[$0].isNaN } ? .nan : 0
  y.update(repeating: sum, count: count)
  return (maximum, sum)
}

/// Calls `body` for every row along the last axis, on the threads of `context`.
private func forEachRow<Element: AttentionElement>(
  of x: Tensor<Element>, _ subject: String, _ context: AttentionContext,
  _ body: (_ kernels: _Kernels<Element>, _ row: Int, UnsafePointer<Element>) -> Void
) throws {
  try requireShape(x.rank >= 1, subject, "at least one axis expected; got a scalar")
  let kernels = try context.kernels(for: Element.self)
  let source = try x.contiguous()
  let count = x.shape[x.rank - 1]
  let rowCount = x.shape.dropLast().reduce(1, *)
  // A piece has some 50 µs of work, and so does the least that is shared.
  let rowsPerPiece = max(1, (1 << 17) / max(count, 1))
  withExtendedLifetime(source) {
    let base = UncheckedSendable(source.base)
    context.executor.execute(
      pieceCount: (rowCount + rowsPerPiece - 1) / rowsPerPiece, width: context.threadCount
    ) { piece, _ in
      for row in piece * rowsPerPiece..<min((piece + 1) * rowsPerPiece, rowCount) {
        body(kernels, row, base.value + row * count)
      }
    }
  }
}
