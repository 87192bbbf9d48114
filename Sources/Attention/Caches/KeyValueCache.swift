public import AttentionTensors

/// The keys and values of the tokens so far, for a model that generates one token after another.
///
///     let cache = try KeyValueCache<Float>(batchCount: 1, headCount: 8, headDimension: 64)
///     try cache.append(key: key, value: value)   // [B, Hk, n, E]: first a prompt, then single tokens
///     let y = try scaledDotProductAttention(query: query, cache: cache)   // the queries of the same n tokens
///
/// A cache makes its own mask: every query attends to its own token and to the tokens before it. If the cache has a
/// window, the query attends only to the tokens of the window and to the first tokens that the cache keeps.
/// Samples may have different lengths, and one call may append a different number of tokens to each.
///
/// `Element` is the type of storage: Float, Double, or a two-byte type, which takes half the memory of Float and is
/// converted as it is read.
/// The cache is a class and not Sendable: only one task may use it at a time. ``fork()`` makes another cache with the
/// same tokens.
public final class KeyValueCache<Element: AttentionStorage> {
  /// Which tokens are kept.
  public let retention: KeyValueRetention
  /// Where tokens are kept.
  public let placement: KeyValuePlacement
  /// B: the number of samples.
  public var batchCount: Int { storage.rows.batchCount }
  /// Hk: the number of heads of keys and values.
  public var headCount: Int { storage.rows.headCount }
  /// E: the number of elements of a key.
  public var headDimension: Int { storage.rows.headDimension }
  /// Ev: the number of elements of a value.
  public var valueDimension: Int { storage.rows.valueDimension }
  /// The number of tokens of each sample, including those that a window has forgotten: the position of its next token.
  public private(set) var lengths: [Int]

  /// The number of tokens of each sample that a window has forgotten.
  private var forgotten: [Int]
  /// The number of tokens that each sample took in the last `append`; 0 after `truncate`.
  private var lastCounts: [Int]
  /// n, the number of tokens that the last `append` was given for each sample; 0 after `truncate`.
  private var lastTokenCount = 0
  private var storage: any KeyValueStorage

  private static var subject: String { "KeyValueCache" }

  /// A cache without tokens.
  ///
  /// - Parameters:
  ///   - batchCount: B, the number of samples.
  ///   - headCount: Hk, the number of heads of keys and values.
  ///   - headDimension: E, the number of elements of a key.
  ///   - valueDimension: Ev, the number of elements of a value; nil: E.
  ///   - retention: Which tokens are kept.
  ///   - placement: Where tokens are kept.
  ///   - capacity: The number of tokens of each sample for which memory is allocated now; the cache later grows as
  ///     needed. Ignored for pages, which are allocated when they are needed.
  /// - Throws: `AttentionError` if an extent, or the length of a window or a page, is out of range, or if memory runs
  ///   out.
  public init(
    batchCount: Int, headCount: Int, headDimension: Int, valueDimension: Int? = nil,
    retention: KeyValueRetention = .all, placement: KeyValuePlacement = .contiguous, capacity: Int = 0
  ) throws(AttentionError) {
    let rows = KeyValueRows(
      batchCount: batchCount, headCount: headCount, headDimension: headDimension,
      valueDimension: valueDimension ?? headDimension,
      dataType: Element._dataType)
    try requireArgument(
      [headCount, headDimension, rows.valueDimension, capacity].allSatisfy { (0...Int(Int32.max)).contains($0) }
        && (0...1 << 20).contains(batchCount),
      Self.subject,
      "extents from 0 to \(Int32.max), and up to \(1 << 20) samples, expected; got \(batchCount) samples, \(headCount) heads, "
        + "dimensions \(headDimension) and \(rows.valueDimension), capacity \(capacity)")
    if case .window(let length, let first) = retention {
      try requireArgument(
        (1...Int(Int32.max)).contains(length) && (0...Int(Int32.max)).contains(first), Self.subject,
        "a window from 1 and first tokens from 0 expected; got \(length), \(first)")
    }
    if case .paged(let length) = placement {
      try requireArgument(
        (1...1 << 20).contains(length), Self.subject, "pages of 1 to \(1 << 20) tokens expected; got \(length)")
    }
    self.retention = retention
    self.placement = placement
    lengths = Array(repeating: 0, count: batchCount)
    forgotten = lengths
    lastCounts = lengths
    if case .paged(let length) = placement {
      storage = PagedKeyValues(rows, pageLength: length)
    } else {
      storage = try ContiguousKeyValues(rows, capacity: capacity)
    }
  }

