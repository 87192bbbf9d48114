import CLibrary

extension Double {
  var exponential: Double { exp(self) }
  var logarithm: Double { log(self) }
  func power(_ exponent: Double) -> Double { pow(self, exponent) }
}
