import Synchronization

/// Hands out task numbers, each once: to worker w of n the tasks w, w + n, w + 2n …, then what others have left of
/// theirs.
///
/// From call to call a worker so has the same tasks, as far as it keeps up, and what they read and write in the caches near
/// its CPU; and tasks that are under way at one time lie side by side, and share what they read.
package final class TaskQueue: @unchecked Sendable {
  // Sendable: the numbers are atomic, and their places do not change.

  private let taskCount: Int
  private let workerCount: Int
  /// How many of each worker's tasks are taken, in a line of the cache of its own, and of the one that is fetched with it.
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

  /// `share`, at first the worker's own number, is whose tasks it has come to.
  package func take(from share: inout Int) -> Int? {
    for _ in 0..<workerCount {
      // Looked at before it is counted up, so as not to be counted up for ever.
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
