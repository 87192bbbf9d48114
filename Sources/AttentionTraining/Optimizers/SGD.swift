public import Attention

/// Stochastic gradient descent, with or without momentum. For each parameter p with gradient g:
///
///     g ← g + decay·p,  v ← μ·v + g,  p ← p − rate·v        with Nesterov's momentum: p ← p − rate·(g + μ·v)
///
/// The same as PyTorch's `torch.optim.SGD` with dampening 0.
///
/// Source: Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning", §2.
public struct SGD<Element: AttentionElement>: Optimizer {
  public var learningRate: Double
  /// μ: how much of the old v is kept in each step. 0: no momentum.
  public let momentum: Double
  /// True: Nesterov's momentum.
  public let isNesterov: Bool
  /// The decay: this number times a parameter is added to the parameter's gradient.
  public let weightDecay: Double
  private let decays: @Sendable (String) -> Bool
  private var velocities: [String: Tensor<Element>] = [:]

  /// An optimizer without a state.
  ///
  /// - Parameters:
  ///   - learningRate: The rate.
  ///   - momentum: μ, from 0 to less than 1.
  ///   - isNesterov: True: Nesterov's momentum.
  ///   - weightDecay: The decay: this number times a parameter is added to the parameter's gradient.
  ///   - decays: Whether the parameter of this name decays.
  /// - Throws: `AttentionError` for a number outside of its range.
  public init(
    learningRate: Double, momentum: Double = 0, isNesterov: Bool = false, weightDecay: Double = 0,
    decays: @escaping @Sendable (_ name: String) -> Bool = { _ in true }
  ) throws(AttentionError) {
    try requireArgument(
      learningRate >= 0 && (0..<1).contains(momentum) && weightDecay >= 0, "SGD",
      "a rate and a decay from 0, and a momentum from 0 to less than 1 expected; got \(learningRate), \(weightDecay), "
        + "\(momentum)")
    self.learningRate = learningRate
    self.momentum = momentum
    self.isNesterov = isNesterov
    self.weightDecay = weightDecay
    self.decays = decays
  }

  /// `momentum_buffer.NAME` (v) for each parameter. The word is PyTorch's. Empty without momentum.
  public var stateDictionary: [String: Tensor<Element>] {
    Dictionary(uniqueKeysWithValues: velocities.map { ("momentum_buffer." + $0, $1) })
  }

  public mutating func load(_ stateDictionary: [String: Tensor<Element>]) throws {
    let prefix = "momentum_buffer."
    if let other = stateDictionary.keys.sorted().first(where: { !$0.hasPrefix(prefix) }) {
      throw AttentionError(.invalidFile, "SGD", "tensors \(prefix)NAME expected; got \(other)")
    }
    velocities = Dictionary(
      uniqueKeysWithValues: stateDictionary.map { (String($0.dropFirst(prefix.count)), $1) })
  }

  public mutating func update(
    _ name: String, _ value: inout Tensor<Element>, _ gradient: Tensor<Element>, _ context: AttentionContext
  ) throws {
    if momentum > 0 && velocities[name] == nil {
      velocities[name] = try Tensor(repeating: 0, shape: value.shape)
    }
    if let velocity = velocities[name] { try requireState(velocity, name, value) }
    let rate = Element(_nearest: learningRate)
    let decay = Element(_nearest: decays(name) ? weightDecay : 0)
    let momentum = Element(_nearest: momentum)
    let isNesterov = isNesterov
    let count = value.count
    value = try value.contiguous()
    try value.withMutableView { parameter in
      func update(_ velocity: UnsafeMutablePointer<Element>?) {
        let arrays = UncheckedSendable((parameter.base, velocity, gradient.base))
        // An estimate that sets the size of tasks: one thread takes 1 ns for each element.
        context.parallelFor(count: count, nanosecondsPerItem: 1) { items, _ in
          sgd(
            items, arrays.value.0, arrays.value.1, arrays.value.2, rate: rate, decay: decay, momentum: momentum,
            isNesterov: isNesterov)
        }
      }
      if self.momentum > 0 {
        try velocities[name]!.withMutableView { update($0.base) }
      } else {
        update(nil)
      }
    }
    withExtendedLifetime(gradient) {}
  }
}

@_specialize(where Element == Float)
@_specialize(where Element == Double)
private func sgd<Element: AttentionElement>(
  _ items: Range<Int>, _ p: UnsafeMutablePointer<Element>, _ v: UnsafeMutablePointer<Element>?,
  _ g: UnsafePointer<Element>, rate: Element, decay: Element, momentum: Element, isNesterov: Bool
) {
  for i in items {
    let gradient = g[i] + decay * p[i]
    guard let v else {
      p[i] -= rate * gradient
      continue
    }
    v[i] = momentum * v[i] + gradient
    p[i] -= rate * (isNesterov ? gradient + momentum * v[i] : v[i])
  }
}
