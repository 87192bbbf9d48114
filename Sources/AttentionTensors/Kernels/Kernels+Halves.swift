internal import CAttentionKernels

/// The types of two bytes in which operands may be stored. Computations with them are in Float.
@frozen @usableFromInline package enum HalfFormat: Sendable {
  /// Float16.
  case float16
  /// BFloat16.
  case bfloat16

  package init?(_ dataType: DataType) {
    switch dataType {
    case .float16: self = .float16
    case .bfloat16: self = .bfloat16
    default: return nil
    }
  }

  var format: attn_half { self == .float16 ? attn_half_float16 : attn_half_bfloat16 }
}

extension Kernels {
  /// y = x. The elements of x have two bytes and are `stride` elements apart. Kernels of Double do not have this
  /// function.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func widen(_ half: HalfFormat, _ count: Int, _ x: UnsafeRawPointer, stride: Int, _ y: MutablePointer) {
    guard let widen = table.pointee.halves.widen else { preconditionFailure("kernels of Double know no halves") }
    let x = x.assumingMemoryBound(to: UInt16.self)
    if stride == 1 || count == 1 { return widen(half.format, count, x, y) }
    withUnsafeTemporaryAllocation(of: UInt16.self, capacity: count) { row in
      for i in 0..<count { row[i] = x[i * stride] }
      widen(half.format, count, row.baseAddress!, y)
    }
  }

  /// y = x, rounded to nearest, ties to even. The elements of y have two bytes and are `stride` elements apart. Kernels
  /// of Double do not have this function.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func narrow(_ half: HalfFormat, _ count: Int, _ x: Pointer, _ y: UnsafeMutableRawPointer, stride: Int) {
    guard let narrow = table.pointee.halves.narrow else { preconditionFailure("kernels of Double know no halves") }
    let y = y.assumingMemoryBound(to: UInt16.self)
    if stride == 1 || count == 1 { return narrow(half.format, count, x, y) }
    withUnsafeTemporaryAllocation(of: UInt16.self, capacity: count) { row in
      narrow(half.format, count, x, row.baseAddress!)
      for i in 0..<count { y[i * stride] = row[i] }
    }
  }
}
