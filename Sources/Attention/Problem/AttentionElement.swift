public import AttentionBLAS
public import AttentionTensors

/// A type of number in which queries, keys, values and outputs are stored: Float, Double, Float16 and `BFloat16`.
/// Not for other types to adopt.
///
/// Types of two bytes are converted a tile at a time and computed with as Float.
public protocol AttentionStorage: RealTensorElement {
  /// The type that scores, weights and sums have.
  associatedtype Arithmetic: AttentionElement
}

/// A type of number that attention computes in: Float and Double. Not for other types to adopt.
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
