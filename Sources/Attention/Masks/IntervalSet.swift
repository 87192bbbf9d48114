/// One interval of keys for each query.
///
/// A mask that leaves some query several intervals has as many sets; no query has a key in two of them.
struct IntervalSet {
  let intervals: KeyIntervals
  /// False for keys that every query attends to, whatever the rest of the mask says.
  let isMasked: Bool
}
