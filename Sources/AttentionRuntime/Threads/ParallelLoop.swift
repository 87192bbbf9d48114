/// A loop over independent items, cut into tasks for threads.
///
/// The cut depends on the number of items and the time that one item takes, never on the number of threads.
package struct ParallelLoop {
  /// The number of items.
  package let itemCount: Int
  /// The number of threads that run the loop at most. If they need scratch memory, the caller provides as many pieces
  /// of it.
  package let workerCount: Int
  private let itemsPerTask: Int
  private let context: AttentionContext

  /// The least duration of every task but the last. A sleeping thread takes 20 to 30 µs to wake. So a loop that takes
  /// no longer than this is one task, which the caller's thread runs.
  private static let leastTaskNanoseconds = 30_000.0

  /// - Parameters:
  ///   - itemCount: The number of items.
  ///   - nanosecondsPerItem: About how long one thread takes for an item. Infinity makes each item a task.
  ///   - context: Threads and executor.
  package init(itemCount: Int, nanosecondsPerItem: Double, context: AttentionContext) {
    self.itemCount = itemCount
    self.context = context
    let wanted = (Self.leastTaskNanoseconds / nanosecondsPerItem).rounded(.up)
    itemsPerTask = max(1, wanted < Double(itemCount) ? Int(wanted) : itemCount)
    workerCount = max(1, min(context.threadCount, itemCount.dividedRoundingUp(by: itemsPerTask)))
  }

  /// Calls `body` with ranges that together cover all items, on at most ``workerCount`` threads. Returns when all calls
  /// have returned.
  package func run(_ body: (_ items: Range<Int>, _ worker: Int) -> Void) {
    context.execute(taskCount: itemCount.dividedRoundingUp(by: itemsPerTask), threadCount: workerCount) {
      task, worker in
      body(task * itemsPerTask..<min((task + 1) * itemsPerTask, itemCount), worker)
    }
  }
}

extension AttentionContext {
  /// Runs a ``ParallelLoop`` on the threads of this context: calls `body` with ranges that together cover `0..<count`.
  package func parallelFor(
    count: Int, nanosecondsPerItem: Double, _ body: (_ items: Range<Int>, _ worker: Int) -> Void
  ) {
    ParallelLoop(itemCount: count, nanosecondsPerItem: nanosecondsPerItem, context: self).run(body)
  }
}

extension Int {
  /// The quotient, rounded up. Both numbers are positive, or the dividend is 0.
  package func dividedRoundingUp(by divisor: Int) -> Int { (self + divisor - 1) / divisor }
  /// The least multiple of `divisor` that is not less than this number.
  package func roundedUp(toMultipleOf divisor: Int) -> Int { dividedRoundingUp(by: divisor) * divisor }
}
