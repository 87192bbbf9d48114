/// Copies a strided block of elements to another strided place of the same shape. The elements may have any type of 1,
/// 2, 4 or 8 bytes.
///
/// Strides count elements. Where the last axis is contiguous on both sides, a row is one `memcpy`.
package func copyStrided(
  shape: [Int], elementByteCount: Int,
  from source: UnsafeRawPointer, strides sourceStrides: [Int],
  to target: UnsafeMutableRawPointer, strides targetStrides: [Int]
) {
  if shape.contains(0) { return }
  guard let width = shape.last else {
    target.copyMemory(from: source, byteCount: elementByteCount)
    return
  }
  let last = shape.count - 1
  forEachRow(shape: shape, sourceStrides, targetStrides) { sourceOffset, targetOffset in
    let from = source + sourceOffset * elementByteCount
    let to = target + targetOffset * elementByteCount
    copyStridedRow(
      count: width, elementByteCount: elementByteCount,
      from: from, stride: sourceStrides[last], to: to, stride: targetStrides[last])
  }
}

/// Calls `body` for every row, which is one index on each axis but the last. `body` gets the offset of the row's first
/// element in each of two arrays of the same shape, in elements.
package func forEachRow(
  shape: [Int], _ firstStrides: [Int], _ secondStrides: [Int], _ body: (Int, Int) throws -> Void
) rethrows {
  if shape.contains(0) { return }
  let outer = shape.count - 1
  var index = [Int](repeating: 0, count: max(outer, 0))
  var first = 0
  var second = 0
  while true {
    try body(first, second)
    var axis = outer - 1
    while axis >= 0 {
      index[axis] += 1
      first += firstStrides[axis]
      second += secondStrides[axis]
      if index[axis] < shape[axis] { break }
      first -= shape[axis] * firstStrides[axis]
      second -= shape[axis] * secondStrides[axis]
      index[axis] = 0
      axis -= 1
    }
    if axis < 0 { return }
  }
}

/// ``copyStrided(shape:elementByteCount:from:strides:to:strides:)`` for one row. Allocates nothing.
package func copyStridedRow(
  count: Int, elementByteCount: Int, from source: UnsafeRawPointer, stride sourceStride: Int,
  to target: UnsafeMutableRawPointer, stride targetStride: Int
) {
  if sourceStride == 1 && targetStride == 1 {
    return target.copyMemory(from: source, byteCount: count * elementByteCount)
  }
  func copy<Bits: BitwiseCopyable>(_: Bits.Type) {
    let from = source.assumingMemoryBound(to: Bits.self)
    let to = target.assumingMemoryBound(to: Bits.self)
    for i in 0..<count { to[i * targetStride] = from[i * sourceStride] }
  }
  switch elementByteCount {
  case 1: copy(UInt8.self)
  case 2: copy(UInt16.self)
  case 4: copy(UInt32.self)
  case 8: copy(UInt64.self)
  default: preconditionFailure("elements of \(elementByteCount) bytes")
  }
}
