internal import AttentionTensors

/// The online softmax of a tile of queries, behind which algorithms differ. The driver does the rest.
protocol TileKernels: Sendable {
  associatedtype Element: AttentionElement
  /// The working memory of one worker, and in it the state of the tile that it is at.
  associatedtype Scratch

  init(_ call: AttentionCall<Element>)

  /// Memory of one size for every tile of the call, bounded whatever the lengths.
  func scratch(_ carver: inout Carver) -> Scratch

  /// Work on a thread that runs these kernels.
  static func onWorker(_ body: () -> Void)

  /// maximum, sum and mean of every row over one part of the keys, from nothing.
  func attend(_ tile: AttentionCall<Element>.Tile, split: Int, _ scratch: Scratch)

  /// Copies what `attend` found, to be merged.
  func store(_ tile: AttentionCall<Element>.Tile, _ scratch: Scratch, into state: RowState<Element>)

  /// Writes the results of what `attend` found, weights aside.
  func finish(_ tile: AttentionCall<Element>.Tile, _ scratch: Scratch)

  /// The maximum and sum of every row that `attend` found.
  func state(_ scratch: Scratch) -> (maximum: UnsafePointer<Element>, sum: UnsafePointer<Element>)

  /// weights = exp(score − maximum) / sum over one part of the keys, where they are attended, from scores computed once
  /// more in the same way. Sums of 0 and NaN are others' matter.
  func writeWeights(
    _ weights: UnsafeMutablePointer<Element>, _ tile: AttentionCall<Element>.Tile, split: Int,
    maximum: UnsafePointer<Element>, sum: UnsafePointer<Element>, _ scratch: Scratch)

  /// The scores over one part of the keys, where they are attended.
  func writeScores(
    _ scores: UnsafeMutablePointer<Element>, _ tile: AttentionCall<Element>.Tile, split: Int, _ scratch: Scratch)
}

/// What a pass over the keys of a tile takes care of beside the ordinary.
///
/// Both cases are rare and leave a trace: a result that is not finite. So a tile is computed without care first.
struct TileCare {
  /// Hazard: a masked key has weight 0, but 0·NaN is NaN. Values that are not finite are left out of the product where some
  /// row does not attend to them, and added to those rows that do.
  var leavesOutHazards = false
  /// Hazard: Σ exp(score − maximum) · value overflows where the values are large: see ``NormalizedRows``.
  var normalizesWeights = false
}

extension TileKernels {
  /// After a pass without care whose result is not finite: calls `body` with what it shall take care of, until the result is
  /// finite or nothing is left to be taken care of.
  ///
  /// Each row has the bits that it has where no other row needs care.
  @inline(never)
  func repeatWithCare(
    isHiding: Bool, hasFiniteValues: () -> Bool, hasFiniteResult: () -> Bool, _ body: (TileCare) -> Void
  ) {
    var care = TileCare()
    if isHiding && !hasFiniteValues() {
      care.leavesOutHazards = true
      body(care)
      if hasFiniteResult() { return }
    }
    care.normalizesWeights = true
    body(care)
  }
}
