/// Queries of one or several heads that share a key/value head: what a task computes.
///
/// Row r is query r mod L of head r div L, L being the number of queries of each head.
struct QueryTile {
  let batch: Int
  let keyValueHead: Int
  let heads: Range<Int>
  let queries: Range<Int>
  /// Queries of the same heads after an element of the batch has ended: they are no rows, and attend to nothing.
  let emptyQueries: Range<Int>

  var rowCount: Int { heads.count * queries.count }
  // Division is slow enough to be seen in heads of 16 queries, which mostly have a tile to themselves.
  func head(ofRow row: Int) -> Int { heads.lowerBound + (row < queries.count ? 0 : row / queries.count) }
  func query(ofRow row: Int) -> Int { queries.lowerBound + (row < queries.count ? row : row % queries.count) }

  /// Calls `body` for some rows, those of each head together, with the head and the first query.
  func forEachHead(_ rows: Range<Int>, _ body: (_ rows: Range<Int>, _ head: Int, _ query: Int) -> Void) {
    if rows.isEmpty { return }
    var head = head(ofRow: rows.lowerBound)
    var query = query(ofRow: rows.lowerBound)
    var row = rows.lowerBound
    while row < rows.upperBound {
      let end = min(row + queries.upperBound - query, rows.upperBound)
      body(row..<end, head, query)
      row = end
      query = queries.lowerBound
      head += 1
    }
  }

  /// Calls `body` for some rows with their head and query.
  func forEachRow(_ rows: Range<Int>, _ body: (_ row: Int, _ head: Int, _ query: Int) -> Void) {
    forEachHead(rows) { rows, head, query in
      for row in rows { body(row, head, query + row - rows.lowerBound) }
    }
  }

  /// The least range of queries that holds those of some rows.
  func queries(ofRows rows: Range<Int>) -> Range<Int> {
    let last = rows.upperBound - 1
    if head(ofRow: rows.lowerBound) != head(ofRow: last) { return queries }
    return query(ofRow: rows.lowerBound)..<query(ofRow: last) + 1
  }

  /// The heads of some rows.
  func heads(ofRows rows: Range<Int>) -> Range<Int> {
    head(ofRow: rows.lowerBound)..<head(ofRow: rows.upperBound - 1) + 1
  }
}
