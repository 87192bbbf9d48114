// Views: other shapes and strides over the same memory. The functions copy nothing, except where a comment says so.

extension Tensor {
  /// The elements whose index on one axis is within `range`.
  /// - Throws: `AttentionError` where the axis does not exist or the range reaches past it.
  public func slice(_ range: Range<Int>, axis: Int) throws(AttentionError) -> Tensor {
    try requireAxis(axis, "Tensor.slice")
    try requireArgument(
      range.lowerBound >= 0 && range.upperBound <= shape[axis], "Tensor.slice",
      "\(range) reaches past axis \(axis) of shape \(shape)")
    var view = self
    // An empty range has no first element, so the offset stays as it is.
    if !range.isEmpty { view.offset += range.lowerBound * strides[axis] }
    view.shape[axis] = range.count
    return view
  }

  /// The elements at one index of an axis. The result does not have this axis.
  /// - Throws: `AttentionError` where the axis or the index does not exist.
  public func select(_ index: Int, axis: Int) throws(AttentionError) -> Tensor {
    try requireAxis(axis, "Tensor.select")
    try requireArgument(
      index >= 0 && index < shape[axis], "Tensor.select", "index \(index) is outside axis \(axis) of shape \(shape)")
    var view = self
    view.offset += index * strides[axis]
    view.shape.remove(at: axis)
    view.strides.remove(at: axis)
    return view
  }

  /// This tensor with its axes in another order: axis `k` of the result is axis `order[k]` of this tensor.
  /// - Throws: `AttentionError` unless `order` names every axis once.
  public func permuted(_ order: [Int]) throws(AttentionError) -> Tensor {
    try requireArgument(
      order.sorted() == Array(shape.indices), "Tensor.permuted",
      "the order must name each of \(rank) axes once; got \(order)")
    var view = self
    view.shape = order.map { shape[$0] }
    view.strides = order.map { strides[$0] }
    return view
  }

  /// This tensor with its last two axes exchanged.
  /// - Throws: `AttentionError` where there are fewer than two axes.
  public func transposed() throws(AttentionError) -> Tensor {
    try requireShape(rank >= 2, "Tensor.transposed", "at least 2 axes expected; got shape \(shape)")
    return try permuted(Array(0..<rank - 2) + [rank - 1, rank - 2])
  }

  /// Another shape over the same elements in row-major order. Copies only where the strides do not allow a view.
  /// - Throws: `AttentionError` unless both shapes have the same number of elements, or where memory for a copy is
  ///   lacking.
  public func reshaped(_ newShape: [Int]) throws(AttentionError) -> Tensor {
    let newCount = try elementCount(of: newShape)
    try requireShape(
      newCount == count, "Tensor.reshaped",
      "the shape \(newShape) has \(newCount) elements; \(shape) has \(count)")
    guard let newStrides = stridesForReshape(to: newShape) else { return try copied().reshaped(newShape) }
    var view = self
    view.shape = newShape
    view.strides = newStrides
    return view
  }

  /// The strides that give these elements another shape; nil if only a copy can have that shape.
  private func stridesForReshape(to newShape: [Int]) -> [Int]? {
    if count == 0 || isContiguous { return rowMajorStrides(of: newShape) }
    // The strides of axes of extent 1 do not matter. Both shapes are cut into groups of adjacent axes, such that the
    // n-th group of each shape has the same number of elements.
    let old = shape.indices.filter { shape[$0] != 1 }
    var result = [Int](repeating: 1, count: newShape.count)
    var oldAxis = 0
    var newAxis = 0
    while oldAxis < old.count {
      var oldEnd = oldAxis + 1
      var newEnd = newAxis + 1
      var oldProduct = shape[old[oldAxis]]
      var newProduct = newShape[newAxis]
      while oldProduct != newProduct {
        if oldProduct < newProduct {
          oldProduct *= shape[old[oldEnd]]
          oldEnd += 1
        } else {
          newProduct *= newShape[newEnd]
          newEnd += 1
        }
      }
      for k in oldAxis..<oldEnd - 1 where strides[old[k]] != strides[old[k + 1]] * shape[old[k + 1]] { return nil }
      var stride = strides[old[oldEnd - 1]]
      for k in (newAxis..<newEnd).reversed() {
        result[k] = stride
        stride *= newShape[k]
      }
      oldAxis = oldEnd
      newAxis = newEnd
    }
    return result
  }

  /// Repeats axes of extent 1 and adds new axes in front. Nothing is copied: the stride of such axes is 0. The shapes
  /// are aligned at their last axes, as in NumPy.
  /// - Throws: `AttentionError` where an axis has neither extent 1 nor the extent wanted.
  public func broadcast(to newShape: [Int]) throws(AttentionError) -> Tensor {
    _ = try elementCount(of: newShape)
    try requireShape(
      isBroadcastable(shape, to: newShape), "Tensor.broadcast", "\(shape) does not broadcast to \(newShape)")
    let added = newShape.count - rank
    var view = self
    view.shape = newShape
    view.strides = newShape.indices.map { axis in
      axis < added || shape[axis - added] != newShape[axis] ? 0 : strides[axis - added]
    }
    return view
  }

  /// A view of `[…, L, H·E]` as `[…, H, L, E]`: the heads of a projection, without a copy.
  /// - Throws: `AttentionError` unless there are at least two axes and the extent of the last is a multiple of
  ///   `headCount`.
  public func splitHeads(_ headCount: Int) throws(AttentionError) -> Tensor {
    try requireShape(rank >= 2, "Tensor.splitHeads", "[…, length, width] expected; got shape \(shape)")
    try requireShape(
      headCount > 0 && shape[rank - 1] % headCount == 0, "Tensor.splitHeads",
      "the width must be a multiple of the head count \(headCount); got shape \(shape)")
    var view = self
    view.shape[rank - 1] = shape[rank - 1] / headCount
    view.shape.insert(headCount, at: rank - 2)
    _ = try elementCount(of: view.shape)
    view.strides.insert(view.shape[rank] * strides[rank - 1], at: rank - 2)
    return view
  }

  /// `[…, H, L, E]` as `[…, L, H·E]`: the inverse of ``splitHeads(_:)``. A result of `splitHeads` is not copied; other
  /// tensors are copied where their strides do not allow a view.
  /// - Throws: `AttentionError` where there are fewer than three axes, or where memory for a copy is lacking.
  public func mergedHeads() throws(AttentionError) -> Tensor {
    try requireShape(rank >= 3, "Tensor.mergedHeads", "[…, heads, length, width] expected; got shape \(shape)")
    let order = Array(0..<rank - 3) + [rank - 2, rank - 3, rank - 1]
    let merged = Array(shape[..<(rank - 3)]) + [shape[rank - 2], shape[rank - 3] * shape[rank - 1]]
    return try permuted(order).reshaped(merged)
  }

  private func requireAxis(_ axis: Int, _ subject: String) throws(AttentionError) {
    try requireArgument(shape.indices.contains(axis), subject, "axis \(axis) does not exist in shape \(shape)")
  }
}

/// True if `shape` broadcasts to `target`: aligned at their last axes, each extent of `shape` is 1 or that of `target`.
/// `shape` must not have more axes.
package func isBroadcastable(_ shape: [Int], to target: [Int]) -> Bool {
  shape.count <= target.count && zip(shape.reversed(), target.reversed()).allSatisfy { $0 == $1 || $0 == 1 }
}
