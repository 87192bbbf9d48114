import Synchronization

/// Hands out task numbers, each once. Worker w of n first gets the tasks w, w + n, w + 2n …, then tasks that other
/// workers have not taken yet.
///
/// So a worker that is not slower than the others gets the same tasks in every call, and the data of these tasks stay
/// in the caches near its CPU. Workers compute tasks with neighbouring numbers at the same time. Such tasks often read
/// the same data.
package final class TaskQueue: @unchecked Sendable {
  // Sendable: the counters are atomic, and their addresses do not change.

  private let taskCount: Int
  private let workerCount: Int
  /// How many of each worker's tasks are taken. Each counter has a pair of cache lines, because some CPUs fetch lines
  /// in pairs.
  private let taken: UnsafeMutablePointer<Atomic<Int>>
  /// The distance of two counters, as a number of counters: 128 bytes.
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

  /// Takes the next task; nil if none is left. `share` is the worker whose tasks are taken. At first it is the number
  /// of the calling worker. This function changes it when that worker's tasks are all taken.
  package func take(from share: inout Int) -> Int? {
    for _ in 0..<workerCount {
      // The counter is read before it is increased. Otherwise the counter of a worker without tasks would grow for
      // ever.
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
