internal import CAttentionKernels

/// The kernels of one instruction set and element type. CAttentionKernels.h says what each computes.
///
/// The functions are specialised for Float and Double, because their callers are in other modules. Unspecialised code
/// would look up every operation of `Element` in a table.
package struct Kernels<Element: RealTensorElement>: @unchecked Sendable {
  // Sendable: the table is a constant of the program.
  let table: UnsafePointer<attn_kernels>
  package let instructionSet: InstructionSet

  package typealias Pointer = UnsafePointer<Element>
  package typealias MutablePointer = UnsafeMutablePointer<Element>

  /// Nil if this machine does not have the instruction set, and for types other than Float and Double.
  package init?(_ instructionSet: InstructionSet) {
    let type: attn_type
    switch Element._dataType {
    case .float32: type = attn_type_f32
    case .float64: type = attn_type_f64
    default: return nil
    }
    guard let table = attn_kernels_for(attn_isa(UInt32(instructionSet.ordinal)), type) else { return nil }
    self.table = table
    self.instructionSet = instructionSet
  }

  // MARK: Arrays

  /// The largest of `count` elements. NaN is ignored. The result is −inf if `count` is 0 or every element is NaN.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func maximum(_ count: Int, _ x: Pointer) -> Element {
    Element(_nearest: table.pointee.arrays.maximum(count, x))
  }

  /// y = exp(x − shift); returns Σ y.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func exponentialSum(_ count: Int, _ x: Pointer, _ shift: Element, _ y: MutablePointer) -> Element {
    Element(_nearest: table.pointee.arrays.exponential_sum(count, x, shift._double, y))
  }

  /// y = x · factor.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func scale(_ count: Int, _ x: Pointer, _ factor: Element, _ y: MutablePointer) {
    table.pointee.arrays.scale(count, x, factor._double, y)
  }

  /// scores += bias. Where the score or the bias is −inf, the result is −inf, even if the other one is NaN.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func addBias(_ count: Int, _ scores: MutablePointer, _ bias: Pointer) {
    table.pointee.arrays.add_bias(count, scores, bias)
  }

  /// −inf replaces the score where `attend` is 0.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func mask(_ count: Int, _ scores: MutablePointer, _ attend: UnsafePointer<UInt8>) {
    table.pointee.arrays.mask(count, scores, attend)
  }

  /// True if no element is infinite or NaN.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func isFinite(_ count: Int, _ x: Pointer) -> Bool { table.pointee.arrays.is_finite(count, x) }

  /// y = 2^x for x ≤ 0: the function inside the softmax, available so that it can be tested by itself.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func exp2(_ count: Int, _ x: Pointer, _ y: MutablePointer) { table.pointee.arrays.exp2(count, x, y) }
}
