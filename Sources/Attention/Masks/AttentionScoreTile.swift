/// Some scores of one call: queries of some heads by some keys. The function that is given to
/// ``AttentionMask/scores(_:_:derivative:)`` changes them.
///
/// A tile can be neither copied nor made by callers, so it does not outlive the function that it is given to.
public struct AttentionScoreTile<Element: AttentionElement>: ~Copyable {
  /// The position of a score.
  public struct Position {
    /// The element of the batch.
    public let batch: Int
    /// The query's head.
    public let head: Int
    /// The query i.
    public let query: Int
    /// The key j.
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
  /// The number of rows. A row holds the scores of one query of one head.
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

  /// The position of the score of a row for key j. Traps if the row or the key is outside the tile, as Array does.
  @inlinable
  public func position(row: Int, key: Int) -> Position {
    _ = offset(row, key)
    return Position(batch: batch, head: Int(heads[row]), query: Int(queries[row]), key: key)
  }

  /// The score of a row for key j. Traps if the row or the key is outside the tile, as Array does.
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

  /// Replaces every score by the result of `body` for the score and its position, as flex_attention's `score_mod` does.
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

/// The function given to ``AttentionMask/scores(_:_:derivative:)``, kept until the element type of the call is known.
struct AttentionScoreFunction<Element: AttentionElement>: Sendable {
  let body: @Sendable (inout AttentionScoreTile<Element>) -> Void
  /// Replaces the gradient of the function's results by the gradient of the scores, and adds to the gradients of the
  /// function's parameters; nil: the function has no derivative.
  let derivative: AttentionMask.ScoreDerivative<Element>?
  /// The number of parameters whose gradients ``derivative`` adds to.
  let parameterCount: Int
}
