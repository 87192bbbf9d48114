internal import AttentionTensors

/// An interval of keys for each element of the batch and each query.
///
/// It is copied for every tile, so it holds no reference: a ``KeyIntervalTable`` owns the memory that it points to.
struct KeyIntervals {
  struct Bounds {
    var low: Int32 = 0
    var high: Int32 = 0

    init() {}

    init(_ keys: Range<Int>) {
      low = Int32(keys.lowerBound)
      high = Int32(keys.upperBound)
    }
  }

  /// The bounds of every interval. Nil if every query has the interval `whole`.
  private let bounds: UnsafePointer<Bounds>?
  private let whole: Range<Int>
  private let batchStride: Int
  /// The number of bounds from one query to the next: 1, or 0 if all queries of an element of the batch are alike.
  private let queryStride: Int

  /// An interval that is the same for every query.
  init(_ keys: Range<Int>) {
    bounds = nil
    whole = keys
    batchStride = 0
    queryStride = 0
  }

  init(_ bounds: UnsafePointer<Bounds>, batchStride: Int, queryStride: Int) {
    self.bounds = bounds
    whole = 0..<0
    self.batchStride = batchStride
    self.queryStride = queryStride
  }

  /// True if intervals may differ from one query to the next.
  var isRagged: Bool { queryStride != 0 }

  /// True if intervals may differ from one element of the batch to the next.
  var differsByBatch: Bool { batchStride != 0 }

  /// False if every query has the interval `whole`. True if each interval is read from `bounds` and can leave keys out.
  var isStructured: Bool { bounds != nil }

  subscript(batch: Int, query: Int) -> Range<Int> {
    guard let bounds else { return whole }
    let own = bounds[batch * batchStride + query * queryStride]
    return Range(uncheckedBounds: (Int(own.low), Int(own.high)))
  }

  /// The smallest interval that holds the intervals of some queries.
  func union(batch: Int, queries: Range<Int>) -> Range<Int> {
    guard let bounds, isRagged else { return self[batch, queries.lowerBound] }
    var (low, high) = (Int32.max, Int32(0))
    for query in queries {
      let own = bounds[batch * batchStride + query]
      if own.low >= own.high { continue }
      low = min(low, own.low)
      high = max(high, own.high)
    }
    return low < high ? Int(low)..<Int(high) : 0..<0
  }

  /// The keys that lie in the intervals of all of some queries.
  func common(batch: Int, queries: Range<Int>) -> Range<Int> {
    guard let bounds, isRagged else { return self[batch, queries.lowerBound] }
    var (low, high) = (Int32(0), Int32.max)
    for query in queries {
      let own = bounds[batch * batchStride + query]
      low = max(low, own.low)
      high = min(high, own.high)
    }
    return low < high ? Int(low)..<Int(high) : 0..<0
  }
}
