internal import AttentionTensors

/// The owner of the memory that some ``KeyIntervals`` point to.
final class KeyIntervalTable: Sendable {
  /// The bounds of each interval set.
  private let sets: [TensorStorage]

  private init(_ sets: [TensorStorage]) { self.sets = sets }

  /// A set of empty intervals.
  private static func emptySet(_ count: Int) throws(AttentionError) -> TensorStorage {
    let storage = try TensorStorage(byteCount: max(1, count) * MemoryLayout<KeyIntervals.Bounds>.stride)
    bounds(storage).initialize(repeating: KeyIntervals.Bounds(), count: count)
    return storage
  }

  private static func bounds(_ set: TensorStorage) -> UnsafeMutablePointer<KeyIntervals.Bounds> {
    set.base.assumingMemoryBound(to: KeyIntervals.Bounds.self)
  }

  private func intervals(ofSet set: Int, batchStride: Int, queryStride: Int) -> KeyIntervals {
    KeyIntervals(Self.bounds(sets[set]), batchStride: batchStride, queryStride: queryStride)
  }

  /// Compiles the disjoint intervals of keys `0 ..< keyCount` that a mask's rules, lengths and paddings leave to each
  /// query.
  ///
  /// The number of sets is the largest number of intervals that a query has, but at least 1. `owner` owns the memory of
  /// all sets; it is nil if the mask has no rules, lengths or paddings.
  static func compile(
    _ mask: AttentionMask, keyCount: Int, shape: AttentionShape
  ) throws(AttentionError) -> (first: KeyIntervals, others: [KeyIntervals], owner: KeyIntervalTable?) {
    let hasRanges = !mask.keyLengths.isEmpty || !mask.leftPaddings.isEmpty
    if !hasRanges && mask.rules.isEmpty && mask.queryLengths.isEmpty { return (KeyIntervals(0..<keyCount), [], nil) }
    try check(mask, keyCount: keyCount, shape: shape)
    func range(_ batch: Int) -> Range<Int> {
      let low = mask.leftPaddings.map { $0[batch] }.max() ?? 0
      let high = mask.keyLengths.map { $0[batch] }.min() ?? keyCount
      return low..<max(low, high)
    }
    if mask.rules.isEmpty && mask.queryLengths.isEmpty {
      let set = try emptySet(shape.batchCount)
      for batch in 0..<shape.batchCount { bounds(set)[batch] = KeyIntervals.Bounds(range(batch)) }
      let table = KeyIntervalTable([set])
      return (table.intervals(ofSet: 0, batchStride: 1, queryStride: 0), [], table)
    }
    let differs = hasRanges || !mask.queryLengths.isEmpty || mask.rules.contains(where: \.differsByBatch)
    let batchCount = differs ? shape.batchCount : min(shape.batchCount, 1)
    var sets = [try emptySet(batchCount * shape.queryCount)]
    let places = QueryPlaces(mask, keyCount: keyCount, shape: shape)
    let isSingle = !mask.rules.contains { if case .keeping = $0 { true } else { false } }
    for batch in 0..<batchCount {
      let whole = hasRanges ? range(batch) : 0..<keyCount
      let queryCount = mask.queryLengths.reduce(shape.queryCount) { min($0, $1[batch]) }
      for query in 0..<queryCount {
        let place = batch * shape.queryCount + query
        if isSingle {
          bounds(sets[0])[place] = KeyIntervals.Bounds(
            mask.rules.reduce(whole) {
              intersection($0, $1.interval(batch: batch, query: query, keyCount: keyCount, places))
            })
          continue
        }
        let intervals = mask.rules.reduce([whole]) { old, rule in
          let more = rule.intervals(batch: batch, query: query, keyCount: keyCount, places)
          return joined(old.flatMap { a in more.map { intersection(a, $0) } })
        }
        // The order is reversed, so that set 0 holds each query's last interval, which is the nearest to the query.
        // Every query that attends to some key has an interval in set 0.
        for (set, interval) in intervals.reversed().enumerated() {
          if set == sets.count { sets.append(try emptySet(batchCount * shape.queryCount)) }
          bounds(sets[set])[place] = KeyIntervals.Bounds(interval)
        }
      }
    }
    let table = KeyIntervalTable(sets)
    let all = sets.indices.map {
      table.intervals(ofSet: $0, batchStride: batchCount == 1 ? 0 : shape.queryCount, queryStride: 1)
    }
    return (all[0], Array(all.dropFirst()), table)
  }

