internal import AttentionTensors

/// A tensor as `[B, H, L, E]` to which rows of results are written.
struct MutableOperand {
  private let operand: Operand

  init(base: UnsafeMutableRawPointer, dataType: DataType, strides: [Int]) {
    operand = Operand(base: base, dataType: dataType, strides: strides)
  }

  /// The two-byte format of the elements. Nil: the type that attention computes in.
  var half: HalfFormat? { operand.half }
  var elementByteCount: Int { operand.elementByteCount }
  var columnStride: Int { operand.columnStride }
  var rowByteStride: Int { operand.lengthStride * operand.elementByteCount }

  func row(batch: Int, head: Int, index: Int) -> UnsafeMutableRawPointer {
    UnsafeMutableRawPointer(mutating: operand.row(batch: batch, head: head, index: index))
  }

  /// Writes a row of contiguous numbers, rounded once if the type has two bytes.
  func write<Element>(
    _ kernels: Kernels<Element>, count: Int, from row: UnsafePointer<Element>, to target: UnsafeMutableRawPointer
  ) {
    if let half {
      kernels.narrow(half, count, row, target, stride: columnStride)
    } else {
      copyStridedRow(
        count: count, elementByteCount: elementByteCount, from: row, stride: 1, to: target, stride: columnStride)
    }
  }

  /// Writes 0 to every element of a row.
  func clear(count: Int, _ target: UnsafeMutableRawPointer) {
    for column in 0..<count {
      // In every type, 0 is stored as bytes of 0.
      (target + column * columnStride * elementByteCount).initializeMemory(
        as: UInt8.self, repeating: 0, count: elementByteCount)
    }
  }
}
