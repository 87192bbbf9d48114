internal import AttentionTensors

/// Adds what `body` adds for some rows, over all rows.
///
/// Rows are summed in chunks, whose number depends only on the number of rows, and the chunks' sums are added in order. So
/// the bits do not depend on the number of threads.
///
/// - Parameters:
///   - rowCount: The number of rows.
///   - columnCount: The number of elements in each sum.
///   - sumCount: The number of sums.
///   - nanosecondsPerRow: About how long one thread takes for a row.
///   - kernels: Those of the context.
///   - context: Threads.
///   - body: Adds up some rows. It gets the sums, one after another, which are 0 at first.
/// - Returns: `[sumCount, columnCount]`.
/// - Throws: `AttentionError` if memory runs out.
func sumOverRows<Element: AttentionElement>(
  rowCount: Int, columnCount: Int, sumCount: Int, nanosecondsPerRow: Double, _ kernels: Kernels<Element>,
  _ context: AttentionContext, _ body: (_ rows: Range<Int>, _ sums: UnsafeMutablePointer<Element>) -> Void
) throws -> Tensor<Element> {
  // At least 32 rows in each of at most 64 chunks: beyond that, the chunks' own sums cost more than they help.
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
