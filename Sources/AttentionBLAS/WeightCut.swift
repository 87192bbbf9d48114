/// How `x·Wᵀ` of a packed weight is cut into tasks for threads. Every element of the result is summed in one order,
/// wherever the cuts are.
package struct WeightCut {
  private let rowCount: Int
  private let panelCount: Int
  private let rowBlockCount: Int
  private let panelBlockCount: Int
  private let work: Double

  /// Rows that are worth reading a panel for.
  private static let rowTarget = 192
  private static let taskTarget = 16.0
  private static let leastTaskWork = 1e6
  /// Operations below which a second thread is not woken: some 50 µs. Less than for other products, since the weights
  /// of small ones come from memory.
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
    // Multiples of 8 rows: a register tile.
    let length = ((rowCount + rowBlockCount - 1) / rowBlockCount + 7) / 8 * 8
    return (
      min(row * length, rowCount)..<min((row + 1) * length, rowCount),
      panel * panelCount / panelBlockCount..<(panel + 1) * panelCount / panelBlockCount
    )
  }
}
