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
