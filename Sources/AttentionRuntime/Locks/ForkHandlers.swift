internal import CLibrary

/// Makes `fork` safe. In the child of a fork, a lock that another thread held would stay locked for ever, because the
/// child does not have that thread.
///
/// So the forking thread takes all locks before a fork. After the fork they are released in the parent and in the
/// child. Outer locks are taken first, because a thread that holds an outer lock may wait for another lock. A thread
/// never holds two locks otherwise.
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
    // Make these shared objects now. If another thread were making one of them during the fork, the child would wait
    // for ever for that thread, which it does not have.
    _ = makers
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
