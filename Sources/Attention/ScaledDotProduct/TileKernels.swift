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

  /// maximum, sum and result of every row over one part of the keys, from nothing.
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
