import Synchronization

/// Hands out task numbers, each once. Worker w of n first gets the tasks w, w + n, w + 2n …, then tasks that other workers
/// have not taken yet.
///
/// So a worker that keeps up gets the same tasks in every call, and what they read and write stays in the caches near its
/// CPU. Tasks that are computed at the same time have neighbouring numbers, and share what they read.
package final class TaskQueue: @unchecked Sendable {
  // Sendable: the counters are atomic, and their addresses do not change.

  private let taskCount: Int
  private let workerCount: Int
  /// How many of each worker's tasks are taken. Each counter has a pair of cache lines, because some CPUs fetch lines
  /// in pairs.
  private let taken: UnsafeMutablePointer<Atomic<Int>>
  private static let pitch = 16

  package init(taskCount: Int, workerCount: Int) {
    self.taskCount = taskCount
    self.workerCount = workerCount
    taken = .allocate(capacity: workerCount * Self.pitch)
    for worker in 0..<workerCount { (taken + worker * Self.pitch).initialize(to: Atomic(0)) }
  }

  deinit {
    for worker in 0..<workerCount { (taken + worker * Self.pitch).deinitialize(count: 1) }
    taken.deallocate()
  }

  private func count(_ share: Int) -> Int { (taskCount - share + workerCount - 1) / workerCount }

  private func isEmpty(_ share: Int) -> Bool {
    taken[share * Self.pitch].load(ordering: .relaxed) >= count(share)
  }

  /// Takes the next task; nil if none is left. `share` is the worker whose tasks are taken: at first the caller itself.
  package func take(from share: inout Int) -> Int? {
    for _ in 0..<workerCount {
      // Read before it is increased: otherwise the counter of a worker without tasks would grow for ever.
      if !isEmpty(share) {
        let index = taken[share * Self.pitch].wrappingAdd(1, ordering: .relaxed).oldValue
        if index < count(share) { return share + index * workerCount }
      }
      share = share + 1 == workerCount ? 0 : share + 1
    }
    return nil
  }

  package var isEmpty: Bool { (0..<workerCount).allSatisfy(isEmpty) }
}
