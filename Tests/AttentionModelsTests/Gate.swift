import AttentionTensors
import Foundation
import Synchronization

/// Runs pieces on the caller's thread, and can hold calls up, so that a test decides what waits and what runs.
final class Gate: ParallelExecutor, @unchecked Sendable {
  // Sendable: all is touched under `condition`.
  private let condition = NSCondition()
  private var callCount = 0
  /// Calls that may still pass; nil: all.
  private var rest: Int?
  private var heldCount = 0

  func execute(taskCount: Int, threadCount: Int, _ body: (_ task: Int, _ worker: Int) -> Void) {
    condition.lock()
    heldCount += 1
    while rest == 0 { condition.wait() }
    heldCount -= 1
    rest = rest.map { $0 - 1 }
    callCount += 1
    condition.unlock()
    for task in 0..<max(taskCount, 0) { body(task, 0) }
  }

  /// Lets so many calls pass, then none; nil: all.
  func open(for count: Int? = nil) {
    condition.lock()
    rest = count
    condition.broadcast()
    condition.unlock()
  }

  func close() { open(for: 0) }

  /// Calls that have passed.
  var passedCount: Int { condition.withLock { callCount } }

  /// True if a call is held up.
  var isHolding: Bool { condition.withLock { rest == 0 && heldCount > 0 } }
}

/// Something that has happened, as tasks tell each other.
final class Flag: Sendable {
  private let value = Atomic<Bool>(false)
  var isSet: Bool { value.load(ordering: .acquiring) }
  func set() { value.store(true, ordering: .releasing) }
}

/// Waits until `condition` holds.
/// - Throws: `Expired` where it does not within a minute: only a test that fails takes so long.
func until(_ what: String, _ condition: () -> Bool) async throws {
  for _ in 0..<60_000 {
    if condition() { return }
    try await Task.sleep(for: .milliseconds(1))
  }
  throw Expired(what: what)
}

struct Expired: Error { let what: String }