  private init(
    copyOf original: KeyValueCache, lengths: [Int], forgotten: [Int], lastCounts: [Int], storage: any KeyValueStorage
  ) {
    retention = original.retention
    placement = original.placement
    self.lengths = lengths
    self.forgotten = forgotten
    self.lastCounts = lastCounts
    self.storage = storage
  }

  /// The number of tokens of each sample that the cache holds: ``lengths`` minus the forgotten tokens.
  public var storedCounts: [Int] { zip(lengths, forgotten).map { $0 - $1 } }

  /// The number of pages in use; a shared page counts once. 1 for a cache without pages.
  public var pageCount: Int { (storage as? PagedKeyValues)?.pageCount ?? 1 }

  // MARK: Writing

  /// Adds the keys and values of new tokens.
  ///
  /// - Parameters:
  ///   - key: `[B, Hk, n, E]`, for n new tokens of each sample; rank 3 leaves out the batch, rank 2 the heads too. Any
  ///     strides, and any type with the same arithmetic type as the cache's.
  ///   - value: `[B, Hk, n, Ev]`.
  ///   - counts: How many of the n tokens each sample takes, always the first ones; nil: all n.
  ///   - rotary: A table for the positions of the n tokens, which turns the keys before they are stored. Nil: the keys
  ///     are stored as given.
  ///   - layout: `.lengthFirst` for `[B, n, Hk, E]`.
  /// - Throws: `AttentionError` if shapes or counts disagree, if a sample would get more than 2^31 − 1 tokens, or if
  ///   memory runs out. No token is added then.
  public func append<Source: AttentionStorage>(
    key: Tensor<Source>, value: Tensor<Source>, counts: [Int]? = nil, rotary: RotaryTable<Element.Arithmetic>? = nil,
    layout: AttentionLayout = .headsFirst
  ) throws where Source.Arithmetic == Element.Arithmetic {
    let turned = try rotary?.rotated(key, layout: layout) ?? key
    let keys = try turned as? Tensor<Element> ?? Tensor<Element>(converting: turned)
    let values = try value as? Tensor<Element> ?? Tensor<Element>(converting: value)
    guard let (keyShape, keyStrides) = layout.canonical(keys.shape, keys.strides),
      let (valueShape, valueStrides) = layout.canonical(values.shape, values.strides),
      keyShape == [batchCount, headCount, keyShape[2], headDimension],
      valueShape == [batchCount, headCount, keyShape[2], valueDimension]
    else {
      throw AttentionError(
        .shapeMismatch, Self.subject,
        "keys [\(batchCount), \(headCount), n, \(headDimension)] and values [\(batchCount), \(headCount), n, \(valueDimension)] "
          + "expected; got \(key.shape) and \(value.shape)")
    }
    let counts = counts ?? Array(repeating: keyShape[2], count: batchCount)
    try requireShape(
      counts.count == batchCount && counts.allSatisfy { (0...keyShape[2]).contains($0) }, Self.subject,
      "for each of \(batchCount) samples 0 to \(keyShape[2]) tokens expected; got \(counts)")
    try requireArgument(
      zip(lengths, counts).allSatisfy { $0 + $1 <= Int(Int32.max) }, Self.subject,
      "at most \(Int32.max) tokens expected")
    let needless = (0..<batchCount).map { needlessRows($0, adding: counts[$0]) }
    let stored = zip(storedCounts, needless).map { $0 - $1.count }
    // If memory runs out, no token is added, but rows that no later query reaches may already have been forgotten.
    for (sample, range) in needless.enumerated() where !range.isEmpty {
      try storage.remove(sample: sample, range, end: stored[sample] + range.count)
      forgotten[sample] += range.count
    }
    for sample in 0..<batchCount {
      try storage.prepare(sample: sample, stored[sample]..<stored[sample] + counts[sample])
    }
    for sample in 0..<batchCount {
      var token = 0
      while token < counts[sample] {
        let rows = storage.adjacentRows(sample: sample, from: stored[sample] + token, limit: counts[sample] - token)
        func write(_ source: Tensor<Element>, _ strides: [Int], _ target: UnsafeMutableRawPointer, _ dimension: Int) {
          copyStrided(
            shape: [headCount, rows.count, dimension], elementByteCount: MemoryLayout<Element>.stride,
            from: source.base + (sample * strides[0] + token * strides[2]), strides: Array(strides.dropFirst()),
            to: target, strides: [storage.headRowCount * dimension, dimension, 1])
        }
        write(keys, keyStrides, rows.place.key, headDimension)
        write(values, valueStrides, rows.place.value, valueDimension)
        token += rows.count
      }
      lengths[sample] += counts[sample]
    }
    lastCounts = counts
    lastTokenCount = keyShape[2]
  }

