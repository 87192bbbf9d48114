public import AttentionTensors

/// Rotary positions: turns pairs of elements of queries and keys by angles that grow with the position. Of the two
/// positions, only their difference then affects the dot product of a query and a key.
///
/// Pair i at position p is turned by `p · θᵢ` radians with `θᵢ = base^(−2i / R)`, where R is the rotary dimension:
/// `(a, b) → (a·cos − b·sin, b·cos + a·sin)`.
///
///     let rotary = try RotaryEmbedding(dimension: 64)
///     let table: RotaryTable<Float> = try rotary.table(.startingAt(cache.lengths[0]), count: 1)
///     try table.rotate(&query)      // [B, H, L, E], E ≥ 64: elements after the first 64 stay as they are
///     try table.rotate(&key)
///
/// Source: Su et al. 2021 (arXiv:2104.09864), equation 34. For the sources of the scalings, see the cases of
/// ``Scaling``.
public struct RotaryEmbedding: Sendable, Hashable {
  /// Which two elements make a pair.
  public enum Pairing: Sendable, Hashable {
    /// Elements i and i + R/2, as in GPT-NeoX and in most models in Hugging Face's format, such as Llama.
    case halves
    /// Elements 2i and 2i + 1, as in the paper, in GPT-J, and in GGUF files of Llama.
    case interleaved
  }

  /// How angles are changed, so that a model can use more positions than it was trained with.
  public enum Scaling: Sendable, Hashable {
    /// Angles stay as they are.
    case none
    /// Divides every position by `factor`. Source: Chen et al. 2023 (arXiv:2306.15595).
    case linear(factor: Double)
    /// Beyond `trainedLength` positions, the base grows with the number n of positions in use:
    /// `base · (factor · n / trainedLength − (factor − 1))^(R / (R − 2))`. As in Hugging Face's `dynamic`.
    case dynamicNTK(factor: Double, trainedLength: Int)
    /// YaRN: divides low frequencies by `factor` and leaves high ones as they are, with a ramp between the two.
    /// Multiplies cosines and sines by `magnitude`, by default `0.1 · ln(factor) + 1`.
    ///
    /// The ramp goes from the pair that turns `fastTurns` times over `trainedLength` positions to the pair that turns
    /// `slowTurns` times. Its ends are rounded outwards to whole pairs, unless `roundsRamp` is false (Hugging Face's
    /// `truncate: false`, as in gpt-oss). Source: Peng et al. 2023 (arXiv:2309.00071), §3.2 to 3.4.
    case yarn(
      factor: Double, trainedLength: Int, fastTurns: Double = 32, slowTurns: Double = 1, magnitude: Double? = nil,
      roundsRamp: Bool = true)
    /// The scaling of Llama 3.1. A pair's wavelength is the number of positions in which it turns once. Frequencies are
    /// divided by `factor` if the wavelength is longer than `trainedLength / lowFrequencyFactor`, and stay as they are
    /// if it is shorter than `trainedLength / highFrequencyFactor`, with a ramp between the two.
    case llama3(factor: Double, lowFrequencyFactor: Double, highFrequencyFactor: Double, trainedLength: Int)
  }

  /// R: how many elements of each row are turned, always the first ones.
  public let dimension: Int
  /// The base of the angles' geometric progression.
  public let base: Double
  /// Which two elements make a pair.
  public let pairing: Pairing
  /// How angles change beyond the trained length.
  public let scaling: Scaling

  /// Rotary positions for rows of at least `dimension` elements.
  /// - Throws: `AttentionError` if the dimension is odd or below 2, or if an argument is out of range.
  public init(
    dimension: Int, base: Double = 10_000, pairing: Pairing = .halves, scaling: Scaling = .none
  ) throws(AttentionError) {
    func require(_ condition: Bool, _ message: @autoclosure () -> String) throws(AttentionError) {
      try requireArgument(condition, "RotaryEmbedding", message())
    }
    try require(
      dimension >= 2 && dimension % 2 == 0 && dimension <= 1 << 20,
      "an even dimension from 2 to \(1 << 20) expected; got \(dimension)")
    try require(base > 1 && base.isFinite, "a base above 1 expected; got \(base)")
    switch scaling {
    case .none: break
    case .linear(let factor):
      try require(
        factor > 0 && factor.isFinite && (1 / factor).isFinite,
        "a factor above 0, as its inverse, expected; got \(factor)")
    case .dynamicNTK(let factor, let length):
      try require(
        factor >= 1 && factor.isFinite && length > 0 && dimension > 2,
        "a factor from 1, a length from 1 and a dimension from 4 expected; got \(factor), \(length), \(dimension)")
    case .yarn(let factor, let length, let fast, let slow, let magnitude, _):
      try require(
        factor >= 1 && factor.isFinite && length > 0 && slow > 0 && fast >= slow && fast.isFinite
          && (magnitude ?? 1).isFinite,
        "a factor from 1, a length from 1 and turns fast ≥ slow > 0 expected; got \(factor), \(length), \(fast), \(slow)"
      )
    case .llama3(let factor, let low, let high, let length):
      try require(
        factor >= 1 && factor.isFinite && low > 0 && high > low && high.isFinite && length > 0,
        "a factor from 1, a length from 1 and frequency factors high > low > 0 expected; got \(factor), \(length), "
          + "\(high), \(low)")
    }
    self.dimension = dimension
    self.base = base
    self.pairing = pairing
    self.scaling = scaling
  }

