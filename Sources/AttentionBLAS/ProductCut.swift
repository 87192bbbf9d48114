/// How a batch of equal products is cut into tasks for threads.
///
/// The cut follows from shapes alone, so a product has the same bits whatever the number of threads.
package struct ProductCut {
  /// One part of one product.
  package struct Block {
    package let product: Int
    package let rows: Range<Int>
    package let columns: Range<Int>
  }

  private let rowCount: Int
  private let columnCount: Int
  private let productCount: Int
  private let rowParts: Int
  private let columnParts: Int
  /// Rows and columns of a part: multiples of a unit, so that none but the last has a ragged edge.
  private let rowPartLength: Int
  private let columnPartLength: Int
  private let blocksPerTask: Int
  private let work: Double

  // Ratios of times below: 2 threads of an EPYC of family 26, OpenBLAS 0.3.21, whose every part packs both operands;
  // those of this package pack B alone. 2026-11.

  /// A product is halved along its longer side while both halves keep this much work and this length, for
  /// each part packs its operands anew. 2e8 took 1.13 of the time in a layer of B8 L128 d384, 0.99 at L512 d768,
  /// and 1.01 at 2048³.
  private static let leastWork = 2e7
  private static let leastExtent = 256
  private static let mostParts = 8
  /// Where parts of rows each pack the columns anew, rows are cut only if they are this many times as long.
  private static let packedTallness = 4
  /// Tasks of less work than this, some 10 µs, are joined, for handing out a task costs too.
  package static let leastTaskWork = 1e6
  /// What one product costs whatever its size, some 0.2 µs, in operations.
  private static let callWork = 2e4
  /// Operations below which a second thread is not woken, here and in attention. Not sharing 1.7e7 (attention, H4
  /// L128 E64) took 1.75 of the time beside a busy team; but a sleeping one takes 29 µs to come, in which one
  /// thread does 4e6.
  package static let leastSharedWork = 1.6e7

  /// `panelWidth`: columns that are packed together, for every part of the rows anew; 1 where that is not told.
  package init(rowCount: Int, columnCount: Int, depth: Int, productCount: Int, panelWidth: Int = 1) {
    var rows = 1
    var columns = 1
    let product = 2 * Double(rowCount) * Double(columnCount) * Double(depth)
    while rows * columns < Self.mostParts, product / Double(rows * columns) >= 2 * Self.leastWork {
      let isTall = rowCount / rows >= (panelWidth > 1 ? Self.packedTallness : 1) * (columnCount / columns)
      if max(rowCount / rows, columnCount / columns) < 2 * Self.leastExtent { break }
      if isTall || columnCount / columns < 2 * Self.leastExtent { rows *= 2 } else { columns *= 2 }
    }
    let blockCount = productCount * rows * columns
    let blockWork = product / Double(rows * columns) + Self.callWork
    self.rowCount = rowCount
    self.columnCount = columnCount
    self.productCount = productCount
    rowParts = rows
    columnParts = columns
    func length(_ extent: Int, _ parts: Int, unit: Int) -> Int {
      ((extent + parts - 1) / parts + unit - 1) / unit * unit
    }
    rowPartLength = length(rowCount, rows, unit: 16)
    columnPartLength = length(columnCount, columns, unit: max(panelWidth, 16))
    work = blockWork * Double(blockCount)
    blocksPerTask = max(1, min(blockCount / 16, Int(Self.leastTaskWork / blockWork)))
  }

  package var taskCount: Int { (productCount * rowParts * columnParts + blocksPerTask - 1) / blocksPerTask }

  package func workerCount(threadCount: Int) -> Int { work < Self.leastSharedWork ? 1 : min(threadCount, taskCount) }

  package func blocks(ofTask task: Int) -> some Sequence<Block> {
    let parts = rowParts * columnParts
    let range = task * blocksPerTask..<min((task + 1) * blocksPerTask, productCount * parts)
    return range.lazy.map { index in
      // Small products, which are not cut, would pay for the divisions.
      if parts == 1 { return Block(product: index, rows: 0..<rowCount, columns: 0..<columnCount) }
      let (product, part) = index.quotientAndRemainder(dividingBy: parts)
      let (row, column) = part.quotientAndRemainder(dividingBy: columnParts)
      return Block(
        product: product, rows: Self.part(row, rowPartLength, rowCount),
        columns: Self.part(column, columnPartLength, columnCount))
    }
  }

  private static func part(_ index: Int, _ length: Int, _ extent: Int) -> Range<Int> {
    min(index * length, extent)..<min((index + 1) * length, extent)
  }
}
