internal import AttentionBLAS
internal import AttentionTensors

/// The two products of a tile, behind which algorithms differ. The driver does the rest.
///
/// R rows (queries), N keys, E width, Ev width of values.
protocol TileKernels: Sendable {
  associatedtype Element: AttentionElement

  /// scores[R, N] ← scale · Q[R, E] · K[N, E]ᵀ.
  func computeScores(
    query: StridedMatrix<Element>, key: StridedMatrix<Element>, scale: Element,
    into scores: UnsafeMutablePointer<Element>, stride: Int)

  /// result[R, Ev] += weights[R, N] · V[N, Ev].
  func accumulateValues(
    weights: StridedMatrix<Element>, value: StridedMatrix<Element>,
    into result: UnsafeMutablePointer<Element>, stride: Int)
}

/// Tiles by OpenBLAS: any element type that it multiplies, on any machine.
struct OpenBLASTiles<Element: AttentionElement>: TileKernels {
  func computeScores(
    query: StridedMatrix<Element>, key: StridedMatrix<Element>, scale: Element,
    into scores: UnsafeMutablePointer<Element>, stride: Int
  ) {
    multiply(alpha: scale, query, key.transposed, .replacing, into: scores, stride: stride)
  }

  func accumulateValues(
    weights: StridedMatrix<Element>, value: StridedMatrix<Element>,
    into result: UnsafeMutablePointer<Element>, stride: Int
  ) {
    multiply(weights, value, .accumulating, into: result, stride: stride)
  }
}
