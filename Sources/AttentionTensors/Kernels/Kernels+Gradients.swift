internal import CAttentionKernels

/// Steps of the backward pass between its products.
extension Kernels {
  /// y += x.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func add(_ count: Int, _ x: Pointer, to y: MutablePointer) { table.pointee.gradients.add(count, x, y) }

  /// Σ x.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func sum(_ count: Int, _ x: Pointer) -> Element { Element(_nearest: table.pointee.gradients.sum(count, x)) }

  /// Σ x·y.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func dot(_ count: Int, _ x: Pointer, _ y: Pointer) -> Element {
    Element(_nearest: table.pointee.gradients.dot(count, x, y))
  }

  /// Σ x[i]·|position − i|.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func distanceSum(_ count: Int, _ x: Pointer, position: Element) -> Element {
    Element(_nearest: table.pointee.gradients.distance_sum(count, x, position._double))
  }

  /// gradient ← gradient·(1 − (capped / cap)²), where `capped` is the result of ``softcap(_:_:_:)``.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func softcapGradient(_ count: Int, _ capped: Pointer, _ cap: Element, _ gradient: MutablePointer) {
    table.pointee.gradients.softcap_gradient(count, capped, cap._double, gradient)
  }

  /// The gradient of the softmax: gradient[key, lane] ← weight·(gradient − delta[lane]), where `delta` is the sum of
  /// dO·O over the output O of the lane's query and its gradient dO. Where the weight is 0, the result is 0, unless
  /// delta is NaN.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func scoreGradient(
    vectorCount: Int, keyCount: Int, stride: Int, weights: Pointer, delta: Pointer, lanes gradient: MutablePointer
  ) {
    table.pointee.gradients.score_gradient_lanes(vectorCount, keyCount, stride, weights, delta, gradient)
  }

  /// The gradient of the softmax: gradient ← weight·(gradient − delta), where `delta` is the sum of dO·O over the
  /// output O of the row's query and its gradient dO. Where the weight is 0, the result is 0, unless delta is NaN.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func scoreGradient(_ count: Int, weights: Pointer, delta: Element, row gradient: MutablePointer) {
    table.pointee.gradients.score_gradient_row(count, weights, delta._double, gradient)
  }
}
