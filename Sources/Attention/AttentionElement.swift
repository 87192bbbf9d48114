public import AttentionBLAS
public import AttentionTensors
internal import CAttentionKernels

/// A type of number that attention computes in: Float and Double. Not for other types to adopt.
public protocol AttentionElement: BLASElement {
  /// The kernels of one instruction set; nil where this machine lacks it. Not API.
  static func _kernels(for instructionSet: InstructionSet) -> _Kernels<Self>?
}

/// The kernels of one instruction set and element type, as CAttentionKernels.h describes them. Not API.
public struct _Kernels<Element: AttentionElement>: Sendable {
  package typealias Pointer = UnsafePointer<Element>
  package typealias MutablePointer = UnsafeMutablePointer<Element>

  /// The online softmax of one tile.
  package let softmaxTile: @Sendable (SoftmaxTile<Element>) -> Void
  /// The largest of `count` elements, NaN left out.
  package let maximum: @Sendable (_ count: Int, Pointer) -> Element
  /// y = exp(x − shift); returns Σ y.
  package let exponentialSum: @Sendable (_ count: Int, _ x: Pointer, _ shift: Element, _ y: MutablePointer) -> Element
  /// y = x · factor.
  package let scale: @Sendable (_ count: Int, _ x: Pointer, _ factor: Element, _ y: MutablePointer) -> Void
  /// scores += bias; −inf in the bias replaces the score.
  package let addBias: @Sendable (_ count: Int, _ scores: MutablePointer, _ bias: Pointer) -> Void
  /// −inf replaces the score where `attend` is 0.
  package let mask: @Sendable (_ count: Int, _ scores: MutablePointer, _ attend: UnsafePointer<UInt8>) -> Void
  package let isFinite: @Sendable (_ count: Int, Pointer) -> Bool
  /// y = 2^x for x ≤ 0: the function inside the softmax, to be tested by itself.
  package let exp2: @Sendable (_ count: Int, _ x: Pointer, _ y: MutablePointer) -> Void
}

/// The arguments of the softmax kernel: a block of rows of a tile of scores.
package struct SoftmaxTile<Element> {
  let rowCount: Int
  let columnCount: Int
  /// `[rowCount, columnCount]`: scores in, weights relative to the running maximum out.
  let scores: UnsafeMutablePointer<Element>
  let stride: Int
  /// Attended columns of each row; nil: all.
  let begin: UnsafePointer<Int64>?
  let end: UnsafePointer<Int64>?
  /// Carried over from tile to tile, one for each row.
  let maximum: UnsafeMutablePointer<Element>
  let sum: UnsafeMutablePointer<Element>
  /// Out: what earlier tiles' results are to be multiplied by.
  let rescale: UnsafeMutablePointer<Element>

  package init(
    rowCount: Int, columnCount: Int, scores: UnsafeMutablePointer<Element>, stride: Int, begin: UnsafePointer<Int64>?,
    end: UnsafePointer<Int64>?, maximum: UnsafeMutablePointer<Element>, sum: UnsafeMutablePointer<Element>,
    rescale: UnsafeMutablePointer<Element>
  ) {
    self.rowCount = rowCount
    self.columnCount = columnCount
    self.scores = scores
    self.stride = stride
    self.begin = begin
    self.end = end
    self.maximum = maximum
    self.sum = sum
    self.rescale = rescale
  }
}

extension InstructionSet {
  var isa: attn_isa {
    switch self {
    case .portable: attn_isa_portable
    case .neon: attn_isa_neon
    case .avx2: attn_isa_avx2
    case .avx512: attn_isa_avx512
    }
  }

  /// Those that this machine runs, worst first. Never empty.
  public static let present: [InstructionSet] = allCases.filter { attn_isa_is_present($0.isa) }
}

extension AttentionContext {
  /// The instruction set that calls with this context use.
  /// - Throws: `AttentionError` where this machine lacks the one asked for.
  public func resolvedInstructionSet() throws(AttentionError) -> InstructionSet {
    if let environmentError { throw environmentError }
    let present = InstructionSet.present
    guard let wanted = instructionSet else { return present[present.count - 1] }
    if present.contains(wanted) { return wanted }
    let names = present.map(\.rawValue).joined(separator: ", ")
    throw AttentionError(
      .unsupported, "instruction set", "this machine has no \(wanted.rawValue); it has \(names)")
  }

  package func kernels<Element: AttentionElement>(for _: Element.Type) throws(AttentionError) -> _Kernels<Element> {
    let instructionSet = try resolvedInstructionSet()
    guard let kernels = Element._kernels(for: instructionSet) else {
      preconditionFailure("\(instructionSet) is present but has no kernels")
    }
    return kernels
  }
}

// The two tables below read alike, but their C types have nothing in common.

extension Float: AttentionElement {
  public static func _kernels(for instructionSet: InstructionSet) -> _Kernels<Float>? {
    tables[InstructionSet.allCases.firstIndex(of: instructionSet)!]
  }

  private static let tables = InstructionSet.allCases.map { instructionSet -> _Kernels<Float>? in
    guard let table = attn_f32_kernels_for(instructionSet.isa)?.pointee else { return nil }
    return _Kernels(
      softmaxTile: {
        var tile = attn_f32_softmax_tile(
          row_count: $0.rowCount, column_count: $0.columnCount, stride: $0.stride, scores: $0.scores,
          begin: $0.begin, end: $0.end, maximum: $0.maximum, sum: $0.sum, rescale: $0.rescale)
        table.softmax_tile(&tile)
      },
      maximum: { table.maximum($0, $1) }, exponentialSum: { table.exponential_sum($0, $1, $2, $3) },
      scale: { table.scale($0, $1, $2, $3) }, addBias: { table.add_bias($0, $1, $2) },
      mask: { table.mask($0, $1, $2) }, isFinite: { table.is_finite($0, $1) }, exp2: { table.exp2($0, $1, $2) })
  }
}

extension Double: AttentionElement {
  public static func _kernels(for instructionSet: InstructionSet) -> _Kernels<Double>? {
    tables[InstructionSet.allCases.firstIndex(of: instructionSet)!]
  }

  private static let tables = InstructionSet.allCases.map { instructionSet -> _Kernels<Double>? in
    guard let table = attn_f64_kernels_for(instructionSet.isa)?.pointee else { return nil }
    return _Kernels(
      softmaxTile: {
        var tile = attn_f64_softmax_tile(
          row_count: $0.rowCount, column_count: $0.columnCount, stride: $0.stride, scores: $0.scores,
          begin: $0.begin, end: $0.end, maximum: $0.maximum, sum: $0.sum, rescale: $0.rescale)
        table.softmax_tile(&tile)
      },
      maximum: { table.maximum($0, $1) }, exponentialSum: { table.exponential_sum($0, $1, $2, $3) },
      scale: { table.scale($0, $1, $2, $3) }, addBias: { table.add_bias($0, $1, $2) },
      mask: { table.mask($0, $1, $2) }, isFinite: { table.is_finite($0, $1) }, exp2: { table.exp2($0, $1, $2) })
  }
}
