/// How `x·Wᵀ` of a packed weight is cut into tasks for threads. The sum of each element has the same order for every cut.
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
  /// With fewer operations than this, about 50 µs, only one thread works. The limit is lower than for other products, because
  /// the weights of small products come from memory.
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
    // Multiples of 8 rows: with panels of 3 vectors, blocks of the kernels have 8 rows (AVX-512, NEON) or 4 (AVX2).
    let length = ((rowCount + rowBlockCount - 1) / rowBlockCount + 7) / 8 * 8
    return (
      min(row * length, rowCount)..<min((row + 1) * length, rowCount),
      panel * panelCount / panelBlockCount..<(panel + 1) * panelCount / panelBlockCount
    )
  }
}
