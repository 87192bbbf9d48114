internal import AttentionTensors

#if canImport(Glibc)
  internal import Glibc
#elseif canImport(Musl)
  internal import Musl
#elseif canImport(Darwin)
  internal import Darwin
#endif

extension Double {
  var naturalLogarithm: Double { log(self) }
  var exponential: Double { exp(self) }
}

extension SeededGenerator {
  /// Standard normal (Box and Muller 1958).
  mutating func nextNormal() -> Double {
    // 1 − u is in (0, 1], whose logarithm is finite.
    let radius = (-2 * log(1 - nextUnit())).squareRoot()
    return radius * cos(2 * .pi * nextUnit())
  }
}
