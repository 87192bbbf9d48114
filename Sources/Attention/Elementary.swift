internal import CLibrary

extension Double {
  var naturalLogarithm: Double { log(self) }
  var exponential: Double { exp(self) }
  var sine: Double { sin(self) }
  var cosine: Double { cos(self) }
  static func exp2(_ x: Double) -> Double { pow(2, x) }
  func raised(to power: Double) -> Double { pow(self, power) }
}
