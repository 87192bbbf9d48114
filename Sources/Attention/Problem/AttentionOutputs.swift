/// Where a call writes its results. A result that is nil is not wanted.
struct AttentionOutputs<Element> {
  /// The output, of the query's type.
  let output: MutableOperand
  /// `[B, H, L]`: the log-sum-exp of every query.
  let logSumExp: UnsafeMutablePointer<Element>?
  /// `[B, H, L, S]`: for every query, the weight of every key.
  let weights: UnsafeMutablePointer<Element>?
}
