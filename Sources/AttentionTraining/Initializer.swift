public import AttentionTensors

/// The initial weights of a layer: random numbers whose spread keeps the size of signals and gradients the same from
/// layer to layer.
///
///     let weight = try Tensor<Float>(initializer: .xavierUniform(), shape: [768, 768], seed: 1)
///
/// Weights are `[out, in]`, or `[out, in, …]` for convolutions, as in PyTorch: `fanIn` is `in` times the extents after it,
/// `fanOut` is `out` times these extents. An initializer has PyTorch's distribution but not its numbers: the generators
/// differ.
public struct Initializer: Sendable, Hashable {
  /// The number of a layer's inputs or outputs, `fanIn` or `fanOut`, that determines the spread.
  public enum Fan: Sendable, Hashable {
    /// `fanIn`: the size of signals stays the same from layer to layer in the forward pass.
    case `in`
    /// `fanOut`: the size of gradients stays the same from layer to layer in the backward pass.
    case out
  }

  /// The function that follows the weights. It determines a factor of the spread, the `gain`.
  public enum Nonlinearity: Sendable, Hashable {
    /// No function, or a sigmoid. The gain is 1.
    case linear
    /// tanh. The gain is 5/3.
    case tanh
    /// The rectifier max(0, x). The gain is √2.
    case relu
    /// The leaky rectifier, which multiplies negative numbers by `slope`. The gain is √(2 / (1 + slope²)).
    case leakyReLU(slope: Double)

    /// The gain of this function, as `nn.init.calculate_gain` of PyTorch gives it.
    public var gain: Double {
      switch self {
      case .linear: 1
      case .tanh: 5.0 / 3
      case .relu: 2.0.squareRoot()
      case .leakyReLU(let slope): (2 / (1 + slope * slope)).squareRoot()
      }
    }
  }

  private enum Rule: Hashable {
    case xavierUniform, xavierNormal
    case kaimingUniform(Fan), kaimingNormal(Fan)
    case orthogonal
  }

  private let rule: Rule
  private let gain: Double

  /// Uniform on ±gain·√(6 / (fanIn + fanOut)).
  /// Source: Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks", eq. 16.
  public static func xavierUniform(gain: Double = 1) -> Initializer { Initializer(rule: .xavierUniform, gain: gain) }

  /// Normal with deviation gain·√(2 / (fanIn + fanOut)).
  /// Source: Glorot and Bengio 2010, eq. 12.
  public static func xavierNormal(gain: Double = 1) -> Initializer { Initializer(rule: .xavierNormal, gain: gain) }

  /// Uniform on ±gain·√(3 / fan), where gain is that of the nonlinearity.
  /// Source: He et al. 2015 (arXiv:1502.01852), eq. 10 (fan in) and 14 (fan out).
  public static func kaimingUniform(fan: Fan = .in, nonlinearity: Nonlinearity = .relu) -> Initializer {
    Initializer(rule: .kaimingUniform(fan), gain: nonlinearity.gain)
  }

  /// Normal with deviation gain / √fan, where gain is that of the nonlinearity.
  /// Source: He et al. 2015 (arXiv:1502.01852), eq. 10 (fan in) and 14 (fan out).
  public static func kaimingNormal(fan: Fan = .in, nonlinearity: Nonlinearity = .relu) -> Initializer {
    Initializer(rule: .kaimingNormal(fan), gain: nonlinearity.gain)
  }

  /// A random matrix with orthonormal columns, or orthonormal rows if it has fewer rows than columns, times `gain`.
  ///
  /// All such matrices are equally likely. Axes after the first count as one. LAPACK's QR factorisation computes the
  /// matrix W. Up to rounding, Wᵀ·W (W·Wᵀ for orthonormal rows) is gain² times the identity: in the tests, which go up
  /// to 97 × 128, within 1e-13 (Double) and 2e-6 (Float) for gain 1.
  /// Source: Saxe et al. 2013 (arXiv:1312.6120), §3; Mezzadri 2007 (arXiv:math-ph/0609050).
  public static func orthogonal(gain: Double = 1) -> Initializer { Initializer(rule: .orthogonal, gain: gain) }

