internal import AttentionTensors

/// One operand of attention as `[B, H, L, E]`: where it lies, of what type it is, and how many elements apart.
struct Operand {
  let base: UnsafeRawPointer
  let elementByteCount: Int
  /// Nil: the type that is computed with, or the bytes of a boolean mask.
  let half: HalfFormat?
  let batchStride: Int
  let headStride: Int
  let lengthStride: Int
  let columnStride: Int
  /// Where the rows lie if not one after another.
  let pages: Pages?

  /// Rows in pages of one length, each somewhere else: `[B, pages]`.
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

  /// The row from `column` on.
  func row(batch: Int, head: Int, index: Int, from column: Int) -> UnsafeRawPointer {
    row(batch: batch, head: head, index: index) + column * columnStride * elementByteCount
  }

  /// The end of the rows that lie one after another from `index` on, at most `limit`.
  func endOfAdjacentRows(from index: Int, limit: Int) -> Int {
    guard let pages else { return limit }
    return min(limit, (index / pages.length + 1) * pages.length)
  }

  /// Some elements of a row, of the type that is computed with, one after another.
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
