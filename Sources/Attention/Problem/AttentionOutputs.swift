/// Where a call writes its results. Nil: not wanted.
struct AttentionOutputs<Element> {
  /// The output, of the query's type.
  let output: MutableOperand
  /// `[B, H, L]`.
  let logSumExp: UnsafeMutablePointer<Element>?
  /// `[B, H, L, S]`.
  let weights: UnsafeMutablePointer<Element>?
}