  /// The rows of a sample that the queries of new tokens do not reach, because the window has moved past these rows.
  /// Empty if there is no window, or if `count` new rows fit without removing any.
  private func needlessRows(_ sample: Int, adding count: Int) -> Range<Int> {
    guard case .window(let window, let first) = retention else { return 0..<0 }
    let stored = lengths[sample] - forgotten[sample]
    // Rows are removed only if the sample would have more rows than its kept first tokens and two windows. So if single
    // tokens are appended, rows move once in `window` tokens and not at every token.
    return stored + count <= first + 2 * window ? 0..<0 : first..<max(first, stored - window)
  }

  /// Removes the last tokens of each sample: those from its new length on.
  /// - Parameter newLengths: One length for each sample, at most its present one.
  /// - Throws: `AttentionError` if a length is negative or greater than the present one, or if the window at the new
  ///   length would need tokens that are already forgotten.
  public func truncate(to newLengths: [Int]) throws(AttentionError) {
    try requireShape(
      newLengths.count == batchCount && zip(newLengths, lengths).allSatisfy { (0...$1).contains($0) }, Self.subject,
      "for each of \(batchCount) samples a length up to \(lengths) expected; got \(newLengths)")
    if case .window(let length, let first) = retention {
      for (new, gone) in zip(newLengths, forgotten) where gone > 0 {
        try requireArgument(
          new - length >= first + gone, Self.subject,
          "a window of \(length) cannot go back to \(new) tokens: the first \(first + gone) are forgotten but for \(first)"
        )
      }
    }
    lengths = newLengths
    lastCounts = Array(repeating: 0, count: batchCount)
    lastTokenCount = 0
  }

  /// ``truncate(to:)`` with the same length for every sample.
  public func truncate(to length: Int) throws(AttentionError) {
    try truncate(to: Array(repeating: length, count: batchCount))
  }

  // MARK: Copying

  /// A cache with the same tokens, independent of this one.
  ///
  /// Pages are shared until one of the caches writes to them. A cache without pages is copied.
  /// - Throws: `AttentionError` if memory runs out.
  public func fork() throws -> KeyValueCache { try fork(samples: Array(0..<batchCount)) }

  /// A cache of some of the samples, in the given order. A sample may be named several times: for beam search, or for
  /// several answers to one prompt.
  /// - Throws: `AttentionError` if a sample does not exist or memory runs out.
  public func fork(samples: [Int]) throws -> KeyValueCache {
    try requireArgument(
      samples.allSatisfy(lengths.indices.contains), Self.subject, "samples below \(batchCount) expected; got \(samples)"
    )
    let fork = KeyValueCache(
      copyOf: self, lengths: samples.map { lengths[$0] }, forgotten: samples.map { forgotten[$0] },
      lastCounts: samples.map { lastCounts[$0] }, storage: try storage.fork(samples: samples, counts: storedCounts))
    fork.lastTokenCount = lastTokenCount
    return fork
  }

  // MARK: Reading

