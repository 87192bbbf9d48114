public import AttentionTensors

/// What attention to some of the keys gave, to be merged with what it gave for the others: keys can be split over
/// calls, caches or machines.
///
///     let near = try AttentionPartial(scaledDotProductAttention(…, returning: .logSumExp))
///     let far = try AttentionPartial(scaledDotProductAttention(…, returning: .logSumExp))
///     let output = try near.merged(with: far).output
///
/// `O = Σ wₖ · Oₖ` with `wₖ = exp(lseₖ − m) / Σ exp(lseₖ − m)`, m the greatest of the lseₖ, and `lse = m + ln Σ exp(lseₖ − m)`: the
/// weights sum to 1 however large the log-sum-exps are. Associative and commutative up to rounding; a part without
/// keys (output 0, log-sum-exp −inf) changes nothing. Give sinks to one part alone.
/// Source: Milakov and Gimelshein 2018 (arXiv:1805.02867), §3.1; Dao 2023 (arXiv:2307.08691), §3.1.
public struct AttentionPartial<Element: AttentionElement>: Sendable {
  /// `[B, H, L, Ev]`, or of lower rank, in ``layout``.
  public let output: Tensor<Element>
  /// `[B, H, L]`.
  public let logSumExp: Tensor<Element>
  /// The order of the output's axes; those of the log-sum-exp have one order alone.
  public let layout: AttentionLayout

  /// A part from tensors.
  /// - Throws: `AttentionError` where the shapes do not fit each other.
  public init(
    output: Tensor<Element>, logSumExp: Tensor<Element>, layout: AttentionLayout = .headsFirst
  ) throws(AttentionError) {
    let rows = layout.canonical(output.shape, output.strides)?.shape.dropLast()
    try requireShape(
      rows.map { Array($0.suffix(output.rank - 1)) } == logSumExp.shape, "AttentionPartial",
      "an output [B, H, L, Ev] and its log-sum-exp [B, H, L] expected; got \(output.shape) and \(logSumExp.shape)")
    self.output = output
    self.logSumExp = logSumExp
    self.layout = layout
  }

  /// A part from a call's result, which must have been asked for its log-sum-exp.
  /// - Parameters:
  ///   - result: Output and log-sum-exp.
  ///   - layout: The layout of the call; nil: as the result says.
  /// - Throws: `AttentionError` where there is no log-sum-exp, or the result says another layout.
  public init(_ result: AttentionResult<Element>, layout: AttentionLayout? = nil) throws(AttentionError) {
    guard let logSumExp = result.logSumExp else {
      throw AttentionError(.invalidArgument, "AttentionPartial", "a result with its log-sum-exp expected; got none")
    }
    try requireArgument(
      layout == nil || layout == result.layout, "AttentionPartial",
      "the layout of the result, \(result.layout), expected; got \(layout ?? result.layout)")
    try self.init(output: result.output, logSumExp: logSumExp, layout: result.layout)
  }

  /// This part and another, as if their keys had been attended to at once.
  /// - Throws: `AttentionError` where shapes or layouts differ.
  public func merged(with other: AttentionPartial) throws -> AttentionPartial { try Self.merged([self, other]) }

  /// Some parts, at least one, as if their keys had been attended to at once.
  /// - Throws: `AttentionError` where there is none, or shapes or layouts differ.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  public static func merged(_ parts: [AttentionPartial]) throws -> AttentionPartial {
    guard let first = parts.first else {
      throw AttentionError(.invalidArgument, "AttentionPartial", "at least one part expected; got none")
    }
    for part in parts {
      try requireShape(
        part.output.shape == first.output.shape && part.layout == first.layout, "AttentionPartial",
        "parts of one shape and layout expected; got \(first.output.shape) \(first.layout) and \(part.output.shape) "
          + "\(part.layout)")
    }
    let (shape, strides) = first.layout.canonical(first.output.shape, rowMajorStrides(of: first.output.shape))!
    let outputs = try parts.map { try $0.output.contiguous() }
    let sums = try parts.map { try $0.logSumExp.contiguous() }
    var output = try Tensor<Element>(repeating: 0, shape: first.output.shape)
    let logSumExp = try Tensor<Element>(uninitializedShape: first.logSumExp.shape)
    try output.withMutableView { view in
      var row = 0
      for batch in 0..<shape[0] {
        for head in 0..<shape[1] {
          for query in 0..<shape[2] {
            let place = batch * strides[0] + head * strides[1] + query * strides[2]
            let own = sums.map { $0.base[row].asDouble }
            // Not max: NaN must win.
            let most = own.contains(where: \.isNaN) ? Double.nan : own.max()!
            var total = most
            if most != -.infinity {
              // Divided by their sum, not brought to the total: beside a large maximum the sum's logarithm is rounded away.
              let weights = own.map { ($0 - most).exponential }
              let sum = weights.reduce(0, +)
              total = most + sum.naturalLogarithm
              for (index, part) in outputs.enumerated() where own[index] != -.infinity {
                let weight = Element(nearest: weights[index] / sum)
                for i in 0..<shape[3] { view.base[place + i] += weight * part.base[place + i] }
              }
              // Rounded weights may sum to a little more than 1.
              for i in 0..<shape[3] where view.base[place + i].isInfinite {
                let isFinite = outputs.indices.allSatisfy {
                  own[$0] == -.infinity || outputs[$0].base[place + i].isFinite
                }
                if isFinite { view.base[place + i] = (view.base[place + i] < 0 ? -1 : 1) * .greatestFiniteMagnitude }
              }
            }
            logSumExp.mutableBase[row] = Element(nearest: total)
            row += 1
          }
        }
      }
    }
    return try AttentionPartial(output: output, logSumExp: logSumExp, layout: first.layout)
  }
}
