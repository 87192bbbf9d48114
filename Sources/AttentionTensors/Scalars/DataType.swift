/// The type of a tensor's elements, as files name it.
///
/// Raw values are the names of the safetensors format. Elements of types without a Swift counterpart (8-bit and smaller
/// floats, complex numbers) can be read and written as bytes, but not computed with.
public enum DataType: String, Sendable, Hashable, CaseIterable {
  /// One byte, 0 or 1.
  case bool = "BOOL"
  /// Unsigned integers of 8 bits.
  case uint8 = "U8"
  /// Signed integers of 8 bits.
  case int8 = "I8"
  /// Unsigned integers of 16 bits.
  case uint16 = "U16"
  /// Signed integers of 16 bits.
  case int16 = "I16"
  /// Unsigned integers of 32 bits.
  case uint32 = "U32"
  /// Signed integers of 32 bits.
  case int32 = "I32"
  /// Unsigned integers of 64 bits.
  case uint64 = "U64"
  /// Signed integers of 64 bits.
  case int64 = "I64"
  /// IEEE 754 binary16.
  case float16 = "F16"
  /// The upper half of binary32: ``BFloat16``.
  case bfloat16 = "BF16"
  /// IEEE 754 binary32: Float.
  case float32 = "F32"
  /// IEEE 754 binary64: Double.
  case float64 = "F64"
  /// Complex numbers of two binary32 numbers each.
  case complex64 = "C64"
  /// OCP microscaling, 4 bits: 2 of exponent, 1 of mantissa.
  case float4 = "F4"
  /// OCP microscaling, 6 bits: 2 of exponent, 3 of mantissa.
  case float6E2M3 = "F6_E2M3"
  /// OCP microscaling, 6 bits: 3 of exponent, 2 of mantissa.
  case float6E3M2 = "F6_E3M2"
  /// OCP, 8 bits: 4 of exponent, 3 of mantissa.
  case float8E4M3 = "F8_E4M3"
  /// OCP, 8 bits: 5 of exponent, 2 of mantissa.
  case float8E5M2 = "F8_E5M2"
  /// OCP, a scale: 8 bits of exponent.
  case float8E8M0 = "F8_E8M0"
  /// 8 bits: 4 of exponent, 3 of mantissa; no infinities, no negative zero.
  case float8E4M3FNUZ = "F8_E4M3FNUZ"
  /// 8 bits: 5 of exponent, 2 of mantissa; no infinities, no negative zero.
  case float8E5M2FNUZ = "F8_E5M2FNUZ"

  /// The number of bits of one element. Elements of 4 and 6 bits are packed without gaps.
  public var bitCount: Int {
    switch self {
    case .float4: 4
    case .float6E2M3, .float6E3M2: 6
    case .bool, .uint8, .int8, .float8E4M3, .float8E5M2, .float8E8M0, .float8E4M3FNUZ, .float8E5M2FNUZ: 8
    case .uint16, .int16, .float16, .bfloat16: 16
    case .uint32, .int32, .float32: 32
    case .uint64, .int64, .float64, .complex64: 64
    }
  }
}
