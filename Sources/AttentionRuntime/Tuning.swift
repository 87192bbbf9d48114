/// The constants from which plans are made. `make tune` prints the table from which each was chosen; figures here are times
/// over the chosen value's: 2 threads of an EPYC of family 25 (AVX-512, 1 MiB of second-level cache), 2026-11.
///
/// None of them is read off the sizes of caches: tiles stream through them, and cost the same within 2 percent from 48
/// rows to 384 and from 1 KiB of scores a row to 4.
package struct Tuning: Sendable, Equatable {
  /// Rows of a tile, for which keys and values are read once. 48 to 384: 0.98 to 1.02; on an Intel CPU of model 85 192: 0.99
  /// to 1.04, 768: 1.00 to 1.01.
  package var rowTarget = 384
  /// Bytes from one key or value to the next from which on a tile of them is copied, so that its lines are spread over the sets
  /// of the caches, as those of heads that lie side by side are not. Never: 1.03 to 1.10 of layers (Intel, model 85).
  package var farRowByteCount = 4096
  /// Rows of a tile that are worth that copy. 128: 1.02.
  package var leastPackedRowCount = 192
  /// Bytes of the keys' row of scores in a tile: 512 keys of Float. 512: 1.01, with a bias 1.08; 4096: 1.00. With queries
  /// along vectors narrower than 64 bytes it is less in proportion, for each weight that is read then takes part in fewer
  /// products and has to be nearer: with AVX2 half of it takes 0.99 (E 64) to 0.96 (E 128), a third 0.98 to 0.96.
  package var keyTileByteCount = 2048
  /// Bytes of keys and values of the heads that take turns where a mask is the same for all heads, so that it is read less
  /// often from memory: what a third-level cache that others use too still holds. 0, one head after the other: 1.04 to 1.12
  /// (Zen 5); 2 to 16 MiB: alike within the noise.
  package var headTurnByteCount = 4 << 20
  /// Pieces that are wanted at least, to keep some threads busy. 8: 1.04 with one head, 0.92 to 0.97 in decoding on two
  /// threads, but more threads than pieces would idle; 32: 1.00 to 1.04.
  package var taskTarget = 16
  /// Keys of a split, after which states are merged: of tiles of many rows, and of a few rows, as in decoding.
  package var splitLength = 4096
  package var fewRowSplitLength = 1024
  /// Rows fill too few lanes for panels if they are at most a vector's lanes over this. With panels instead, 4 rows: 2.6,
  /// 8 rows: 1.45; streaming 12 rows: 1.06, with E 64 1.27.
  package var fewRowDivisor = 2
  /// Queries of a block where the diagonal crosses a tile by OpenBLAS. 32: 1.00 to 1.02; 128: 1.00 to 1.05.
  package var blockLength = 64
  /// Rows of B in a panel of a product at most. 256: 1.02 to 1.04; 1024: 0.99, with 1.4 times the rounding error.
  package var depthLimit = 512
  /// Rows of A up to which B is read in place where its rows are contiguous. 32: 1.14 at 48 rows; 0: 1.17 to 1.56.
  package var unpackedRowLimit = 64

  package init() {}

  package func splitLength(_ hasFewRows: Bool) -> Int { hasFewRows ? fewRowSplitLength : splitLength }
}
