/// Which tokens a ``KeyValueCache`` keeps.
public enum KeyValueRetention: Sendable, Hashable {
  /// All tokens.
  case all
  /// The first `keepingFirst` tokens and the last `length`; others are forgotten. Memory is bounded: the cache holds at
  /// most `keepingFirst` + 2 · `length` tokens of each sample, or, after more than `length` tokens were appended at
  /// once, at most `keepingFirst` + `length` tokens and the appended ones.
  ///
  /// Rows stay in the order of their tokens. To make room for new rows, those of the window move to the place after the
  /// first tokens, once in about `length` tokens. In a ring buffer no row would move, but the window would be split in
  /// two.
  case window(length: Int, keepingFirst: Int = 0)
}

/// Where a ``KeyValueCache`` keeps its tokens.
public enum KeyValuePlacement: Sendable, Hashable {
  /// In one block of memory, which grows by half when it is full. Faster to read than pages.
  case contiguous
  /// In pages of `pageLength` tokens. Forks and samples share a page until one of them writes to it.
  case paged(pageLength: Int = 256)
}
