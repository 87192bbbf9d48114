// Access to the memory of a tensor. Each access lasts as long as a closure runs.

extension Tensor {
  /// Calls `body` with the elements in row-major order; copies them first if they are in another order.
  /// - Throws: What `body` throws; `AttentionError` where memory for a copy is lacking.
  @inlinable
  public func withUnsafeBufferPointer<R>(_ body: (UnsafeBufferPointer<Element>) throws -> R) throws -> R {
    let source = try contiguous()
    return try withExtendedLifetime(source.storage) {
      try body(UnsafeBufferPointer(start: source.base, count: source.count))
    }
  }

  /// Calls `body` with the elements in row-major order; copies them first if they are in another order.
  /// - Throws: What `body` throws; `AttentionError` where memory for a copy is lacking.
  @inlinable
  public func withSpan<R>(_ body: (Span<Element>) throws -> R) throws -> R {
    try withUnsafeBufferPointer { try body(Span(_unsafeElements: $0)) }
  }

  /// Calls `body` with a view through which this tensor's elements can be written. The view may have any strides.
  ///
  /// The view ends with the closure. If the memory is shared or read-only, or an axis is broadcast, the elements are
  /// copied once, before the closure runs; writing through the view never copies. Elements that this tensor does not
  /// see (gaps between strides) stay untouched.
  /// - Throws: What `body` throws; `AttentionError` where memory for a copy is lacking.
  public mutating func withMutableView<R>(_ body: (inout MutableTensorView<Element>) throws -> R) throws -> R {
    try ensureWritable()
    var view = MutableTensorView(base: mutableBase, shape: shape, strides: strides)
    return try withExtendedLifetime(storage) { try body(&view) }
  }

  /// Gives this tensor memory that no other tensor sees and that may be written.
  package mutating func ensureWritable() throws(AttentionError) {
    // A broadcast axis has one element for many indices, so it can be read but not written.
    let isBroadcast = zip(shape, strides).contains { $0 > 1 && $1 == 0 }
    if isBroadcast || storage.isReadOnly || !isKnownUniquelyReferenced(&storage) { self = try copied() }
  }
}

/// A view for writing: the memory, shape and strides of a tensor while a closure runs.
///
/// A view cannot be copied, and only this package can make one. So it ends with the closure of
/// ``Tensor/withMutableView(_:)``. Do not swap two views: each would then be used in the other's scope.
public struct MutableTensorView<Element: TensorElement>: ~Copyable {
  package let base: UnsafeMutablePointer<Element>
  /// The extent of each axis.
  public let shape: [Int]
  /// The number of elements from one index to the next, for each axis.
  public let strides: [Int]

  package init(base: UnsafeMutablePointer<Element>, shape: [Int], strides: [Int]) {
    self.base = base
    self.shape = shape
    self.strides = strides
  }

  /// The element at `indices`, one for each axis. Traps where an index is out of range, as Array does.
  public subscript(indices: Int...) -> Element {
    get { base[elementPosition(indices, shape: shape, strides: strides)] }
    set { base[elementPosition(indices, shape: shape, strides: strides)] = newValue }
  }

  /// Calls `body` with the elements whose index on one axis is within `range`.
  /// - Throws: What `body` throws; `AttentionError` where the axis does not exist or the range reaches past it.
  public mutating func withSlice<R>(
    _ range: Range<Int>, axis: Int, _ body: (inout MutableTensorView) throws -> R
  ) throws -> R {
    try requireArgument(
      shape.indices.contains(axis) && range.lowerBound >= 0 && range.upperBound <= shape[axis],
      "MutableTensorView.withSlice", "\(range) reaches past axis \(axis) of shape \(shape)")
    var part = shape
    part[axis] = range.count
    var view = MutableTensorView(base: base + range.lowerBound * strides[axis], shape: part, strides: strides)
    return try body(&view)
  }

  /// Calls `body` with a view whose axes are in another order: its axis `k` is axis `order[k]` of this view.
  /// - Throws: What `body` throws; `AttentionError` unless `order` names every axis once.
  public mutating func withPermutation<R>(
    _ order: [Int], _ body: (inout MutableTensorView) throws -> R
  ) throws -> R {
    try requireArgument(
      order.sorted() == Array(shape.indices), "MutableTensorView.withPermutation",
      "the order must name each of \(shape.count) axes once; got \(order)")
    var view = MutableTensorView(base: base, shape: order.map { shape[$0] }, strides: order.map { strides[$0] })
    return try body(&view)
  }

  /// Writes the elements of `source`, which broadcasts to this view's shape.
  /// - Throws: `AttentionError` where `source` does not broadcast.
  public mutating func copy(from source: Tensor<Element>) throws(AttentionError) {
    let source = try source.broadcast(to: shape)
    copyStrided(
      shape: shape, elementByteCount: MemoryLayout<Element>.stride, from: source.base, strides: source.strides,
      to: base, strides: strides)
  }

  /// Writes one value everywhere.
  public mutating func fill(_ value: Element) {
    if shape.contains(0) { return }
    let width = shape.last ?? 1
    let stride = strides.last ?? 1
    forEachRow(shape: shape, strides, strides) { offset, _ in
      for i in 0..<width { base[offset + i * stride] = value }
    }
  }
}
