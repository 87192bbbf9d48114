public import AttentionTensors

/// Sinusoidal positions, which are added to embeddings. Position p has the elements `sin(p · θᵢ)` and `cos(p · θᵢ)`
/// with `θᵢ = base^(−2i / d)`, for i from 0 to d/2 − 1.
///
/// - Parameters:
///   - count: L, the number of positions.
///   - dimension: d, even.
///   - first: The first position.
///   - base: The base of the angles' geometric progression.
///   - pairing: `.interleaved`: sines at even elements, cosines at odd ones, as in the paper; `.halves`: sines in the
///     first half, cosines in the second.
///   - element: The type of the result.
/// - Returns: `[L, d]`, computed in Double and rounded once.
/// - Throws: `AttentionError` if the dimension is odd or below 2, if the base is not above 1, or if positions are
///   negative or too large.
///
/// Source: Vaswani et al. 2017 (arXiv:1706.03762), §3.5.
public func sinusoidalPositions<Element: AttentionElement>(
  count: Int, dimension: Int, startingAt first: Int = 0, base: Double = 10_000,
  pairing: RotaryEmbedding.Pairing = .interleaved, as element: Element.Type = Element.self
) throws -> Tensor<Element> {
  let table: RotaryTable<Element> = try RotaryEmbedding(dimension: dimension, base: base).table(
    .startingAt(first), count: count)
  return try Tensor(shape: [count, dimension]) { target in
    let half = dimension / 2
    for position in 0..<count {
      for i in 0..<half {
        let (sine, cosine) =
          pairing == .interleaved ? (2 * i, 2 * i + 1) : (i, half + i)
        target[position * dimension + sine] = table.sines.base[position * half + i]
        target[position * dimension + cosine] = table.cosines.base[position * half + i]
      }
    }
  }
}