  private static func intersection(_ a: Range<Int>, _ b: Range<Int>) -> Range<Int> {
    let low = max(a.lowerBound, b.lowerBound)
    let high = min(a.upperBound, b.upperBound)
    return low < high ? low..<high : 0..<0
  }

  /// Returns the intervals in order, without empty ones. Intervals that overlap or touch become one.
  private static func joined(_ intervals: [Range<Int>]) -> [Range<Int>] {
    var result: [Range<Int>] = []
    for interval in intervals.filter({ !$0.isEmpty }).sorted(by: { $0.lowerBound < $1.lowerBound }) {
      if let last = result.last, interval.lowerBound <= last.upperBound {
        result[result.count - 1] = last.lowerBound..<max(last.upperBound, interval.upperBound)
      } else {
        result.append(interval)
      }
    }
    return result
  }

  private static func check(
    _ mask: AttentionMask, keyCount: Int, shape: AttentionShape
  ) throws(AttentionError) {
    func check(_ name: String, _ counts: [Int], _ limit: Int, _ what: String) throws(AttentionError) {
      try requireShape(
        counts.count == shape.batchCount, AttentionShape.subject,
        "one \(name) for each of \(shape.batchCount) elements of the batch expected; got \(counts.count)")
      try requireArgument(
        counts.allSatisfy { (0...limit).contains($0) }, AttentionShape.subject,
        "a \(name) from 0 to the \(limit) \(what) expected; got \(counts)")
    }
    for lengths in mask.keyLengths { try check("key length", lengths, keyCount, "keys") }
    for counts in mask.leftPaddings { try check("left padding", counts, keyCount, "keys") }
    for lengths in mask.queryLengths { try check("query length", lengths, shape.queryCount, "queries") }
    for rule in mask.rules {
      if let alignment = rule.alignment { try alignment.check(shape) }
      switch rule {
      case .band(_, let left, let right):
        try requireArgument(
          (left ?? 0) >= 0 && (right ?? 0) >= 0, AttentionShape.subject,
          "window bounds must not be negative; got \(left ?? 0), \(right ?? 0)")
      case .keeping(let first, _, let left):
        try requireArgument(
          left >= 0 && first >= 0, AttentionShape.subject,
          "a window's bound and the keys that it keeps must not be negative; got \(left), \(first)")
      case .prefix(let lengths, _): try check("prefix", lengths, keyCount, "keys")
      case .chunks(let length, _):
        try requireArgument(
          length > 0, AttentionShape.subject, "chunks of a length from 1 expected; got \(length)")
      case .documents(let queries, let keys, let left, let right):
        try requireArgument(
          (left ?? 0) >= 0 && (right ?? 0) >= 0, AttentionShape.subject,
          "window bounds must not be negative; got \(left ?? 0), \(right ?? 0)")
        try requireShape(
          queries.count == keys.count, AttentionShape.subject,
          "as many documents of queries as of keys expected; got offsets \(queries) and \(keys)")
        for (offsets, limit, what) in [(queries, shape.queryCount, "queries"), (keys, keyCount, "keys")] {
          try requireArgument(
            offsets.first == 0 && zip(offsets, offsets.dropFirst()).allSatisfy { $0 <= $1 } && offsets.last! <= limit,
            AttentionShape.subject,
            "offsets of documents that rise from 0 to at most the \(limit) \(what) expected; got \(offsets)")
        }
      }
    }
  }
}

extension AttentionMask.Alignment {
  func check(_ shape: AttentionShape) throws(AttentionError) {
    guard case .offsets(let offsets) = self else { return }
    try requireShape(
      offsets.count == shape.batchCount, AttentionShape.subject,
      "one offset of the diagonal for each of \(shape.batchCount) elements of the batch expected; got \(offsets.count)")
    try requireArgument(
      offsets.allSatisfy { (-Int(Int32.max)...Int(Int32.max)).contains($0) }, AttentionShape.subject,
      "offsets of the diagonal up to ±\(Int32.max) expected; got \(offsets)")
  }

