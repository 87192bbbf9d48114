internal import CLibrary

/// A mutex that lives as long as the process, and that a fork finds free, in the parent and in the child.
///
/// Not Synchronization.Mutex: ThreadSanitizer does not see through that on Linux.
package final class ExclusionLock: @unchecked Sendable {
  // Sendable: a mutex is made to be shared; its address never changes.
  let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)

  package init() {
    pthread_mutex_init(mutex, nil)
    ForkHandlers.shared.add(self)
  }

  /// Has `body` called under the lock in the child of a fork, in which only the forking thread lives on.
  func atFork(_ body: @escaping @Sendable () -> Void) { ForkHandlers.shared.add(body) }

  func lock() { pthread_mutex_lock(mutex) }
  func unlock() { pthread_mutex_unlock(mutex) }

  package func withLock<R>(_ body: () throws -> R) rethrows -> R {
    lock()
    defer { unlock() }
    return try body()
  }
}

/// A place to wait for a change that happens under a lock.
final class Condition: @unchecked Sendable {
  // Sendable: a condition variable is made to be shared; its address never changes.
  private let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)

  init() { pthread_cond_init(condition, nil) }

  /// Forgets who waits, in the child of a fork: threads that are not there.
  func forgetWaiters() { pthread_cond_init(condition, nil) }

  /// Gives the lock up while it waits. May return without a change.
  func wait(_ lock: ExclusionLock) { pthread_cond_wait(condition, lock.mutex) }
  func wakeAll() { pthread_cond_broadcast(condition) }
}
