internal import CAttentionKernels

/// What is done to scores between the product and the softmax.
extension Kernels {
  /// x = cap·tanh(x / cap).
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func softcap(_ count: Int, _ x: MutablePointer, _ cap: Element) {
    table.pointee.arrays.softcap(count, x, cap._double)
  }

  /// scores[key, lane] −= slope[lane]·|position[lane] − key|, where the first key of `scores` has the number 0.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func subtractDistances(
    vectorCount: Int, keyCount: Int, lanes scores: MutablePointer, stride: Int, slope: Pointer, position: Pointer
  ) {
    var arguments = attn_distance(
      row_count: 0, vector_count: vectorCount, key_count: keyCount, stride: stride, scores: scores, slope: slope,
      position: position)
    table.pointee.lanes.distance_lanes(&arguments)
  }

  /// scores[row, key] −= slope[row]·|position[row] − key|, where the first key of `scores` has the number 0.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func subtractDistances(
    rowCount: Int, keyCount: Int, rows scores: MutablePointer, stride: Int, slope: Pointer, position: Pointer
  ) {
    var arguments = attn_distance(
      row_count: rowCount, vector_count: 0, key_count: keyCount, stride: stride, scores: scores, slope: slope,
      position: position)
    table.pointee.rows.distance_rows(&arguments)
  }
}
