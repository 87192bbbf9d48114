/// Some scores of one call, to be changed by ``AttentionMask/scores(_:_:)``: queries of some heads by some keys.
///
/// Neither copyable nor constructible outside: it ends with the function that it is given to.
public struct AttentionScoreTile<Element: AttentionElement>: ~Copyable {
  /// Where a score stands.
  public struct Position {
    /// The element of the batch.
    public let batch: Int
    /// The query's head.
    public let head: Int
    /// i.
    public let query: Int
    /// j.
    public let key: Int

    @usableFromInline
    init(batch: Int, head: Int, query: Int, key: Int) {
      self.batch = batch
      self.head = head
      self.query = query
      self.key = key
    }
  }

  /// The element of the batch.
  public let batch: Int
  /// The keys j of this tile.
  public let keys: Range<Int>
  /// Queries in this tile, of one head or several.
  public let rowCount: Int
  @usableFromInline let scores: UnsafeMutablePointer<Element>
  @usableFromInline let rowStride: Int
  @usableFromInline let keyStride: Int
  @usableFromInline let heads: UnsafePointer<Int32>
  @usableFromInline let queries: UnsafePointer<Int32>

  init(
    batch: Int, keys: Range<Int>, rowCount: Int, scores: UnsafeMutablePointer<Element>, rowStride: Int, keyStride: Int,
    heads: UnsafePointer<Int32>, queries: UnsafePointer<Int32>
  ) {
    self.batch = batch
    self.keys = keys
    self.rowCount = rowCount
    self.scores = scores
    self.rowStride = rowStride
    self.keyStride = keyStride
    self.heads = heads
    self.queries = queries
  }

  /// Where the score of a row, below ``rowCount``, for key j stands. Traps outside, as Array does.
  @inlinable
  public func position(row: Int, key: Int) -> Position {
    _ = offset(row, key)
    return Position(batch: batch, head: Int(heads[row]), query: Int(queries[row]), key: key)
  }

  /// The score of a row for key j. Traps outside, as Array does.
  @inlinable
  public subscript(row: Int, key: Int) -> Element {
    get { scores[offset(row, key)] }
    set { scores[offset(row, key)] = newValue }
  }

  @inlinable
  func offset(_ row: Int, _ key: Int) -> Int {
    precondition(row >= 0 && row < rowCount && keys.contains(key), "row \(row), key \(key) is outside of the tile")
    return row * rowStride + (key - keys.lowerBound) * keyStride
  }

  /// Replaces every score by `body` of it and its position: what flex_attention's `score_mod` says.
  @inlinable
  public mutating func update(_ body: (_ score: Element, _ at: Position) -> Element) {
    if rowStride == 1 {
      for key in 0..<keys.count {
        let line = scores + key * keyStride
        for row in 0..<rowCount {
          let at = Position(
            batch: batch, head: Int(heads[row]), query: Int(queries[row]), key: keys.lowerBound + key)
          line[row] = body(line[row], at)
        }
      }
    } else {
      for row in 0..<rowCount {
        let line = scores + row * rowStride
        let (head, query) = (Int(heads[row]), Int(queries[row]))
        for key in 0..<keys.count {
          let at = Position(batch: batch, head: head, query: query, key: keys.lowerBound + key)
          line[key * keyStride] = body(line[key * keyStride], at)
        }
      }
    }
  }
}

/// What ``AttentionMask/scores(_:_:)`` is given, kept until the element type of the call is known.
struct AttentionScoreFunction<Element: AttentionElement>: Sendable {
  let body: @Sendable (inout AttentionScoreTile<Element>) -> Void
}
