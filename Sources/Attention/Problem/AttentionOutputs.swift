internal import AttentionTensors

/// Where a call writes its results. Nil: not wanted.
struct AttentionOutputs<Element> {
  /// The output, of the query's type.
  let output: UnsafeMutableRawPointer
  let elementByteCount: Int
  /// The two-byte format of the output. Nil: its type is the one that attention computes in.
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
