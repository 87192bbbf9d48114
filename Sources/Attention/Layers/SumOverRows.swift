internal import AttentionTensors

/// Computes sums over all rows. `body` computes them for a range of rows.
///
/// The rows are cut into chunks, whose number depends only on the number of rows, and the sums of the chunks are added
/// in order. So the bits do not depend on the number of threads.
///
/// - Parameters:
///   - rowCount: The number of rows.
///   - columnCount: The number of elements in each sum.
///   - sumCount: The number of sums.
///   - nanosecondsPerRow: About how long one thread takes for a row.
///   - kernels: Those of the context.
///   - context: Threads.
///   - body: Adds some rows to the sums. The sums lie one after another in memory, and are 0 when `body` is called.
/// - Returns: `[sumCount, columnCount]`.
/// - Throws: `AttentionError` if memory runs out.
func sumOverRows<Element: AttentionElement>(
  rowCount: Int, columnCount: Int, sumCount: Int, nanosecondsPerRow: Double, _ kernels: Kernels<Element>,
  _ context: AttentionContext, _ body: (_ rows: Range<Int>, _ sums: UnsafeMutablePointer<Element>) -> Void
) throws -> Tensor<Element> {
  // There are at most 64 chunks, each of at least 32 rows, except for the last. Each chunk has sums of its own, which
  // must be set to 0 and added up, so more or shorter chunks would cost more than they save.
  let chunkLength = max(32, rowCount.dividedRoundingUp(by: 64))
  let chunkCount = max(1, rowCount.dividedRoundingUp(by: chunkLength))
  let count = sumCount * columnCount
  let chunks = try Tensor<Element>(repeating: 0, shape: [chunkCount, count])
  let base = UncheckedSendable(chunks.mutableBase)
  context.parallelFor(count: chunkCount, nanosecondsPerItem: Double(chunkLength) * nanosecondsPerRow) { items, _ in
    for chunk in items {
      body(chunk * chunkLength..<min((chunk + 1) * chunkLength, rowCount), base.value + chunk * count)
    }
  }
  if chunkCount > 1 {
    kernels.addRows(rowCount: chunkCount - 1, count, base.value + count, stride: count, to: base.value)
  }
  return try chunks.select(0, axis: 0).reshaped([sumCount, columnCount])
}