  fileprivate func makeTensor<Element: LAPACKElement>(shape: [Int], seed: UInt64) throws -> Tensor<Element> {
    try requireShape(
      shape.count >= 2, "Initializer", "weights of at least 2 axes, [out, in], expected; got shape \(shape)")
    try requireArgument(
      gain.isFinite && gain >= 0, "Initializer", "a finite gain from 0 expected; got \(gain)")
    _ = try elementCount(of: shape)
    // The product is a Double: in an empty tensor, the other axes may be so long that an Int overflows.
    let receptiveField = shape.dropFirst(2).reduce(1) { $0 * Double($1) }
    let fanIn = Double(shape[1]) * receptiveField
    let fanOut = Double(shape[0]) * receptiveField
    func extent(_ fan: Fan) -> Double { fan == .in ? fanIn : fanOut }
    // A uniform distribution is √12 times as wide as its deviation, which is at most `gain` here. The check makes sure
    // that `Element` can hold this width.
    try requireArgument(
      Element(_nearest: gain * (12.0).squareRoot()).isFinite, "Initializer",
      "a gain whose weights \(Element.self) holds expected; got \(gain)")
    switch rule {
    case .xavierUniform: return try uniform(deviation: (2 / (fanIn + fanOut)).squareRoot(), shape, seed)
    case .xavierNormal:
      return try Tensor(normalWithDeviation: gain * (2 / (fanIn + fanOut)).squareRoot(), shape: shape, seed: seed)
    case .kaimingUniform(let fan): return try uniform(deviation: 1 / extent(fan).squareRoot(), shape, seed)
    case .kaimingNormal(let fan):
      return try Tensor(normalWithDeviation: gain / extent(fan).squareRoot(), shape: shape, seed: seed)
    case .orthogonal: return try orthogonal(shape, seed)
    }
  }

  private func uniform<Element: RealTensorElement>(
    deviation: Double, _ shape: [Int], _ seed: UInt64
  ) throws -> Tensor<Element> {
    if shape.contains(0) { return try Tensor(repeating: Element(_nearest: 0), shape: shape) }
    // A uniform distribution on ±b has the deviation b/√3.
    let bound = gain * deviation * 3.0.squareRoot()
    return try Tensor(uniform: -bound..<bound, shape: shape, seed: seed)
  }

  private func orthogonal<Element: LAPACKElement>(_ shape: [Int], _ seed: UInt64) throws -> Tensor<Element> {
    if shape.contains(0) { return try Tensor(repeating: 0, shape: shape) }
    let rowCount = shape[0]
    let columnCount = shape.dropFirst().reduce(1, *)
    var columns: Tensor<Element> = try orthonormalColumns(
      rowCount: max(rowCount, columnCount), columnCount: min(rowCount, columnCount), seed: seed)
    let count = columns.count
    try columns.withMutableView { view in
      for i in 0..<count { view.base[i] *= Element(gain) }
    }
    // In memory, `columns` is [fewer, more]: its rows are the rows of a wide matrix or the columns of a tall one.
    return try (rowCount > columnCount ? columns.transposed() : columns).contiguous().reshaped(shape)
  }
}

extension Tensor where Element: LAPACKElement {
  /// Random weights; the same ones for the same seed.
  ///
  /// - Parameters:
  ///   - initializer: The distribution of the weights.
  ///   - shape: `[out, in]`, or `[out, in, …]`. If an extent is 0, the tensor is empty.
  ///   - seed: The same seed gives the same numbers on every machine: the uniform ones exactly, all others up to rounding.
  /// - Throws: `AttentionError` for fewer than two axes, a gain that is negative or not finite, an impossible
  ///   shape, or too little memory.
  public init(initializer: Initializer, shape: [Int], seed: UInt64) throws {
    self = try initializer.makeTensor(shape: shape, seed: seed)
  }
}
