/// One interval of keys for each query.
///
/// If a mask leaves a query several intervals of keys, each interval is in a set of its own: set 0 holds the last interval of every
/// query. No key of a query is in two sets.
struct IntervalSet {
  let intervals: KeyIntervals
  /// False for keys that every query attends to, whatever the rest of the mask says.
  let isMasked: Bool
}
