/// Some keys of one interval set, which are read together.
struct KeyTile {
  let keys: Range<Int>
  let set: IntervalSet
  /// Where the first key stands in its sequence.
  let firstIndex: Int
  /// The key at which a split begins, if this tile is the first one of that split. It is nil for other tiles. It is
  /// also nil for the first split of a sequence, because no row has keys both in that split and before it. The keys
  /// that a layer adds at the end begin a split of their own.
  let splitStart: Int?

  /// A tile of only some of the keys of this tile.
  func slice(_ keys: Range<Int>) -> KeyTile {
    KeyTile(
      keys: keys, set: set, firstIndex: firstIndex + keys.lowerBound - self.keys.lowerBound, splitStart: splitStart)
  }
}

extension AttentionCall {
  /// Calls `body` for every tile of the keys in `range` that the mask leaves to some query of `tile`.
  ///
  /// Each tile lies in one interval set, and its keys lie in memory row after row. Tiles and splits end at multiples of
  /// their lengths, counted from the first key of their sequence. A tile ends earlier where its sequence, its page of a
  /// cache, or the keys of its set end. So the keys of a row that are in one tile depend neither on other rows nor on
  /// what else is in the batch.
  ///
  /// Tiles come in the order of the keys. Where several sets have tiles in the same range of keys, the tiles come in
  /// the order of the sets, ``MaskSchedule/firstSet`` first.
  @inline(__always)
  func forEachKeyTile(_ tile: QueryTile, in range: Range<Int>, _ body: (KeyTile) -> Void) {
    func union(_ set: IntervalSet) -> Range<Int> {
      set.intervals.union(batch: tile.batch, queries: tile.queries).clamped(to: range)
    }
    let first = union(schedule.firstSet)
    var position = range.lowerBound
    var (lastSequence, lastSplit) = (0, 0)
    while true {
      var low = Int.max
      func find(_ union: Range<Int>) {
        if union.upperBound > position && !union.isEmpty { low = min(low, max(union.lowerBound, position)) }
      }
      find(first)
      for set in schedule.otherSets { find(union(set)) }
      if low == .max { return }
      let sequence = schedule.sequences.sequence(ofKey: low, batch: tile.batch)
      let index = low - sequence.lowerBound
      // The first tile needs no division. A division takes measurable time in calls whose heads have few queries.
      let keyTile = index < plan.keyTileLength ? 0 : index / plan.keyTileLength
      var end = min(sequence.upperBound, sequence.lowerBound + (keyTile + 1) * plan.keyTileLength)
      end = value.endOfAdjacentRows(from: low, limit: key.endOfAdjacentRows(from: low, limit: end))
      let split = index < plan.splitLength ? 0 : index / plan.splitLength
      let beginsSplit =
        (split > 0 || schedule.sequences.isTrailing(low)) && (sequence.lowerBound, split) != (lastSequence, lastSplit)
      var splitStart = beginsSplit ? low : nil
      (lastSequence, lastSplit) = (sequence.lowerBound, split)
      func visit(_ set: IntervalSet, _ union: Range<Int>) {
        let keys = union.clamped(to: low..<end)
        if keys.isEmpty { return }
        body(
          KeyTile(keys: keys, set: set, firstIndex: keys.lowerBound - sequence.lowerBound, splitStart: splitStart))
        splitStart = nil
      }
      visit(schedule.firstSet, first)
      for set in schedule.otherSets { visit(set, union(set)) }
      position = end
    }
  }
}

extension MaskSchedule {
  /// The numbers of the first and the last split that hold keys of some queries, and the key from which splits are
  /// counted. Keys that a layer adds at the end are left out. Nil if the queries have no other keys.
  private func splits(batch: Int, queries: Range<Int>, length: Int) -> (first: Int, last: Int, origin: Int)? {
    var (low, high) = (Int.max, 0)
    forEachSet { set in
      let union = set.intervals.union(batch: batch, queries: queries)
      if !set.isMasked || union.isEmpty { return }
      (low, high) = (min(low, union.lowerBound), max(high, union.upperBound))
    }
    if low >= high { return nil }
    let origin = sequences.sequence(ofKey: low, batch: batch).lowerBound
    return ((low - origin) / length, (high - 1 - origin) / length, origin)
  }

  /// The number of splits from the first to the last one that holds keys of the given queries. The keys that a layer
  /// adds at the end count as one more split. The number is right only if the mask has no documents.
  func splitCount(batch: Int, queries: Range<Int>, length: Int) -> Int {
    let own = splits(batch: batch, queries: queries, length: length).map { $0.last - $0.first + 1 } ?? 0
    return own + (sequences.trailing.isEmpty ? 0 : 1)
  }

  /// The keys of one of the splits that ``splitCount(batch:queries:length:)`` counts.
  func split(_ index: Int, batch: Int, queries: Range<Int>, length: Int) -> Range<Int> {
    guard let own = splits(batch: batch, queries: queries, length: length) else {
      return index == 0 ? sequences.trailing : 0..<0
    }
    let number = own.first + index
    if number > own.last { return number == own.last + 1 ? sequences.trailing : 0..<0 }
    let low = own.origin + number * length
    return low..<min(low + length, max(low, sequences.trailing.lowerBound))
  }
}
