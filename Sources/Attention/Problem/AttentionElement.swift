public import AttentionBLAS
public import AttentionTensors

/// A number type that queries, keys, values and outputs can be stored in: Float, Double, Float16 and `BFloat16`.
/// Other types must not adopt this protocol.
///
/// Values of two-byte types are converted a tile at a time, and attention computes with them as Float.
public protocol AttentionStorage: RealTensorElement {
  /// The type of scores, weights and sums.
  associatedtype Arithmetic: AttentionElement
}

/// A number type that attention computes in: Float and Double. Other types must not adopt this protocol.
public protocol AttentionElement: BLASElement, AttentionStorage where Arithmetic == Self {}

extension Float: AttentionElement {}
extension Double: AttentionElement {}

extension BFloat16: AttentionStorage {
  public typealias Arithmetic = Float
}

// Swift has no Float16 on Macs with Intel processors.
#if !(os(macOS) && arch(x86_64))
  extension Float16: AttentionStorage {
    public typealias Arithmetic = Float
  }
#endif
