/// Which tokens a ``KeyValueCache`` keeps.
public enum KeyValueRetention: Sendable, Hashable {
  /// All tokens.
  case all
  /// The first `keepingFirst` tokens and the last `length`; others are forgotten. Memory is bounded by twice the window, or by
  /// the longest prompt that was appended at once.
  ///
  /// Rows stay in order: every `length` tokens, those that are still needed move to the front, instead of a ring in which they
  /// lie in two parts.
  case window(length: Int, keepingFirst: Int = 0)
}

/// Where a ``KeyValueCache`` keeps its tokens.
public enum KeyValuePlacement: Sendable, Hashable {
  /// In one block of memory, which grows by half. Faster to read than pages.
  case contiguous
  /// In pages of `pageLength` tokens, which forks and samples share until one of them writes.
  case paged(pageLength: Int = 256)
}
