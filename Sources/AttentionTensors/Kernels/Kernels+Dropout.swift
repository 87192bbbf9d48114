internal import CAttentionKernels

/// Which weights of a call are dropped: each weight has a random number of 32 bits, and is dropped if this number is
/// less than a threshold.
package struct DropoutRule: Sendable {
  package let seed: UInt64
  /// Weights whose random number is less than this are dropped.
  let threshold: UInt32
  /// The factor of the weights that are kept: 1 / (1 − p), where p is the rounded probability; 0 if p is 1.
  let factor: Double

  /// A rule that drops each weight with `probability`, from 0 to 1, rounded to a multiple of 2⁻³².
  package init(probability: Double, seed: UInt64) {
    self.seed = seed
    let dropped = (probability * 0x1p32).rounded()
    threshold = UInt32(min(dropped, 0x1p32 - 1))
    factor = dropped == 0x1p32 ? 0 : 0x1p32 / (0x1p32 - dropped)
  }
}

extension Kernels {
  /// x[key, lane] ← x · factor where the weight is kept, else 0.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func dropOut(
    _ rule: DropoutRule, batch: Int, vectorCount: Int, heads: UnsafePointer<Int32>, queries: UnsafePointer<Int32>,
    keys: Range<Int>, lanes x: MutablePointer, stride: Int
  ) {
    var arguments = attn_dropout(
      row_count: 0, vector_count: vectorCount, key_count: keys.count, stride: stride, x: x, heads: heads,
      queries: queries, batch: UInt32(batch), first_key: UInt32(keys.lowerBound), threshold: rule.threshold,
      seed: rule.seed, factor: rule.factor)
    table.pointee.lanes.dropout_lanes(&arguments)
  }

  /// x[row, key] ← x · factor where the weight is kept, else 0.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func dropOut(
    _ rule: DropoutRule, batch: Int, rowCount: Int, heads: UnsafePointer<Int32>, queries: UnsafePointer<Int32>,
    keys: Range<Int>, rows x: MutablePointer, stride: Int
  ) {
    var arguments = attn_dropout(
      row_count: rowCount, vector_count: 0, key_count: keys.count, stride: stride, x: x, heads: heads,
      queries: queries, batch: UInt32(batch), first_key: UInt32(keys.lowerBound), threshold: rule.threshold,
      seed: rule.seed, factor: rule.factor)
    table.pointee.rows.dropout_rows(&arguments)
  }
}
