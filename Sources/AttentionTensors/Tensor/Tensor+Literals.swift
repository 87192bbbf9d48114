/// A part of a tensor literal in the source: a number, a truth value or a list of such parts.
public struct TensorLiteral<Element: TensorElement> {
  var shape: [Int]
  var elements: [Element]

  init(element: Element) {
    shape = []
    elements = [element]
  }

  init(parts: [TensorLiteral]) {
    let inner = parts.first?.shape ?? []
    precondition(
      parts.allSatisfy { $0.shape == inner },
      "Tensor literal: rows of different shapes \(parts.map(\.shape))")
    shape = [parts.count] + inner
    elements = parts.flatMap(\.elements)
  }
}

extension TensorLiteral: ExpressibleByArrayLiteral {
  public init(arrayLiteral parts: TensorLiteral...) { self.init(parts: parts) }
}

extension TensorLiteral: ExpressibleByIntegerLiteral where Element: ExpressibleByIntegerLiteral {
  public init(integerLiteral value: Element.IntegerLiteralType) { self.init(element: Element(integerLiteral: value)) }
}

extension TensorLiteral: ExpressibleByFloatLiteral where Element: ExpressibleByFloatLiteral {
  public init(floatLiteral value: Element.FloatLiteralType) { self.init(element: Element(floatLiteral: value)) }
}

extension TensorLiteral: ExpressibleByBooleanLiteral where Element: ExpressibleByBooleanLiteral {
  public init(booleanLiteral value: Element.BooleanLiteralType) { self.init(element: Element(booleanLiteral: value)) }
}

extension Tensor: ExpressibleByArrayLiteral {
  /// `[[1, 2, 3], [4, 5, 6]]` as a tensor of shape [2, 3]. Traps where rows differ in length.
  public init(arrayLiteral parts: TensorLiteral<Element>...) {
    let literal = TensorLiteral(parts: parts)
    do { try self.init(literal.elements, shape: literal.shape) } catch { fatalError("\(error)") }
  }
}

extension BFloat16: ExpressibleByFloatLiteral, ExpressibleByIntegerLiteral {
  public init(floatLiteral value: Float) { self.init(value) }
  public init(integerLiteral value: Int) { self.init(Float(value)) }
}
