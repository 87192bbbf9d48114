/// The constants from which plans are made. `make tune` prints the table from which each was chosen; the figures here are
/// ratios of times from it: 2 threads of an EPYC of family 25 (AVX-512, 1 MiB of second-level cache), 2026-11.
///
/// None of them depends on the sizes of caches: what a panel needs at a time fits the smallest of today's, and what
/// streams through them costs the same from 64 to 512 keys.
package struct Tuning: Sendable, Equatable {
  /// Rows of a tile, for which keys and values are read once.
  package var rowTarget = 192
  /// Bytes of the keys' row of scores in a tile: 512 keys of Float.
  package var keyTileByteCount = 2048
  /// Pieces that are wanted at least, to keep some threads busy.
  package var pieceTarget = 16
  /// Keys that a split is worth.
  package var leastSplitLength = 1024
  /// Rows fill too few lanes for panels if they are at most a vector's lanes over this.
  package var fewRowDivisor = 2
  /// Queries of a block where the diagonal crosses a tile by OpenBLAS.
  package var blockLength = 64
  /// Rows of B in a panel of a product at most. The greater, the greater the rounding error too.
  package var depthLimit = 512
  /// Rows of A up to which B is read in place where its rows are contiguous.
  package var unpackedRowLimit = 64

  package init() {}
}
