public import AttentionBLAS

/// A type of number that attention computes in: Float and Double. Not for other types to adopt.
public protocol AttentionElement: BLASElement {}

extension Float: AttentionElement {}
extension Double: AttentionElement {}
