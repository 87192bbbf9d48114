public import Attention

/// Adam with decoupled weight decay. For each parameter p with gradient g, in step t:
///
///     p ← p·(1 − rate·decay)
///     m ← β₁·m + (1 − β₁)·g,   v ← β₂·v + (1 − β₂)·g²
///     p ← p − rate / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)
///
/// The same as PyTorch's `torch.optim.AdamW`, with its defaults.
///
/// Source: Loshchilov and Hutter 2019 (arXiv:1711.05101), Algorithm 2; Kingma and Ba 2015 (arXiv:1412.6980).
public struct AdamW<Element: AttentionElement>: Optimizer {
  public var learningRate: Double
  /// β₁ and β₂: how much of the old means of g and g² is kept in each step.
  public let betas: (first: Double, second: Double)
  /// ε, which is added to the divisor.
  public let epsilon: Double
  /// The decay: each step multiplies a parameter by 1 − rate·decay.
  public let weightDecay: Double
  private let decays: @Sendable (String) -> Bool

  private struct State {
    /// t: the number of steps of this parameter.
    var stepCount = 0
    var mean: Tensor<Element>
    var square: Tensor<Element>
  }

  private var states: [String: State] = [:]

  /// An optimizer without a state.
  ///
  /// - Parameters:
  ///   - learningRate: The rate.
  ///   - betas: β₁ and β₂.
  ///   - epsilon: ε.
  ///   - weightDecay: The decay: each step multiplies a parameter by 1 − rate·decay.
  ///   - decays: Whether the parameter of this name decays. By default all do; ``WeightDecay/exceptBiasesAndNorms(_:)``
  ///     leaves some out.
  /// - Throws: `AttentionError` for a β outside 0 ..< 1, or a negative number elsewhere.
  public init(
    learningRate: Double = 1e-3, betas: (first: Double, second: Double) = (0.9, 0.999), epsilon: Double = 1e-8,
    weightDecay: Double = 0.01, decays: @escaping @Sendable (_ name: String) -> Bool = { _ in true }
  ) throws(AttentionError) {
    try requireArgument(
      learningRate >= 0 && (0..<1).contains(betas.first) && (0..<1).contains(betas.second) && epsilon >= 0
        && weightDecay >= 0, "AdamW",
      "a rate, an epsilon and a decay from 0, and betas from 0 to less than 1 expected; got \(learningRate), \(epsilon), "
        + "\(weightDecay), \(betas)")
    self.learningRate = learningRate
    self.betas = betas
    self.epsilon = epsilon
    self.weightDecay = weightDecay
    self.decays = decays
  }

  /// `exp_avg.NAME` (m), `exp_avg_sq.NAME` (v) and `step.NAME` (t, a scalar) for each parameter. The words are
  /// PyTorch's.
  public var stateDictionary: [String: Tensor<Element>] {
    var tensors: [String: Tensor<Element>] = [:]
    for (name, state) in states {
      tensors["exp_avg." + name] = state.mean
      tensors["exp_avg_sq." + name] = state.square
      tensors["step." + name] = try? Tensor(repeating: Element(_nearest: Double(state.stepCount)), shape: [])
    }
    return tensors
  }

  public mutating func load(_ stateDictionary: [String: Tensor<Element>]) throws {
    var loaded: [String: State] = [:]
    for (key, step) in stateDictionary where key.hasPrefix("step.") {
      let name = String(key.dropFirst("step.".count))
      guard let mean = stateDictionary["exp_avg." + name], let square = stateDictionary["exp_avg_sq." + name],
        mean.shape == square.shape, step.count == 1, step.scalar >= 0, step.scalar._double <= 0x1p53
      else {
        throw AttentionError(
          .invalidFile, "AdamW",
          "exp_avg.\(name) and exp_avg_sq.\(name) of one shape, and a number step.\(name), expected")
      }
      loaded[name] = State(stepCount: Int(step.scalar._double), mean: mean, square: square)
    }
    try requireArgument(
      stateDictionary.count == 3 * loaded.count, "AdamW",
      "exp_avg, exp_avg_sq and step of each parameter expected; got \(stateDictionary.count) tensors for \(loaded.count)"
    )
    states = loaded
  }

  public mutating func update(
    _ name: String, _ value: inout Tensor<Element>, _ gradient: Tensor<Element>, _ context: AttentionContext
  ) throws {
    // The state is taken out of the dictionary while it changes. Otherwise it would have two owners and be copied.
    var state: State
    if let present = states.removeValue(forKey: name) {
      state = present
    } else {
      state = State(
        mean: try Tensor(repeating: 0, shape: value.shape), square: try Tensor(repeating: 0, shape: value.shape))
    }
    defer { states[name] = state }
    try requireState(state.mean, name, value)
    state.stepCount += 1
    let step = Double(state.stepCount)
    let factors = Factors(
      keep: 1 - learningRate * (decays(name) ? weightDecay : 0), first: betas.first, second: betas.second,
      rate: learningRate / (1 - power(betas.first, step)),
      inverseRoot: 1 / (1 - power(betas.second, step)).squareRoot(), epsilon: epsilon)
    let count = value.count
    value = try value.contiguous()
    try value.withMutableView { parameter in
      try state.mean.withMutableView { mean in
        try state.square.withMutableView { square in
          let arrays = Arrays(
            parameter: parameter.base, mean: mean.base, square: square.base, gradient: gradient.base)
          // An estimate that sets the size of tasks: one thread takes 2 ns for each element.
          context.parallelFor(count: count, nanosecondsPerItem: 2) { items, _ in adamW(items, arrays, factors) }
        }
      }
    }
    withExtendedLifetime(gradient) {}
  }

  fileprivate struct Arrays: @unchecked Sendable {
    let parameter: UnsafeMutablePointer<Element>
    let mean: UnsafeMutablePointer<Element>
    let square: UnsafeMutablePointer<Element>
    let gradient: UnsafePointer<Element>
  }

  fileprivate struct Factors: Sendable {
    let keep: Element
    let first: Element
    let ownFirst: Element
    let second: Element
    let ownSecond: Element
    let rate: Element
    let inverseRoot: Element
    let epsilon: Element

    init(keep: Double, first: Double, second: Double, rate: Double, inverseRoot: Double, epsilon: Double) {
      func element(_ x: Double) -> Element { Element(_nearest: x) }
      self.keep = element(keep)
      self.first = element(first)
      ownFirst = element(1 - first)
      self.second = element(second)
      ownSecond = element(1 - second)
      self.rate = element(rate)
      self.inverseRoot = element(inverseRoot)
      self.epsilon = element(epsilon)
    }
  }
}

/// x to a whole power.
private func power(_ x: Double, _ exponent: Double) -> Double {
  var (result, base, rest) = (1.0, x, Int(exponent))
  while rest > 0 {
    if rest & 1 == 1 { result *= base }
    base *= base
    rest >>= 1
  }
  return result
}

@_specialize(where Element == Float)
@_specialize(where Element == Double)
private func adamW<Element: AttentionElement>(
  _ items: Range<Int>, _ arrays: AdamW<Element>.Arrays, _ factors: AdamW<Element>.Factors
) {
  let (p, m, v, g) = (arrays.parameter, arrays.mean, arrays.square, arrays.gradient)
  for i in items {
    m[i] = factors.first * m[i] + factors.ownFirst * g[i]
    v[i] = factors.second * v[i] + factors.ownSecond * (g[i] * g[i])
    let divisor = v[i].squareRoot() * factors.inverseRoot + factors.epsilon
    p[i] = p[i] * factors.keep - factors.rate * (m[i] / divisor)
  }
}
