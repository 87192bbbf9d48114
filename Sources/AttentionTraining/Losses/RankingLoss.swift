public import Attention
internal import AttentionBLAS

/// How two vectors are compared.
public enum VectorSimilarity: String, Sendable, Hashable, CaseIterable {
  /// q·c / (‖q‖·‖c‖).
  case cosine
  /// q·c.
  case dot
}

/// A ranking loss and its gradients.
public struct RankingLoss<Element: AttentionElement>: Sendable {
  /// The loss: a finite number.
  public let value: Double
  /// The gradient of the queries, `[N, d]`.
  public let queryGradient: Tensor<Element>
  /// The gradient of the candidates, `[M, d]`.
  public let candidateGradient: Tensor<Element>
  /// How many queries are more similar to their own candidate than to any other.
  public let correctCount: Int
}

/// The contrastive loss of pairs: each query is to be more similar to its own candidate than to the candidates of the other
/// queries.
///
///     sᵢⱼ = scale · similarity(queryᵢ, candidateⱼ),  loss = meanᵢ(ln Σⱼ exp(sᵢⱼ) − sᵢᵢ)
///
/// The other candidates of the batch serve as negatives, so no negatives need to be given. Candidates after the first N are
/// further negatives. This is InfoNCE, and `MultipleNegativesRankingLoss` of sentence-transformers.
///
/// - Parameters:
///   - queries: `[N, d]`.
///   - candidates: `[M, d]` with M ≥ N. Candidate i belongs to query i.
///   - similarity: How two vectors are compared.
///   - scale: Multiplies the similarities: 1 / temperature. 20 is the default of sentence-transformers.
///   - context: Threads, instruction set, algorithm.
/// - Returns: The loss and its gradients.
/// - Throws: `AttentionError` if the shapes disagree, or with the code `.notFinite` if the loss is not finite.
///
/// Source: van den Oord et al. 2018 (arXiv:1807.03748), equation 4; Henderson et al. 2017 (arXiv:1705.00652), §4.4.
@_specialize(where Element == Float)
@_specialize(where Element == Double)
public func multipleNegativesRankingLoss<Element: AttentionElement>(
  queries: Tensor<Element>, candidates: Tensor<Element>, similarity: VectorSimilarity = .cosine, scale: Double = 20,
  context: AttentionContext = .default
) throws -> RankingLoss<Element> {
  try requireShape(
    queries.rank == 2 && candidates.rank == 2 && queries.shape[1] == candidates.shape[1]
      && queries.shape[0] <= candidates.shape[0], "multipleNegativesRankingLoss",
    "queries [N, d] and candidates [M, d] with M from N expected; got \(queries.shape) and \(candidates.shape)")
  try requireArgument(
    scale > 0 && scale.isFinite, "multipleNegativesRankingLoss", "a scale above 0 expected; got \(scale)")
  let scale = Element(_nearest: scale)
  let (q, c) = (try Directions(queries, similarity), try Directions(candidates, similarity))
  let scores = try matmul(q.vectors, c.vectors.transposed(), alpha: scale, context: context)
  let count = queries.shape[0]
  let loss = try crossEntropy(scores, targets: Tensor((0..<count).map { Int32($0) }, shape: [count]), context: context)
  let candidateCount = candidates.shape[0]
  let correctCount = try scores.withUnsafeBufferPointer { scores in
    (0..<count).count { i in
      let row = UnsafeBufferPointer(rebasing: scores[i * candidateCount..<(i + 1) * candidateCount])
      return row.indices.allSatisfy { $0 == i || row[$0] < row[i] }
    }
  }
  // forward: S = scale · Q̂ Ĉᵀ  ⇒  dQ̂ = scale · dS Ĉ, dĈ = scale · dSᵀ Q̂
  return RankingLoss(
    value: loss.value,
    queryGradient: try q.gradient(matmul(loss.gradient, c.vectors, alpha: scale, context: context)),
    candidateGradient: try c.gradient(matmul(loss.gradient.transposed(), q.vectors, alpha: scale, context: context)),
    correctCount: correctCount)
}

/// Vectors, divided by their lengths if the similarity is the cosine.
private struct Directions<Element: AttentionElement> {
  let vectors: Tensor<Element>
  /// The numbers that the vectors were divided by: their lengths, but at least 1e-12, as in PyTorch. Empty if they are
  /// not divided.
  private let lengths: [Double]

  init(_ vectors: Tensor<Element>, _ similarity: VectorSimilarity) throws {
    guard similarity == .cosine else {
      (self.vectors, lengths) = (try vectors.contiguous(), [])
      return
    }
    var unit = try vectors.copied()
    let (count, dimension) = (vectors.shape[0], vectors.shape[1])
    lengths = try unit.withMutableView { view in
      (0..<count).map { row in
        let x = view.base + row * dimension
        let length = max((0..<dimension).reduce(0.0) { $0 + x[$1]._double * x[$1]._double }.squareRoot(), 1e-12)
        for i in 0..<dimension { x[i] = Element(_nearest: x[i]._double / length) }
        return length
      }
    }
    self.vectors = unit
  }

  /// The gradient of the given vectors x from that of the directions x̂.
  ///
  ///     x̂ = x / ‖x‖  ⇒  dx = (dx̂ − x̂·(x̂·dx̂)) / ‖x‖
  func gradient(_ gradient: Tensor<Element>) throws -> Tensor<Element> {
    if lengths.isEmpty { return gradient }
    var result = gradient
    let dimension = gradient.shape[1]
    try result.withMutableView { view in
      for (row, length) in lengths.enumerated() {
        let (dx, unit) = (view.base + row * dimension, vectors.base + row * dimension)
        let projection = (0..<dimension).reduce(0.0) { $0 + dx[$1]._double * unit[$1]._double }
        for i in 0..<dimension { dx[i] = Element(_nearest: (dx[i]._double - unit[i]._double * projection) / length) }
      }
    }
    return result
  }
}
