/// An n-dimensional array: a shape, strides and shared memory.
///
/// A tensor is a value. Copies and views (`slice`, `transposed`, `splitHeads` …) share memory until one
/// of them is written; the first write through a shared tensor copies what that tensor sees.
///
///     let x: Tensor<Float> = [[1, 2, 3], [4, 5, 6]]
///     x.shape          // [2, 3]
///     x[1, 2]          // 6
///     try x.transposed().shape   // [3, 2], no copy
///
/// Memory that a tensor allocates is aligned to 64 bytes. Functions check shapes and throw `AttentionError`; subscripts
/// and literals trap as Array's do.
public struct Tensor<Element: TensorElement>: Sendable {
  @usableFromInline package var storage: TensorStorage
  /// The number of elements in `storage` before this tensor's first element.
  @usableFromInline package var offset: Int
  /// The extent of each axis. A scalar has no axes.
  public internal(set) var shape: [Int]
  /// The number of elements from one index to the next, for each axis; 0 where the axis is broadcast.
  public internal(set) var strides: [Int]

  package init(storage: TensorStorage, offset: Int, shape: [Int], strides: [Int]) {
    self.storage = storage
    self.offset = offset
    self.shape = shape
    self.strides = strides
  }

  /// A tensor whose memory `fill` initialises, in row-major order.
  ///
  /// - Parameters:
  ///   - shape: The extents, none negative.
  ///   - fill: Must initialise every element of the buffer.
  /// - Throws: `AttentionError` where the shape is impossible or memory is lacking; any error of `fill`.
  @inlinable
  public init(shape: [Int], initializingWith fill: (UnsafeMutableBufferPointer<Element>) throws -> Void) throws {
    try self.init(uninitializedShape: shape)
    try fill(UnsafeMutableBufferPointer(start: mutableBase, count: count))
  }

  @usableFromInline
  package init(uninitializedShape shape: [Int]) throws(AttentionError) {
    let count = try elementCount(of: shape)
    let (byteCount, overflow) = count.multipliedReportingOverflow(by: MemoryLayout<Element>.stride)
    try requireArgument(!overflow, "Tensor", "the shape \(shape) has more bytes than fit an Int")
    self.init(
      storage: try TensorStorage(byteCount: byteCount), offset: 0, shape: shape,
      strides: rowMajorStrides(of: shape))
  }

  /// A tensor with one value everywhere.
  /// - Throws: `AttentionError` where the shape is impossible or memory is lacking.
  public init(repeating value: Element, shape: [Int]) throws(AttentionError) {
    try self.init(uninitializedShape: shape)
    UnsafeMutableBufferPointer(start: mutableBase, count: count).initialize(repeating: value)
  }

  /// A tensor of `values` in row-major order.
  /// - Throws: `AttentionError` unless `values` has as many elements as `shape` says, or where the shape is impossible
  ///   or memory is lacking.
  public init(_ values: some Collection<Element>, shape: [Int]) throws(AttentionError) {
    let count = try elementCount(of: shape)
    try requireShape(
      count == values.count, "Tensor", "the shape \(shape) needs \(count) elements; got \(values.count)")
    try self.init(uninitializedShape: shape)
    _ = UnsafeMutableBufferPointer(start: mutableBase, count: count).initialize(from: values)
  }

  /// The number of axes.
  public var rank: Int { shape.count }

  /// The number of elements.
  public var count: Int { shape.reduce(1, *) }

  /// True if the elements lie one after another in row-major order.
  public var isContiguous: Bool { isRowMajor(shape: shape, strides: strides) }

  /// The address of the first element, for reading only.
  @usableFromInline
  package var base: UnsafePointer<Element> {
    UnsafePointer(storage.base.assumingMemoryBound(to: Element.self) + offset)
  }

  /// The address of the first element, for writing. Use it only for a tensor that the caller has just made, or whose
  /// memory the caller has made unique.
  @usableFromInline
  package var mutableBase: UnsafeMutablePointer<Element> {
    storage.base.assumingMemoryBound(to: Element.self) + offset
  }

  /// The element at `indices`, one for each axis. Traps where an index is out of range, as Array does. If the memory is
  /// shared or read-only, or an axis is broadcast, writing first copies the elements.
  public subscript(indices: Int...) -> Element {
    get { base[position(of: indices)] }
    set {
      do { try ensureWritable() } catch { fatalError("\(error)") }
      mutableBase[position(of: indices)] = newValue
    }
  }

