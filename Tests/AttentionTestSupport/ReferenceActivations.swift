import CLibrary

/// The formula of an activation, computed in Double. `name` is the name of one of the library's cases.
public func referenceActivation(_ name: String, _ x: Double) -> Double {
  switch name {
  case "none": x
  case "relu": max(x, 0)
  case "gelu": x * 0.5 * erfc(-x / 2.squareRoot())
  case "geluTanh": x * 0.5 * (1 + tanh((2 / Double.pi).squareRoot() * (x + 0.044715 * x * x * x)))
  case "silu": x / (1 + exp(-x))
  default: fatalError("no formula for \(name)")
  }
}
