/// The upper half of a Float: 8 bits of exponent, 7 of mantissa. Storage only; compute in Float.
public struct BFloat16: Sendable, BitwiseCopyable {
  /// The 16 bits.
  public var bitPattern: UInt16

  /// The number with these 16 bits.
  @inlinable
  public init(bitPattern: UInt16) { self.bitPattern = bitPattern }

  /// The nearest BFloat16, ties to even. NaN stays NaN.
  @inlinable
  public init(_ value: Float) {
    let bits = value.bitPattern
    // Rounding could turn a NaN with a small payload into infinity. So every NaN is made a quiet NaN instead.
    let rounded = value.isNaN ? bits | 0x0040_0000 : bits &+ 0x7fff &+ (bits >> 16 & 1)
    bitPattern = UInt16(truncatingIfNeeded: rounded >> 16)
  }

  /// This number as a Float. The conversion is exact.
  @inlinable
  public var floatValue: Float { Float(bitPattern: UInt32(bitPattern) << 16) }
}

extension BFloat16: RealTensorElement {
  public static var _dataType: DataType { .bfloat16 }

  @inlinable
  public init(_nearest value: Double) {
    // Hazard: rounding to the nearest Float first can create a tie where `value` is not a tie. So a value between two
    // Floats becomes the one whose last bit is 1 (rounding to odd), which is never a tie.
    var float = Float(value)
    if value.isFinite, float.isFinite, Double(float) != value, float.bitPattern & 1 == 0 {
      float =
        abs(Double(float)) > abs(value)
        ? Float(bitPattern: float.bitPattern - 1) : Float(bitPattern: float.bitPattern + 1)
    }
    self.init(float)
  }

  @inlinable
  public var _double: Double { Double(floatValue) }
}

extension BFloat16: Hashable, CustomStringConvertible {
  @inlinable
  public static func == (a: BFloat16, b: BFloat16) -> Bool { a.floatValue == b.floatValue }
  public func hash(into hasher: inout Hasher) { hasher.combine(floatValue) }
  public var description: String { floatValue.description }
}
