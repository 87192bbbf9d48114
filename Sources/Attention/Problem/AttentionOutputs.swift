internal import AttentionTensors

/// Where the results of a call go; nil: not wanted.
struct AttentionOutputs<Element> {
  /// Of the query's type.
  let output: UnsafeMutableRawPointer
  let elementByteCount: Int
  /// Nil: the type that is computed with.
  let half: HalfFormat?
  let batchStride: Int
  let headStride: Int
  let lengthStride: Int
  let columnStride: Int
  /// `[B, H, L]`.
  let logSumExp: UnsafeMutablePointer<Element>?
  /// `[B, H, L, S]`.
  let weights: UnsafeMutablePointer<Element>?

  func outputRow(batch: Int, head: Int, query: Int) -> UnsafeMutableRawPointer {
    output + (batch * batchStride + head * headStride + query * lengthStride) * elementByteCount
  }
}