  /// The alignment of queries to the stored keys, for masks over ``tensors()``.
  ///
  /// In a call of attention with this cache, you need it only if your mask must name an alignment: the default
  /// alignment of such a call already puts each sample's last query at its last key.
  /// - Parameter queryCount: L, the number of queries. If L is the n of the last `append`, each sample's queries are
  ///   those of the tokens that it took then. For any other L, they are those of its last L tokens.
  /// - Returns: The alignment that puts query 0 of each sample at the key of its own token: `.bottomRight` if that is
  ///   right for every sample, else `.offsets`.
  public func alignment(queryCount: Int) -> AttentionMask.Alignment {
    let queryCount = max(queryCount, 0)
    let offsets = offsets(queryCount: queryCount)
    let keyCount = storedCounts.max() ?? 0
    return offsets.allSatisfy { $0 == keyCount - queryCount } ? .bottomRight : .offsets(offsets)
  }

  private func offsets(queryCount: Int) -> [Int] {
    zip(storedCounts, queryCounts(queryCount)).map { $0 - $1 }
  }

  /// The mask for the queries of the last tokens, over the stored keys. Each query attends to its own token and to the
  /// tokens before it. If there is a window, these are the tokens of the window and the kept first tokens.
  /// - Parameter queryCount: L, the number of queries. If L is the n of the last `append`, each sample's queries are
  ///   those of the tokens that it took then. For any other L, they are those of its last L tokens.
  /// - Returns: The mask that this cache adds to a call of attention.
  public func mask(queryCount: Int) -> AttentionMask {
    let queryCount = max(queryCount, 0)
    let stored = storedCounts
    let keyCount = stored.max() ?? 0
    let counts = queryCounts(queryCount)
    let alignment = alignment(queryCount: queryCount)
    var mask = AttentionMask.none
    if case .window(let length, let first) = retention, keyCount > length {
      mask = .window(left: length - 1, keepingFirst: first, alignment: alignment)
    } else if queryCount > 1 || alignment != .bottomRight {
      mask = .causal(alignment)
    }
    if stored.contains(where: { $0 != keyCount }) { mask = mask.combined(with: .keyLengths(stored)) }
    if counts.contains(where: { $0 != queryCount }) { mask = mask.combined(with: .queryLengths(counts)) }
    return mask
  }

  /// The number of queries of each sample in a call with `queryCount` queries: see ``mask(queryCount:)``.
  private func queryCounts(_ queryCount: Int) -> [Int] {
    lastTokenCount == queryCount ? lastCounts : Array(repeating: queryCount, count: batchCount)
  }

  /// True if the cache keeps a window of at most `length` tokens, and no first tokens before it.
  func hasWindow(within length: Int) -> Bool {
    if case .window(let own, keepingFirst: 0) = retention { return own <= length }
    return false
  }

  /// The keys, the values and the mask of a call with `queryCount` queries. The mask combines the cache's with `other`.
  /// - Throws: `AttentionError` if a sample has more queries than stored tokens, if the window of a query needs tokens
  ///   that are forgotten, or if `other` cannot apply to the stored keys.
  func inputs(
    queryCount: Int, mask other: AttentionMask
  ) throws -> (key: AttentionInput, value: AttentionInput, mask: AttentionMask) {
    let (stored, counts) = (storedCounts, queryCounts(queryCount))
    try requireArgument(
      zip(stored, counts).allSatisfy { $0 >= $1 }, Self.subject,
      "at most as many queries as tokens, \(stored), expected; got \(queryCount)")
    if case .window(let length, let first) = retention {
      for sample in 0..<batchCount where forgotten[sample] > 0 && counts[sample] > lastCounts[sample] {
        try requireArgument(
          stored[sample] - counts[sample] >= first + length - 1, Self.subject,
          "queries whose window of \(length) is still there expected; got \(counts[sample]), more than were appended last"
        )
      }
    }
    let (key, value) = try storage.inputs(keyCount: stored.max() ?? 0)
    var own = mask(queryCount: queryCount)
    // If a mask has documents, `.bottomRight` means the diagonal of each document. So before the cache's mask is
    // combined with such a mask, its `.bottomRight` is replaced by offsets.
    if other.hasDocuments { own = own.replacingBottomRight(by: .offsets(offsets(queryCount: queryCount))) }
    return (key, value, try own.combined(with: placed(other, queryCount: queryCount)))
  }

