internal import AttentionBLAS
internal import AttentionTensors

/// The two products of a tile whose queries are rows.
///
/// R is the number of rows (queries), N the number of keys, E the width of queries and keys, and Ev the width of
/// values.
protocol RowProducts {
  associatedtype Element: AttentionElement

  /// True if the products can read this matrix of keys or values in place, so that it need not be copied.
  static func reads(_ matrix: StridedMatrix<Element>) -> Bool

  /// True if the products read two-byte keys and values where they lie.
  static var readsHalves: Bool { get }

  /// True if a tile whose rows attend to different keys is divided into blocks of fewer rows. This is worthwhile if the
  /// products are large.
  static var cutsRows: Bool { get }

  static func onWorker(_ kernels: Kernels<Element>, _ body: () -> Void)

  /// scores[R, N] ← Q[R, E] · K[N, E]ᵀ.
  static func computeScores(
    _ kernels: Kernels<Element>, query: StridedMatrix<Element>, key: StoredMatrix<Element>,
    into scores: UnsafeMutablePointer<Element>, stride: Int)

  /// result[R, Ev] += weights[R, N] · V[N, Ev]. `firstIndex` is the index of the first key in its sequence.
  static func accumulateValues(
    _ kernels: Kernels<Element>, weights: StridedMatrix<Element>, value: StoredMatrix<Element>, firstIndex: Int,
    into result: UnsafeMutablePointer<Element>, stride: Int)
}

/// Products by OpenBLAS, for any number of rows, on any machine.
enum OpenBLASProducts<Element: AttentionElement>: RowProducts {
  static func reads(_ matrix: StridedMatrix<Element>) -> Bool { matrix.blasLayout != nil }

  static var readsHalves: Bool { false }

  static var cutsRows: Bool { true }

  static func onWorker(_: Kernels<Element>, _ body: () -> Void) { OpenBLAS.withOneThread(body) }

  static func computeScores(
    _: Kernels<Element>, query: StridedMatrix<Element>, key: StoredMatrix<Element>,
    into scores: UnsafeMutablePointer<Element>, stride: Int
  ) {
    let key = key.native.transposed
    let depth = query.columnCount
    if depth < leastSplitDepth { return multiply(query, key, .replacing, into: scores, stride: stride) }
    multiply(query.columns(0..<depth / 2), key.rows(0..<depth / 2), .replacing, into: scores, stride: stride)
    multiply(query.columns(depth / 2..<depth), key.rows(depth / 2..<depth), .accumulating, into: scores, stride: stride)
  }

  /// From this head dimension on, the sum of products that is a score is computed as the sum of two halves. OpenBLAS
  /// adds up each half from its first product to its last. Shorter sums have smaller rounding errors, which matter for
  /// large scores: a softcap or a large scale turns rounding errors of scores into errors of weights. With one sum, the
  /// error of a gradient through a softcap was 1.05 times the error that is allowed (E = 48, Zen 3, 2026-11).
  private static var leastSplitDepth: Int { 32 }

  static func accumulateValues(
    _: Kernels<Element>, weights: StridedMatrix<Element>, value: StoredMatrix<Element>, firstIndex _: Int,
    into result: UnsafeMutablePointer<Element>, stride: Int
  ) {
    multiply(weights, value.native, .accumulating, into: result, stride: stride)
  }
}

/// Products for a few rows, as in decoding: every key and value is read from memory once.
enum FewRowProducts<Element: AttentionElement>: RowProducts {
  static func reads(_ matrix: StridedMatrix<Element>) -> Bool { matrix.columnStride == 1 }

  static var readsHalves: Bool { true }

  static var cutsRows: Bool { false }

  static func onWorker(_: Kernels<Element>, _ body: () -> Void) { body() }

  static func computeScores(
    _ kernels: Kernels<Element>, query: StridedMatrix<Element>, key: StoredMatrix<Element>,
    into scores: UnsafeMutablePointer<Element>, stride: Int
  ) {
    kernels.dotRows(query: query, key: key, factor: 1, into: scores, stride: stride)
  }

  static func accumulateValues(
    _ kernels: Kernels<Element>, weights: StridedMatrix<Element>, value: StoredMatrix<Element>, firstIndex: Int,
    into result: UnsafeMutablePointer<Element>, stride: Int
  ) {
    kernels.accumulateRows(weights: weights, value: value, firstIndex: firstIndex, into: result, stride: stride)
  }
}
