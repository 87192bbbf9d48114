internal import AttentionBLAS
public import AttentionTensors

/// The gradients of the parameters of a model, by the parameters' names.
///
/// A ``Pullback`` adds to them. So the gradients of several parts of a batch add up until ``reset()`` is called.
///
///     var gradients = ParameterGradients<Float>()
///     for (x, outputGradient) in parts {
///       let (y, pullback) = try layer.valueWithPullback(x)
///       _ = try pullback(outputGradient, adding: &gradients)
///     }
///     gradients["weight"]   // the sum over the parts
///
/// Each gradient has the name and the shape that ``TrainableLayer/forEachParameter(prefix:_:)`` gives to its parameter.
public struct ParameterGradients<Element: AttentionElement>: Sendable {
  private struct Entry {
    var tensor: Tensor<Element>
    /// False if the tensor holds no gradient: it is new, it is being written, or ``ParameterGradients/reset()`` was
    /// called. Its memory is kept.
    var isSet: Bool
  }

  private var entries: [String: Entry] = [:]
  private let isWanted: @Sendable (String) -> Bool

  /// An empty set of gradients.
  ///
  /// - Parameter isWanted: Returns true if the gradient of the parameter with this name is to be computed. Parameters
  ///   that are not trained need no gradients, and the products that would compute these gradients are left out.
  public init(where isWanted: @escaping @Sendable (_ name: String) -> Bool = { _ in true }) { self.isWanted = isWanted }

  /// The names of all gradients, in alphabetical order.
  public var names: [String] { entries.filter(\.value.isSet).keys.sorted() }

  /// The gradient of the parameter with this name. Nil if nothing was added to it since the last ``reset()``.
  public subscript(name: String) -> Tensor<Element>? { entries[name].flatMap { $0.isSet ? $0.tensor : nil } }

  /// All gradients by name.
  public var tensors: [String: Tensor<Element>] { entries.filter(\.value.isSet).mapValues(\.tensor) }

  /// True if the gradient of the parameter with this name is computed.
  public func wants(_ name: String) -> Bool { isWanted(name) }

  /// Removes all gradients. Their memory is kept for the next ones.
  public mutating func reset() { for name in entries.keys { entries[name]!.isSet = false } }

  /// Adds to the gradient of a parameter.
  ///
  /// - Parameters:
  ///   - gradient: A tensor of the shape of the parameter; any strides.
  ///   - name: The name of the parameter. A gradient that is not wanted is ignored.
  ///   - context: Threads, instruction set.
  /// - Throws: `AttentionError` if there is a gradient of this name with another shape, or memory runs out.
  public mutating func add(
    _ gradient: Tensor<Element>, to name: String, context: AttentionContext = .default
  ) throws {
    try accumulate(name, shape: gradient.shape) { view, mode in
      guard mode == .accumulating else { return try view.copy(from: gradient) }
      let gradient = try gradient.contiguous()
      try addElements(of: gradient, to: view.base, context)
    }
  }

  /// Multiplies all gradients by a number.
  /// - Throws: `AttentionError` if the context asks for something that this machine does not have, or memory runs out.
  public mutating func scale(by factor: Element, context: AttentionContext = .default) throws {
    let kernels = try context.kernels(for: Element.self)
    for name in entries.keys where entries[name]!.isSet {
      let count = entries[name]!.tensor.count
      try entries[name]!.tensor.withMutableView { view in
        let base = UncheckedSendable(view.base)
        // An estimate that sets the size of tasks: one thread takes 0.25 ns for each element.
        context.parallelFor(count: count, nanosecondsPerItem: 0.25) { items, _ in
          kernels.scale(items.count, base.value + items.lowerBound, factor, base.value + items.lowerBound)
        }
      }
    }
  }

  /// The Euclidean norm of all gradients together: √Σ g². The sum is computed in Double.
  /// - Throws: `AttentionError` if memory runs out.
  public func norm() throws -> Double {
    var sum = 0.0
    for name in names {
      try entries[name]!.tensor.withUnsafeBufferPointer { sum += sumOfSquares($0) }
    }
    return sum.squareRoot()
  }

  /// Calls `body` with a contiguous view of the memory of a gradient, and with the mode that says whether `body`
  /// overwrites this memory or adds to it. Does nothing for a gradient that is not wanted.
  mutating func accumulate(
    _ name: String, shape: [Int], _ body: (inout MutableTensorView<Element>, ResultMode) throws -> Void
  ) throws {
    guard wants(name) else { return }
    if entries[name] == nil {
      entries[name] = Entry(tensor: try Tensor(uninitializedShape: shape), isSet: false)
    }
    let present = entries[name]!.tensor.shape
    try requireShape(
      present == shape, "ParameterGradients", "a gradient \(name) of shape \(present) expected; got \(shape)")
    let mode: ResultMode = entries[name]!.isSet ? .accumulating : .replacing
    // If `body` throws, the gradient may be partly written, and must not count as a whole one.
    entries[name]!.isSet = false
    try entries[name]!.tensor.withMutableView { try body(&$0, mode) }
    entries[name]!.isSet = true
  }
}

/// target += source, for all elements of a contiguous tensor.
func addElements<Element: AttentionElement>(
  of source: Tensor<Element>, to target: UnsafeMutablePointer<Element>, _ context: AttentionContext
) throws {
  let kernels = try context.kernels(for: Element.self)
  let (from, to) = (UncheckedSendable(source.base), UncheckedSendable(target))
  // An estimate that sets the size of tasks: one thread takes 0.3 ns for each element.
  context.parallelFor(count: source.count, nanosecondsPerItem: 0.3) { items, _ in
    kernels.add(items.count, from.value + items.lowerBound, to: to.value + items.lowerBound)
  }
  withExtendedLifetime(source) {}
}

/// x + y, contiguous. Both have the same shape.
func sum<Element: AttentionElement>(
  _ x: Tensor<Element>, _ y: Tensor<Element>, _ context: AttentionContext
) throws -> Tensor<Element> {
  var result = try x.copied()
  let y = try y.contiguous()
  try result.withMutableView { try addElements(of: y, to: $0.base, context) }
  return result
}

/// Σ x², in Double, in blocks of 4096 elements.
@_specialize(where Element == Float)
@_specialize(where Element == Double)
private func sumOfSquares<Element: AttentionElement>(_ x: UnsafeBufferPointer<Element>) -> Double {
  var sum = 0.0
  for start in stride(from: 0, to: x.count, by: 4096) {
    // Eight sums side by side, so that an addition need not wait for the one before it.
    var lanes = SIMD8<Double>(repeating: 0)
    let end = min(start + 4096, x.count)
    var i = start
    while i + 8 <= end {
      var v = SIMD8<Double>()
      for lane in 0..<8 { v[lane] = x[i + lane]._double }
      lanes += v * v
      i += 8
    }
    while i < end {
      sum += x[i]._double * x[i]._double
      i += 1
    }
    sum += lanes.sum()
  }
  return sum
}
