internal import CLibrary

/// Makes `fork` safe. A child inherits every lock in its state at the fork, but not the threads that would release it.
///
/// So all locks are taken before a fork. After the fork they are released in the parent and in the child. Outer locks are
/// taken first, because a thread that holds one may wait for another lock. No other two locks are ever held at once.
final class ForkHandlers: @unchecked Sendable {
  // Sendable: `locks` and `bodies` are only touched under `mutex`.
  static let shared = ForkHandlers()

  private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
  private var locks: [ExclusionLock] = []
  /// Called in the child of a fork.
  private var bodies: [@Sendable () -> Void] = []

  private init() {
    pthread_mutex_init(mutex, nil)
    pthread_atfork(
      { ForkHandlers.shared.prepare() }, { ForkHandlers.shared.release() },
      {
        for body in ForkHandlers.shared.bodies { body() }
        ForkHandlers.shared.release()
      })
  }

  func add(_ lock: ExclusionLock, isOuter: Bool) { change { locks.insert(lock, at: isOuter ? 0 : locks.count) } }
  func add(_ body: @escaping @Sendable () -> Void) { change { bodies.append(body) } }

  private func change(_ body: () -> Void) {
    pthread_mutex_lock(mutex)
    body()
    pthread_mutex_unlock(mutex)
  }

  private func prepare() {
    // Another thread may be in the middle of making one of these objects. The child would then wait for it for ever.
    _ = ThreadTeam.shared
    _ = MemoryPool.shared
    _ = AttentionContext.default
    _ = InstructionSet.present
    pthread_mutex_lock(mutex)
    for lock in locks { lock.lock() }
  }

  private func release() {
    for lock in locks.reversed() { lock.unlock() }
    pthread_mutex_unlock(mutex)
  }
}
