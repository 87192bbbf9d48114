#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#elseif canImport(Darwin)
  import Darwin
#endif

/// What makes `fork` safe: a child inherits every lock as it is at that moment, but no thread that would release it.
///
/// So all locks are taken before a fork, in the order in which they were made, and released after it on both
/// sides. No code of ours holds two of them at once.
final class ForkHandlers: @unchecked Sendable {
  // Sendable: `locks` is only touched under `mutex`.
  static let shared = ForkHandlers()

  private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
  private var locks: [(lock: ExclusionLock, afterFork: @Sendable () -> Void)] = []

  private init() {
    pthread_mutex_init(mutex, nil)
    pthread_atfork(
      { ForkHandlers.shared.prepare() }, { ForkHandlers.shared.release() },
      {
        for (_, afterFork) in ForkHandlers.shared.locks { afterFork() }
        ForkHandlers.shared.release()
      })
  }

  func add(_ lock: ExclusionLock, _ afterFork: @escaping @Sendable () -> Void) {
    pthread_mutex_lock(mutex)
    locks.append((lock, afterFork))
    pthread_mutex_unlock(mutex)
  }

  private func prepare() {
    pthread_mutex_lock(mutex)
    for (lock, _) in locks { lock.lock() }
  }

  private func release() {
    for (lock, _) in locks.reversed() { lock.unlock() }
    pthread_mutex_unlock(mutex)
  }
}
