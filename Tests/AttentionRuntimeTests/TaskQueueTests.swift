import AttentionRuntime
import AttentionTestSupport
import Testing

@Suite("The queue of tasks")
struct TaskQueueTests {
  @Test(
    "hands out every task once: first the worker's own tasks, which are every n-th one, then those of other workers",
    arguments: [0, 1, 2, 7, 8, 9, 100],
    [1, 2, 3, 8])
  func order(taskCount: Int, workerCount: Int) {
    let queue = TaskQueue(taskCount: taskCount, workerCount: workerCount)
    #expect(queue.isEmpty == (taskCount == 0))
    // Only the last worker takes tasks: first its own, in order, then those of worker 0, of worker 1, and so on.
    var share = workerCount - 1
    var taken: [Int] = []
    while let task = queue.take(from: &share) { taken.append(task) }
    let shares = [workerCount - 1] + (0..<workerCount - 1)
    #expect(taken == shares.flatMap { stride(from: $0, to: taskCount, by: workerCount) })
    #expect(queue.isEmpty)
    #expect(queue.take(from: &share) == nil)
  }

  @Test("workers that take turns each get only their own tasks")
  func turns() {
    let queue = TaskQueue(taskCount: 9, workerCount: 3)
    var shares = [0, 1, 2]
    for step in 0..<3 { for worker in 0..<3 { #expect(queue.take(from: &shares[worker]) == worker + 3 * step) } }
    #expect(queue.isEmpty)
  }
}