  /// Translates a mask into one over the stored keys. Positions in the given mask count all tokens of a sample,
  /// including forgotten ones.
  ///
  /// After a window has forgotten tokens, the stored keys are those of the first tokens, directly followed by those of
  /// the last tokens. So the token at position p has key p if it is one of the first, else key p − forgotten.
  private func placed(_ mask: AttentionMask, queryCount: Int) throws -> AttentionMask {
    if !mask.countsPositions { return mask }
    var mask = mask
    let alignment = alignment(queryCount: queryCount)
    if case .window(_, let first) = retention {
      let isAbsolute = mask.rules.contains(where: \.countsFromTheStart)
      let isDistant = !mask.distances.isEmpty || mask.rules.contains(where: \.looksBack)
      try requireArgument(
        !isAbsolute && (first == 0 || !isDistant), Self.subject,
        "a windowed cache\(first == 0 ? "" : " that keeps its first tokens") cannot be combined with prefix, chunk "
          + "\(first == 0 ? "or document masks, or windows that keep first keys" : "and document masks, windows or ALiBi")"
      )
      let hasForgotten = forgotten.contains { $0 > 0 }
      try requireArgument(
        !hasForgotten || mask.alignments.allSatisfy { $0 == .bottomRight || $0 == alignment }, Self.subject,
        "a windowed cache that has forgotten tokens can only be combined with masks of the default alignment or of its own, "
          + "\(alignment); got \(mask.alignments)")
      func keys(_ positions: [Int], _ name: String) throws -> [Int] {
        try requireShape(
          positions.count == batchCount && zip(positions, lengths).allSatisfy { (0...$1).contains($0) }, Self.subject,
          "for each of \(batchCount) samples a \(name) up to its tokens, \(lengths), expected; got \(positions)")
        return zip(positions, forgotten).map { $0 <= first ? $0 : max(first, $0 - $1) }
      }
      mask.leftPaddings = try mask.leftPaddings.map { try keys($0, "left padding") }
      mask.keyLengths = try mask.keyLengths.map { try keys($0, "key length") }
    }
    return alignment == .bottomRight ? mask : mask.replacingBottomRight(by: alignment)
  }

  /// Copies of the stored keys `[B, Hk, S, E]` and values `[B, Hk, S, Ev]`. S is the greatest of ``storedCounts``;
  /// shorter samples end with zeros.
  /// - Throws: `AttentionError` if memory runs out.
  public func tensors() throws -> (key: Tensor<Element>, value: Tensor<Element>) {
    let keyCount = storedCounts.max() ?? 0
    let zero = Element(_nearest: 0)
    let key = try Tensor<Element>(repeating: zero, shape: [batchCount, headCount, keyCount, headDimension])
    let value = try Tensor<Element>(repeating: zero, shape: [batchCount, headCount, keyCount, valueDimension])
    for (sample, count) in storedCounts.enumerated() {
      var row = 0
      while row < count {
        let rows = storage.adjacentRows(sample: sample, from: row, limit: count - row)
        let first = KeyValueRows.Place(
          key: UnsafeMutableRawPointer(key.mutableBase), value: UnsafeMutableRawPointer(value.mutableBase))
        storage.rows.copy(
          rows.count, from: rows.place, headRowCount: storage.headRowCount,
          to: storage.rows.advance(first, by: sample * headCount * keyCount + row), headRowCount: keyCount)
        row += rows.count
      }
    }
    return (key, value)
  }

  /// Gives an empty cache the state that ``tensors()``, ``storedCounts`` and ``lengths`` describe.
  func restore(key: Tensor<Element>, value: Tensor<Element>, stored: [Int], lengths: [Int]) throws {
    try append(key: key, value: value, counts: stored)
    forgotten = zip(lengths, stored).map { $0 - $1 }
    self.lengths = lengths
    lastCounts = Array(repeating: 0, count: batchCount)
    lastTokenCount = 0
  }
}
