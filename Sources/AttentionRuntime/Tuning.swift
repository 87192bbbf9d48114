/// The constants from which the plans of calls are made. For most constants, `make tune` prints the table from which
/// the value was chosen. It has none for `gradientRowTarget`, `gradientKeyTileLength` and `packedRowLimit`.
///
/// "512: 1 % slower" means that calls take 1 % longer with 512 than with the chosen value. "E 64" means queries and
/// keys of 64 elements. Figures without a CPU are from 2 threads of an EPYC of family 25 (AVX-512, 1 MiB of
/// second-level cache), 2026-11.
///
/// No constant is computed from the sizes of this machine's caches, because the size of a tile hardly matters: tiles
/// stream through the caches. From 48 to 384 rows, and from 1 KiB to 4 KiB of scores a row, most times are the same
/// within 2 percent.
package struct Tuning: Sendable, Equatable {
  /// The number of rows of a tile to aim at. A row is a query of one head. Keys and values are read once for all rows
  /// of a tile. 48 to 288: 2 % faster to 5 % slower. On an Intel CPU of model 85, 192: 1 % faster to 4 % slower;
  /// 768: 0 to 1 % slower.
  package var rowTarget = 384
  /// A tile of keys or values is copied if its rows begin at least this many bytes apart, as where heads lie side by
  /// side. The cache lines of such rows fall into a few sets of the caches; those of the copy are spread over all sets.
  /// Never copying: layers 3 to 10 % slower (Intel, model 85).
  package var farRowByteCount = 4096
  /// The least number of queries in a tile, counted over its heads, for which tiles of keys and values are copied as
  /// above. 128: 2 % slower (Intel, model 85).
  package var leastPackedRowCount = 192
  /// The number of bytes of one query's scores in a tile. 2048 bytes are the scores of 512 keys in Float. 512 bytes:
  /// 1 % slower, with a bias 8 % slower; 4096 bytes: the same time. If queries run along vectors of less than 64 bytes,
  /// the number is reduced in proportion to the vector: each weight that is read then takes part in fewer products, so
  /// it has to be in a nearer cache. With AVX2, half of the bytes is 1 % (E 64) to 4 % (E 128) faster than all of them
  /// (Zen 3), and a third is 2 to 4 % faster.
  package var keyTileByteCount = 2048
  /// Where all heads have the same mask, several heads take turns at each tile of queries, so that the mask is read
  /// less often from memory. The keys and values of these heads have at most this many bytes in all, which fit in a
  /// third-level cache that other programs use too. 0 (one head after the other): 4 to 12 % slower (Zen 5); 2 to
  /// 16 MiB: the same within the noise.
  package var headTurnByteCount = 4 << 20
  /// The number of tasks that a call should at least have, to keep some threads busy. 8: 4 % slower with one head, 3 to
  /// 8 % faster in decoding on two threads, but with more than 8 threads some would be idle; 32: 0 to 4 % slower.
  package var taskTarget = 16
  /// The number of keys in a split, for tiles of many rows. The keys of a tile of queries are divided into splits.
  /// After each split, its state (maximum, sum and weighted mean of the values, for each row) is merged with the state
  /// of the splits before it.
  package var splitLength = 4096
  /// The number of keys in a split, for tiles of a few rows, as in decoding.
  package var fewRowSplitLength = 1024
  /// Decides when a tile has only a few rows: if they are at most a vector's lanes divided by this number. In a panel,
  /// so few rows would leave too many lanes idle. Instead, keys and values are streamed along the lanes. In panels, 4
  /// rows take 2.6 times as long as streamed, and 8 rows 1.45 times. Streamed, 12 rows take 6 % longer than in panels,
  /// with E 64 27 % longer.
  package var fewRowDivisor = 2
  /// The number of queries in a tile of the backward pass.
  package var gradientRowTarget = 192
  /// The number of keys in a region of the backward pass: the keys whose gradients, and those of their values, are
  /// computed together.
  package var gradientKeyTileLength = 256
  /// The number of queries in a block. OpenBLAS computes a tile in such blocks where the mask's diagonal crosses the
  /// tile. 32: 0 to 2 % slower; 128: 0 to 5 % slower.
  package var blockLength = 64
  /// In a product A·B, the most rows of B in a panel. 256: 2 to 4 % slower; 1024: 1 % faster, with 1.4 times the
  /// rounding error.
  package var depthLimit = 512
  /// If A has at most this many rows, B is read in place where its rows are contiguous. 32: 14 % slower with 48 rows; 0: 17
  /// to 56 % slower.
  package var unpackedRowLimit = 64
  /// The number of rows of a transposed A that are packed at once. 192: 0 to 6 % slower; 768: 1 % slower to 3 % faster
  /// (Intel, model 207).
  package var packedRowLimit = 384

  package init() {}

  package func splitLength(_ hasFewRows: Bool) -> Int { hasFewRows ? fewRowSplitLength : splitLength }
}
