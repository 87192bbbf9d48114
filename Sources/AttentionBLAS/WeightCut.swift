/// How a product `x·Wᵀ` with a packed weight is cut into tasks for threads. The terms of each element are added in the
/// same order, whatever the cut.
package struct WeightCut {
  private let rowCount: Int
  private let panelCount: Int
  private let rowBlockCount: Int
  private let panelBlockCount: Int
  private let work: Double

  /// About how many rows a task should have, to make reading a panel worthwhile.
  private static let rowTarget = 192
  private static let taskTarget = 16.0
  private static let leastTaskWork = 1e6
  /// With fewer operations than this, which take about 50 µs, only one thread works. The limit is lower than for other
  /// products (``ProductCut/leastSharedWork``), because operations of small products take longer here: their weights
  /// come from memory.
  private static let leastSharedWork = 4e6

  package init(rowCount: Int, panelCount: Int, columnCount: Int, depth: Int) {
    self.rowCount = rowCount
    self.panelCount = panelCount
    work = 2 * Double(rowCount) * Double(columnCount) * Double(depth)
    rowBlockCount = max(1, (rowCount + Self.rowTarget / 2) / Self.rowTarget)
    let wanted = min(Self.taskTarget, work / Self.leastTaskWork) / Double(rowBlockCount)
    panelBlockCount = max(1, min(panelCount, Int(wanted.rounded(.up))))
  }

  package var taskCount: Int { rowCount == 0 ? 0 : rowBlockCount * panelBlockCount }

  package func workerCount(threadCount: Int) -> Int {
    work < Self.leastSharedWork ? 1 : min(threadCount, max(taskCount, 1))
  }

  package func block(_ task: Int) -> (rows: Range<Int>, panels: Range<Int>) {
    let (row, panel) = task.quotientAndRemainder(dividingBy: panelBlockCount)
    // The length is a multiple of 8 rows, because with panels of 3 vectors the kernels compute blocks of 8 rows
    // (AVX-512, NEON) or 4 rows (AVX2).
    let length = ((rowCount + rowBlockCount - 1) / rowBlockCount + 7) / 8 * 8
    return (
      min(row * length, rowCount)..<min((row + 1) * length, rowCount),
      panel * panelCount / panelBlockCount..<(panel + 1) * panelCount / panelBlockCount
    )
  }
}
