/// The constants from which plans are made. `make tune` prints the table from which each was chosen.
///
/// "512: 1 % slower" means that calls take 1 % longer with 512 than with the chosen value. "E 64" means keys of 64
/// elements. Figures without a CPU are from 2 threads of an EPYC of family 25 (AVX-512, 1 MiB of second-level cache),
/// 2026-11.
///
/// No constant is computed from the sizes of this machine's caches. Tiles stream through the caches: the time is the
/// same within 2 percent from 48 to 384 rows, and from 1 KiB to 4 KiB of scores a row.
package struct Tuning: Sendable, Equatable {
  /// Rows of a tile. Keys and values are read once for all of them. 48 to 384: 2 % faster to 2 % slower. On an Intel CPU of
  /// model 85, 192: 1 % faster to 4 % slower; 768: 0 to 1 % slower.
  package var rowTarget = 384
  /// If keys or values are at least this many bytes apart, a tile of them is copied. The copy's cache lines are spread over
  /// the sets of the caches; those of heads that lie side by side are not. Never copying: layers 3 to 10 % slower (Intel,
  /// model 85).
  package var farRowByteCount = 4096
  /// Rows from which on a tile is worth that copy. 128: 2 % slower.
  package var leastPackedRowCount = 192
  /// Bytes of the scores of one query in a tile: 512 keys of Float. 512: 1 % slower, with a bias 8 % slower; 4096: the same
  /// time. With queries along vectors of less than 64 bytes the number is reduced in proportion: each weight that is read
  /// then takes part in fewer products, so it has to be in a nearer cache. With AVX2, half of the bytes: 1 % (E 64) to 4 %
  /// (E 128) faster; a third: 2 to 4 % faster.
  package var keyTileByteCount = 2048
  /// Bytes of the keys and values of the heads that take turns at each tile of queries, where all heads have the same
  /// mask. Heads take turns so that the mask is read less often from memory. This is as much as fits in a third-level
  /// cache that others use too. 0 (one head after the other): 4 to 12 % slower (Zen 5); 2 to 16 MiB: the same within
  /// the noise.
  package var headTurnByteCount = 4 << 20
  /// The least number of tasks that are wanted, to keep some threads busy. 8: 4 % slower with one head, 3 to 8 % faster in
  /// decoding on two threads, but threads beyond the number of tasks would be idle; 32: 0 to 4 % slower.
  package var taskTarget = 16
  /// Keys of a split, for tiles of many rows and for a few rows, as in decoding. After each split, its state (maximum,
  /// sum and mean of each row) is merged with that of the splits before it.
  package var splitLength = 4096
  package var fewRowSplitLength = 1024
  /// Rows are streamed instead of packed in panels if they are at most a vector's lanes divided by this number: they would
  /// fill too few lanes of a panel. In panels, 4 rows take 2.6 times as long and 8 rows 1.45 times. Streamed, 12 rows take
  /// 6 % longer, with E 64 27 % longer.
  package var fewRowDivisor = 2
  /// Queries of a tile, and keys of a region, in the backward pass.
  package var gradientRowTarget = 192
  package var gradientKeyTileLength = 256
  /// Queries of a block where the diagonal crosses a tile that OpenBLAS computes. 32: 0 to 2 % slower; 128: 0 to 5 % slower.
  package var blockLength = 64
  /// The most rows of B in a panel of a product. 256: 2 to 4 % slower; 1024: 1 % faster, with 1.4 times the rounding error.
  package var depthLimit = 512
  /// If A has at most this many rows, B is read in place where its rows are contiguous. 32: 14 % slower with 48 rows; 0: 17
  /// to 56 % slower.
  package var unpackedRowLimit = 64
  /// Rows of a transposed A that are packed at once. 192: 0 to 6 % slower; 768: 1 % slower to 3 % faster (Intel, model 207).
  package var packedRowLimit = 384

  package init() {}

  package func splitLength(_ hasFewRows: Bool) -> Int { hasFewRows ? fewRowSplitLength : splitLength }
}
