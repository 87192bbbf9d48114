internal import AttentionTensors

/// One operand of attention as `[B, H, L, E]`: its address, its type, and its strides in elements.
struct Operand {
  let base: UnsafeRawPointer
  let elementByteCount: Int
  /// The two-byte format of the elements. Nil: the type that attention computes in, or the bytes of a boolean mask.
  let half: HalfFormat?
  let batchStride: Int
  let headStride: Int
  let lengthStride: Int
  let columnStride: Int
  /// Where the rows lie, if they lie in pages. Nil: each row lies `lengthStride` elements after the one before.
  let pages: Pages?

  /// Pages that hold the same number of rows each, at the addresses `bases`: `[B, pages]`.
  struct Pages {
    let bases: UnsafePointer<UnsafeRawPointer>
    let countPerSample: Int
    let length: Int
  }

  init(base: UnsafeRawPointer, dataType: DataType, strides: [Int], pages: Pages? = nil) {
    self.base = base
    elementByteCount = dataType.bitCount / 8
    half = HalfFormat(dataType)
    batchStride = strides[0]
    headStride = strides[1]
    lengthStride = strides[2]
    columnStride = strides[3]
    self.pages = pages
  }

  func row(batch: Int, head: Int, index: Int) -> UnsafeRawPointer {
    guard let pages else {
      return base + (batch * batchStride + head * headStride + index * lengthStride) * elementByteCount
    }
    let (page, position) = index.quotientAndRemainder(dividingBy: pages.length)
    return pages.bases[batch * pages.countPerSample + page]
      + (head * headStride + position * lengthStride) * elementByteCount
  }

  /// The address of element `column` in a row.
  func row(batch: Int, head: Int, index: Int, from column: Int) -> UnsafeRawPointer {
    row(batch: batch, head: head, index: index) + column * columnStride * elementByteCount
  }

  /// The end of the rows that begin at `index` and lie `lengthStride` elements apart, at most `limit`.
  func endOfAdjacentRows(from index: Int, limit: Int) -> Int {
    guard let pages else { return limit }
    return min(limit, (index / pages.length + 1) * pages.length)
  }

  /// Copies some elements of a row to contiguous memory, in the type that attention computes in.
  func copyRow<Element>(
    _ kernels: Kernels<Element>, count: Int, from source: UnsafeRawPointer, to target: UnsafeMutablePointer<Element>
  ) {
    if let half {
      kernels.widen(half, count, source, stride: columnStride, target)
    } else {
      copyStridedRow(
        count: count, elementByteCount: elementByteCount, from: source, stride: columnStride, to: target, stride: 1)
    }
  }
}
