internal import CLibrary

/// A small reproducible random generator: the same seed gives the same bits on every machine.
///
/// SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", Fig. 17).
public struct SeededGenerator: RandomNumberGenerator, Sendable {
  private var state: UInt64

  /// A generator that `seed` determines.
  public init(seed: UInt64) { state = seed }

  public mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
  }

  /// A number that is uniform on [0, 1), with 53 random bits.
  public mutating func nextUnit() -> Double { Double(next() >> 11) * 0x1p-53 }

  /// A normal number with mean 0 and standard deviation 1 (Box and Muller 1958). The method uses the C library's
  /// logarithm and cosine, so the last bit may differ from machine to machine.
  public mutating func nextNormal() -> Double {
    // 1 − u is in (0, 1], so its logarithm is finite.
    let radius = (-2 * log(1 - nextUnit())).squareRoot()
    return radius * cos(2 * .pi * nextUnit())
  }
}

extension Tensor where Element: RealTensorElement {
  /// Independent numbers, uniform on `range` and then rounded to `Element`, so `range.upperBound` itself can occur. The
  /// same seed gives the same numbers.
  /// - Throws: `AttentionError` where the shape is impossible or memory is lacking.
  public init(uniform range: Range<Double>, shape: [Int], seed: UInt64) throws {
    var generator = SeededGenerator(seed: seed)
    try self.init(shape: shape) { target in
      for i in target.indices {
        target[i] = Element(_nearest: range.lowerBound + (range.upperBound - range.lowerBound) * generator.nextUnit())
      }
    }
  }

  /// Independent normal numbers with mean 0 and standard deviation `deviation`. The same seed gives the same numbers,
  /// but their last bits may differ from machine to machine (``SeededGenerator/nextNormal()``).
  /// - Throws: `AttentionError` where the shape is impossible or memory is lacking.
  public init(normalWithDeviation deviation: Double, shape: [Int], seed: UInt64) throws {
    var generator = SeededGenerator(seed: seed)
    try self.init(shape: shape) { target in
      for i in target.indices { target[i] = Element(_nearest: deviation * generator.nextNormal()) }
    }
  }
}