  /// θᵢ of each pair: the angle in radians from one position to the next.
  /// - Parameter length: The number of positions in use. Only ``Scaling/dynamicNTK(factor:trainedLength:)`` depends on
  ///   it.
  /// - Returns: One angle for each of the R / 2 pairs.
  public func angles(length: Int) -> [Double] {
    let pairs = 0..<dimension / 2
    func angles(base: Double) -> [Double] { pairs.map { base.raised(to: -2 * Double($0) / Double(dimension)) } }
    switch scaling {
    case .none: return angles(base: base)
    case .linear(let factor): return angles(base: base).map { $0 / factor }
    case .dynamicNTK(let factor, let trained):
      if length <= trained { return angles(base: base) }
      let growth = factor * Double(length) / Double(trained) - (factor - 1)
      return angles(base: base * growth.raised(to: Double(dimension) / Double(dimension - 2)))
    case .yarn(let factor, let trained, let fast, let slow, _, let roundsRamp):
      // The pair, as a fractional index, that turns this many times over the trained length.
      func pair(turning turns: Double) -> Double {
        Double(dimension) * (Double(trained) / (turns * 2 * .pi)).naturalLogarithm / (2 * base.naturalLogarithm)
      }
      let (first, last) = (pair(turning: fast), pair(turning: slow))
      let low = max(roundsRamp ? first.rounded(.down) : first, 0)
      var high = min(roundsRamp ? last.rounded(.up) : last, Double(dimension - 1))
      if low == high { high += 0.001 }
      return zip(pairs, angles(base: base)).map { pair, angle in
        let ramp = min(max((Double(pair) - low) / (high - low), 0), 1)
        return angle / factor * ramp + angle * (1 - ramp)
      }
    case .llama3(let factor, let low, let high, let trained):
      return angles(base: base).map { angle in
        let turns = Double(trained) * angle / (2 * .pi)
        if turns < low { return angle / factor }
        if turns > high { return angle }
        let share = (turns - low) / (high - low)
        return (1 - share) * angle / factor + share * angle
      }
    }
  }

  /// The factor by which cosines and sines are multiplied: 1, except for
  /// ``Scaling/yarn(factor:trainedLength:fastTurns:slowTurns:magnitude:roundsRamp:)``.
  public var magnitude: Double {
    guard case .yarn(let factor, _, _, _, let magnitude, _) = scaling else { return 1 }
    return magnitude ?? (0.1 * factor.naturalLogarithm + 1)
  }

  /// The cosines and sines for the positions of some tokens. Every layer and head can use the same table.
  ///
  /// - Parameters:
  ///   - positions: The positions of the tokens.
  ///   - count: L, the number of tokens of each element of the batch.
  ///   - length: The number of positions in use, for ``Scaling/dynamicNTK(factor:trainedLength:)``; nil: one more than
  ///     the greatest of `positions`. Keys that were turned earlier, with a table for another length, keep their old
  ///     angles.
  ///   - element: The type of the cosines and sines: the arithmetic type of the queries and keys.
  /// - Returns: Cosines and sines, each `[B, L, R/2]`. B is 1 if all elements of the batch have the same positions.
  /// - Throws: `AttentionError` if positions are negative, too large, or not L for each element of the batch.
  ///
  /// Accuracy: angles and their functions are computed in Double and rounded once.
  public func table<Element: AttentionElement>(
    _ positions: TokenPositions, count: Int, length: Int? = nil, as element: Element.Type = Element.self
  ) throws -> RotaryTable<Element> {
    let rows = try positions.rows(count: count)
    let angles = angles(length: length ?? (rows.joined().max() ?? 0) + 1)
    let magnitude = magnitude
    func table(_ function: (Double) -> Double) throws -> Tensor<Element> {
      try Tensor(shape: [rows.count, count, dimension / 2]) { target in
        var place = 0
        for position in rows.joined() {
          for angle in angles {
            target[place] = Element(_nearest: function(Double(position) * angle) * magnitude)
            place += 1
          }
        }
      }
    }
    return try RotaryTable(
      cosines: table(\.cosine), sines: table(\.sine), pairing: pairing)
  }
}

/// The positions of the tokens of a batch.
public enum TokenPositions: Sendable {
  /// Consecutive positions from this one on, the same for every element of the batch.
  case startingAt(Int)
  /// Consecutive positions, from a first position for each element of the batch.
  case startingAtEach([Int])
  /// Any positions: `[B, L]`, or `[L]` for all elements of the batch.
  case each(Tensor<Int64>)

  /// `count` positions for each element of the batch, or a single array of `count` positions that all elements share.
  func rows(count: Int) throws -> [[Int]] {
    func require(_ condition: Bool, _ message: @autoclosure () -> String) throws {
      try requireArgument(condition, "TokenPositions", message())
    }
    try require(
      (0...1 << 26).contains(count), "a count of tokens from 0 to \(1 << 26) expected; got \(count)")
    func requireAll(_ positions: [Int], upTo limit: Int) throws {
      guard let wrong = positions.first(where: { !(0...limit).contains($0) }) else { return }
      throw AttentionError(
        .invalidArgument, "TokenPositions", "positions from 0 to \(limit) expected; got \(wrong)")
    }
    switch self {
    case .startingAt(let first): return try TokenPositions.startingAtEach([first]).rows(count: count)
    case .startingAtEach(let firsts):
      try requireAll(firsts, upTo: Int(Int32.max) - count)
      return firsts.map { Array($0..<$0 + count) }
    case .each(let positions):
      try require(
        (1...2).contains(positions.rank) && positions.shape.last == count,
        "positions [B, L] or [L] with L = \(count) expected; got \(positions.shape)")
      let all = positions.array.map { Int($0) }
      try requireAll(all, upTo: Int(Int32.max))
      return (0..<(positions.rank == 2 ? positions.shape[0] : 1)).map { Array(all[$0 * count..<($0 + 1) * count]) }
    }
  }
}
