internal import AttentionTensors

/// A mask compiled for one call: the intervals of keys of every query, and the terms that apply to scores within them.
struct MaskSchedule<Element: AttentionElement> {
  /// The set that holds the last interval of every query. A query without an interval in it attends only to the keys
  /// that a layer adds at the end, if there are any.
  let firstSet: IntervalSet
  let otherSets: [IntervalSet]
  let sequences: SequencePlaces
  /// The terms that apply to scores within intervals. Nil if there are none: then a query attends to every key of its
  /// interval.
  let terms: MaskTerms<Element>?
  /// Keeps the memory of intervals alive.
  private let intervals: KeyIntervalTable?
  /// True if intervals may differ from one query to the next.
  let isRagged: Bool

  init(_ mask: AttentionMask, shape: AttentionShape) throws(AttentionError) {
    let maskedKeyCount = shape.keyCount - mask.trailingKeyCount
    assert(maskedKeyCount >= 0)
    let compiled = try KeyIntervalTable.compile(mask, keyCount: maskedKeyCount, shape: shape)
    firstSet = IntervalSet(intervals: compiled.first, isMasked: true)
    var otherSets = compiled.others.map { IntervalSet(intervals: $0, isMasked: true) }
    if maskedKeyCount < shape.keyCount {
      otherSets.append(IntervalSet(intervals: KeyIntervals(maskedKeyCount..<shape.keyCount), isMasked: false))
    }
    self.otherSets = otherSets
    sequences = SequencePlaces(mask, keyCount: maskedKeyCount, shape: shape)
    intervals = compiled.owner
    isRagged = compiled.first.isRagged
    terms = try MaskTerms.compiled(mask, keyCount: maskedKeyCount, shape: shape)
  }

  /// True if the terms may forbid a key that lies in a query's interval.
  var hidesWithinIntervals: Bool { terms?.isHiding ?? false }

  /// True if elements of the batch have intervals of their own.
  var differsByBatch: Bool { firstSet.intervals.differsByBatch }

  /// True if some query's intervals may leave keys out.
  var isStructured: Bool { firstSet.intervals.isStructured }

  /// How many queries an element of the batch has. The call's queries after these attend to nothing.
  func queryCount(batch: Int, of shape: AttentionShape) -> Int {
    sequences.queryCount(batch: batch) ?? shape.queryCount
  }

  /// True if a tile can hold a key to which some query of the tile may not attend. Intervals that are the same for all
  /// queries hide nothing within a tile, because keys outside every interval of a tile's queries are not in the tile.
  var isHiding: Bool { isRagged || hidesWithinIntervals }

  func forEachSet(_ body: (IntervalSet) -> Void) {
    body(firstSet)
    for set in otherSets { body(set) }
  }

  /// How many keys the queries of a tile need: in each set the length of the union of their intervals, summed over the
  /// sets.
  func unionCount(batch: Int, queries: Range<Int>) -> Int {
    var count = 0
    forEachSet { count += $0.intervals.union(batch: batch, queries: queries).count }
    return count
  }

  /// A range that holds all keys to which some queries may attend.
  func reach(batch: Int, queries: Range<Int>) -> Range<Int> {
    var (low, high) = (Int.max, 0)
    forEachSet { set in
      let union = set.intervals.union(batch: batch, queries: queries)
      if union.isEmpty { return }
      low = min(low, union.lowerBound)
      high = max(high, union.upperBound)
    }
    return low < high ? low..<high : 0..<0
  }

  /// Returns true if a query may attend to a key. Functions of scores count as if they forbade nothing. This is slow,
  /// so the passes use intervals instead.
  func attends(batch: Int, head: Int, query: Int, key: Int) -> Bool {
    func has(_ set: IntervalSet) -> Bool { set.intervals[batch, query].contains(key) }
    if !has(firstSet) {
      guard let set = otherSets.first(where: has) else { return false }
      if !set.isMasked { return true }
    }
    return terms?.allows(batch: batch, head: head, query: query, key: key) ?? true
  }
}