  var differsByBatch: Bool { if case .offsets = self { true } else { false } }
}

extension AttentionMask.Rule {
  var alignment: AttentionMask.Alignment? {
    switch self {
    case .band(let alignment, _, _), .keeping(_, let alignment, _), .prefix(_, let alignment),
      .chunks(_, let alignment):
      alignment
    case .documents: nil
    }
  }

  /// The same rule along another diagonal. Documents keep their own diagonals.
  func aligned(_ alignment: AttentionMask.Alignment) -> AttentionMask.Rule {
    switch self {
    case .band(_, let left, let right): .band(alignment, left: left, right: right)
    case .keeping(let first, _, let left): .keeping(first: first, alignment, left: left)
    case .prefix(let lengths, _): .prefix(lengths, alignment)
    case .chunks(let length, _): .chunks(length: length, alignment)
    case .documents: self
    }
  }

  /// True if the rule depends on where keys stand in their sequence, and not only on how far they are from the query.
  var countsFromTheStart: Bool {
    switch self {
    case .prefix, .chunks, .documents: true
    case .keeping(let first, _, _): first > 0
    case .band: false
    }
  }

  /// True if keys of this rule begin at a distance before the diagonal. False for documents, even with a bound on the left.
  var looksBack: Bool {
    switch self {
    case .band(_, let left, _): left != nil
    case .keeping: true
    case .prefix, .chunks, .documents: false
    }
  }

  var differsByBatch: Bool {
    if case .prefix = self { return true }
    return alignment?.differsByBatch ?? false
  }

  /// The keys that this rule leaves to one query: one interval, the last one if there are two.
  fileprivate func interval(batch: Int, query: Int, keyCount: Int, _ places: QueryPlaces) -> Range<Int> {
    // A bound of 2^34 is beyond every key, because the diagonal lies within ±2^33. Greater bounds are cut to it, so that
    // sums do not overflow.
    func band(_ diagonal: Int, _ left: Int?, _ right: Int?, in keys: Range<Int>) -> Range<Int> {
      let low = left.map { max(keys.lowerBound, diagonal - min($0, 1 << 34)) } ?? keys.lowerBound
      let high = right.map { min(keys.upperBound, diagonal + min($0, 1 << 34) + 1) } ?? keys.upperBound
      return low < high ? low..<high : 0..<0
    }
    func diagonal(_ alignment: AttentionMask.Alignment) -> Int {
      places.key(ofQuery: query, batch: batch, alignment)
    }
    switch self {
    case .band(let alignment, let left, let right):
      return band(diagonal(alignment), left, right, in: 0..<keyCount)
    case .keeping(_, let alignment, let left):
      return band(diagonal(alignment), left, nil, in: 0..<keyCount)
    case .prefix(let lengths, let alignment):
      return 0..<min(keyCount, max(lengths[batch], diagonal(alignment) + 1))
    case .chunks(let length, let alignment):
      let first = places.firstKey(ofQuery: query, batch: batch)
      let at = diagonal(alignment) - first
      // The division rounds down, also for negative numbers.
      let length = min(length, 1 << 33)
      let low = first + (at / length - (at % length < 0 ? 1 : 0)) * length
      let high = min(low + length, keyCount)
      return max(low, 0) < high ? max(low, 0)..<high : 0..<0
    case .documents(let queries, let keys, let left, let right):
      guard let own = QueryPlaces.document(at: query, queries) else { return 0..<0 }
      return band(query - queries[own + 1] + keys[own + 1], left, right, in: keys[own]..<keys[own + 1])
    }
  }

  fileprivate func intervals(batch: Int, query: Int, keyCount: Int, _ places: QueryPlaces) -> [Range<Int>] {
    let last = interval(batch: batch, query: query, keyCount: keyCount, places)
    if case .keeping(let first, _, _) = self { return [0..<min(first, keyCount), last] }
    return [last]
  }
}
