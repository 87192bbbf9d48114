/// Queries of one or several heads that share a key/value head, which are computed together.
///
/// Let L be the number of queries of each head in the tile. Row r of the tile is query r mod L of head r div L, counted
/// from the tile's first query and its first head.
struct QueryTile {
  let batch: Int
  let keyValueHead: Int
  let heads: Range<Int>
  let queries: Range<Int>
  /// Queries of the same heads after the end of an element of the batch. They have no rows, and attend to nothing.
  let emptyQueries: Range<Int>

  var rowCount: Int { heads.count * queries.count }
  // Rows of the first head need no division. A division takes measurable time in calls whose heads have 16 queries,
  // because most of their tiles hold only one head.
  func head(ofRow row: Int) -> Int { heads.lowerBound + (row < queries.count ? 0 : row / queries.count) }
  func query(ofRow row: Int) -> Int { queries.lowerBound + (row < queries.count ? row : row % queries.count) }

  /// Calls `body` for each head of some rows. `body` gets those of the rows that belong to the head, the head, and the
  /// query of the first of them.
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

  /// The smallest range that holds the queries of some rows.
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
