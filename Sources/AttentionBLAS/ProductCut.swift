internal import AttentionTensors

/// How a batch of products of one shape is cut into tasks for threads.
///
/// The cut depends only on shapes, so a product has the same bits with any number of threads.
package struct ProductCut {
  /// One block of rows and columns of one product.
  package struct Block {
    package let product: Int
    package let rows: Range<Int>
    package let columns: Range<Int>
  }

  private let rowCount: Int
  private let columnCount: Int
  private let productCount: Int
  private let rowBlockCount: Int
  private let columnBlockCount: Int
  /// The number of rows and the number of columns of a block. Each is a multiple of 16 or, for columns, of the panel
  /// width if that is greater, so that only the last block has a ragged edge.
  private let rowBlockLength: Int
  private let columnBlockLength: Int
  private let blocksPerTask: Int
  private let work: Double

  // The times below are of 2 threads of an EPYC of family 26 with OpenBLAS 0.3.21, 2026-11. OpenBLAS packs both
  // operands for every block; this package's products pack B, and rows of A only if its columns lie far apart.

  /// A product is halved, usually along its longer side, as long as both halves keep at least `leastWork` operations
  /// and `leastExtent` rows or columns. Smaller blocks do not pay, because each block packs its operands again. With a
  /// `leastWork` of 2e8, a layer of 8 sequences of 128 tokens and dimension 384 took 13 % more time, one of 512 tokens
  /// and dimension 768 took 1 % less, and a product of 2048³ took 1 % more.
  private static let leastWork = 2e7
  private static let leastExtent = 256
  private static let mostBlocks = 8
  private static let wantedBlocks = 4
  /// If each block of rows packs the columns again, rows are cut only if there are at least this many times as many
  /// rows as columns, or if the columns are too few to be cut.
  private static let packedTallness = 4
  /// Blocks of fewer operations than this, which take about 10 µs, are joined into larger tasks, because handing out a
  /// task also costs time.
  package static let leastTaskWork = 1e6
  /// The fixed cost of one product, about 0.2 µs, as a number of operations.
  private static let callWork = 2e4
  /// With fewer operations than this, only one thread works, here and in attention. Attention of 1.7e7 operations (4
  /// heads, 128 queries and keys, E 64) took 75 % more time on one thread than on a team whose threads were already
  /// awake. But a sleeping team takes 29 µs to wake up, and in that time one thread does 4e6 operations.
  package static let leastSharedWork = 1.6e7

  /// `panelWidth` is the number of columns that are packed together, and packed again for each block of rows. It is 1
  /// if the number is unknown, as with OpenBLAS.
  package init(rowCount: Int, columnCount: Int, depth: Int, productCount: Int, panelWidth: Int = 1) {
    var rows = 1
    var columns = 1
    let product = 2 * Double(rowCount) * Double(columnCount) * Double(depth)
    while rows * columns < Self.mostBlocks, product / Double(rows * columns) >= 2 * Self.leastWork {
      let isTall = rowCount / rows >= (panelWidth > 1 ? Self.packedTallness : 1) * (columnCount / columns)
      // A product that is still in one or two blocks may be cut into blocks of half the least length, so that more
      // threads take part.
      let extent = rows * columns < Self.wantedBlocks ? Self.leastExtent / 2 : Self.leastExtent
      if max(rowCount / rows, columnCount / columns) < 2 * extent { break }
      if isTall || columnCount / columns < 2 * extent { rows *= 2 } else { columns *= 2 }
    }
    let blockCount = productCount * rows * columns
    let blockWork = product / Double(rows * columns) + Self.callWork
    self.rowCount = rowCount
    self.columnCount = columnCount
    self.productCount = productCount
    rowBlockCount = rows
    columnBlockCount = columns
    func length(_ extent: Int, _ count: Int, unit: Int) -> Int {
      extent.dividedRoundingUp(by: count).roundedUp(toMultipleOf: unit)
    }
    rowBlockLength = length(rowCount, rows, unit: 16)
    columnBlockLength = length(columnCount, columns, unit: max(panelWidth, 16))
    work = blockWork * Double(blockCount)
    blocksPerTask = max(1, min(blockCount / 16, Int(Self.leastTaskWork / blockWork)))
  }

  package var taskCount: Int { (productCount * rowBlockCount * columnBlockCount + blocksPerTask - 1) / blocksPerTask }

  package func workerCount(threadCount: Int) -> Int { work < Self.leastSharedWork ? 1 : min(threadCount, taskCount) }

  package func blocks(ofTask task: Int) -> some Sequence<Block> {
    let blockCount = rowBlockCount * columnBlockCount
    let range = task * blocksPerTask..<min((task + 1) * blocksPerTask, productCount * blockCount)
    return range.lazy.map { index in
      // Small products, which are not cut, need no divisions. Divisions would slow them down.
      if blockCount == 1 { return Block(product: index, rows: 0..<rowCount, columns: 0..<columnCount) }
      let (product, block) = index.quotientAndRemainder(dividingBy: blockCount)
      let (row, column) = block.quotientAndRemainder(dividingBy: columnBlockCount)
      return Block(
        product: product, rows: Self.range(row, rowBlockLength, rowCount),
        columns: Self.range(column, columnBlockLength, columnCount))
    }
  }

  private static func range(_ index: Int, _ length: Int, _ extent: Int) -> Range<Int> {
    min(index * length, extent)..<min((index + 1) * length, extent)
  }
}
