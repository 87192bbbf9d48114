internal import CLibrary

/// A mutex that lives as long as the process. After a fork it is free, in the parent and in the child.
///
/// Synchronization.Mutex is not used, because on Linux ThreadSanitizer does not recognise it as a lock.
package final class ExclusionLock: @unchecked Sendable {
  // Sendable: a mutex is made to be shared; its address never changes.
  let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)

  /// - Parameter isOuter: Whether code that holds this lock may take another lock, which then must not be an outer
  ///   lock.
  package init(isOuter: Bool = false) {
    pthread_mutex_init(mutex, nil)
    ForkHandlers.shared.add(self, isOuter: isOuter)
  }

  /// Registers `body`, which is called under the lock in the child of a fork. Only the forking thread exists there.
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

  /// Forgets the waiting threads, which do not exist in the child of a fork.
  func forgetWaiters() { pthread_cond_init(condition, nil) }

  /// Releases `lock` while it waits, and holds it again when it returns. It may return although nothing has changed.
  func wait(_ lock: ExclusionLock) { pthread_cond_wait(condition, lock.mutex) }
  func wakeAll() { pthread_cond_broadcast(condition) }
}
