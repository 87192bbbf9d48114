/// A type that a ``Tensor`` can hold: plain bits of a known data type. Do not adopt this protocol for other types.
public protocol TensorElement: BitwiseCopyable, Sendable {
  /// The type's name in files.
  static var _dataType: DataType { get }
}

/// An element that stands for a real number: it converts to and from every other such element.
///
/// Conversion rounds to nearest, ties to even. A number that is too large becomes infinite, and NaN stays NaN. Do not
/// adopt this protocol for other types.
public protocol RealTensorElement: TensorElement {
  /// The nearest element to `value`.
  init(_nearest value: Double)
  /// The value as a Double. The conversion is exact for every type that adopts this protocol.
  var _double: Double { get }
}

extension Bool: TensorElement { public static var _dataType: DataType { .bool } }
extension UInt8: TensorElement { public static var _dataType: DataType { .uint8 } }
extension Int8: TensorElement { public static var _dataType: DataType { .int8 } }
extension UInt16: TensorElement { public static var _dataType: DataType { .uint16 } }
extension Int16: TensorElement { public static var _dataType: DataType { .int16 } }
extension UInt32: TensorElement { public static var _dataType: DataType { .uint32 } }
extension Int32: TensorElement { public static var _dataType: DataType { .int32 } }
extension UInt64: TensorElement { public static var _dataType: DataType { .uint64 } }
extension Int64: TensorElement { public static var _dataType: DataType { .int64 } }

extension Float: RealTensorElement {
  public static var _dataType: DataType { .float32 }
  @inlinable public init(_nearest value: Double) { self.init(value) }
  @inlinable public var _double: Double { Double(self) }
}

extension Double: RealTensorElement {
  public static var _dataType: DataType { .float64 }
  @inlinable public init(_nearest value: Double) { self = value }
  @inlinable public var _double: Double { self }
}

// Swift has no Float16 on Macs with Intel processors.
#if !(os(macOS) && arch(x86_64))
  extension Float16: RealTensorElement {
    public static var _dataType: DataType { .float16 }
    @inlinable public init(_nearest value: Double) { self.init(value) }
    @inlinable public var _double: Double { Double(self) }
  }
#endif