  private func position(of indices: [Int]) -> Int { elementPosition(indices, shape: shape, strides: strides) }

  /// The elements in row-major order.
  public var array: [Element] {
    var result: [Element] = []
    result.reserveCapacity(count)
    if shape.contains(0) { return result }
    let width = shape.last ?? 1
    let stride = strides.last ?? 1
    forEachRow(shape: shape.isEmpty ? [1] : shape, strides, strides) { offset, _ in
      if stride == 1 {
        result.append(contentsOf: UnsafeBufferPointer(start: base + offset, count: width))
      } else {
        for i in 0..<width { result.append(base[offset + i * stride]) }
      }
    }
    return result
  }

  /// The only element of a tensor with one element. Traps if the tensor has another number of elements.
  public var scalar: Element {
    precondition(count == 1, "Tensor.scalar: one element expected; got shape \(shape)")
    return base[0]
  }

  /// The same elements in row-major order, copied only if they are in another order.
  /// - Throws: `AttentionError` where memory is lacking.
  public func contiguous() throws(AttentionError) -> Tensor {
    isContiguous ? self : try copied()
  }

  /// A copy in memory of its own.
  package func copied() throws(AttentionError) -> Tensor {
    let result = try Tensor(uninitializedShape: shape)
    copyStrided(
      shape: shape, elementByteCount: MemoryLayout<Element>.stride, from: base, strides: strides,
      to: result.mutableBase, strides: result.strides)
    return result
  }

  /// True if both are the same view of the same memory, so that each element of one is that of the other. Elements are
  /// not compared, so this is true even where they are NaN.
  public func isSameView(as other: Tensor) -> Bool {
    storage === other.storage && offset == other.offset && shape == other.shape && strides == other.strides
  }
}

extension Tensor: Equatable where Element: Equatable {
  /// True if the shapes and the elements are equal. The strides may differ. NaN equals nothing, as for `Element`.
  public static func == (a: Tensor, b: Tensor) -> Bool {
    a.shape == b.shape && a.array == b.array
  }
}

extension Tensor where Element: RealTensorElement {
  /// The numbers of `other`, rounded to the nearest elements of this type.
  /// - Throws: `AttentionError` where memory is lacking.
  @inlinable
  public init<Other: RealTensorElement>(converting other: Tensor<Other>) throws {
    try self.init(shape: other.shape) { target in
      try other.withUnsafeBufferPointer { source in
        for i in 0..<source.count { target[i] = Element(_nearest: source[i]._double) }
      }
    }
  }
}

// MARK: - Shapes

/// The product of the extents. Throws if the product or a stride does not fit an Int, or if an extent is negative.
package func elementCount(of shape: [Int]) throws(AttentionError) -> Int {
  // An extent of 0 makes the count 0, but strides are still products of the other extents. So those products must fit
  // an Int too.
  var count = 1
  for extent in shape {
    try requireArgument(extent >= 0, "Tensor", "extents must not be negative; got shape \(shape)")
    let (product, overflow) = count.multipliedReportingOverflow(by: max(extent, 1))
    try requireArgument(!overflow, "Tensor", "the shape \(shape) has more elements than fit an Int")
    count = product
  }
  return shape.contains(0) ? 0 : count
}

package func rowMajorStrides(of shape: [Int]) -> [Int] {
  var strides = [Int](repeating: 1, count: shape.count)
  for axis in shape.indices.dropLast().reversed() { strides[axis] = strides[axis + 1] * shape[axis + 1] }
  return strides
}

package func isRowMajor(shape: [Int], strides: [Int]) -> Bool {
  if shape.contains(0) { return true }
  var expected = 1
  for axis in shape.indices.reversed() where shape[axis] != 1 {
    if strides[axis] != expected { return false }
    expected *= shape[axis]
  }
  return true
}

package func elementPosition(_ indices: [Int], shape: [Int], strides: [Int]) -> Int {
  precondition(indices.count == shape.count, "Tensor: \(indices.count) indices for shape \(shape)")
  var position = 0
  for axis in indices.indices {
    precondition(
      indices[axis] >= 0 && indices[axis] < shape[axis],
      "Tensor: index \(indices) is out of range for shape \(shape)")
    position += indices[axis] * strides[axis]
  }
  return position
}
