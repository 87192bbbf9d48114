import AttentionTensors
import Foundation
import Synchronization

/// An executor that runs tasks on the caller's thread and can hold calls up, so that a test decides which calls wait.
final class Gate: ParallelExecutor, @unchecked Sendable {
  // The class is Sendable because its state is only accessed while `condition` is locked.
  private let condition = NSCondition()
  private var callCount = 0
  /// The number of calls that may still pass; nil if all may pass.
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

  /// Lets `count` calls pass, then none; lets all calls pass if `count` is nil.
  func open(for count: Int? = nil) {
    condition.lock()
    rest = count
    condition.broadcast()
    condition.unlock()
  }

  func close() { open(for: 0) }

  /// The number of calls that have passed.
  var passedCount: Int { condition.withLock { callCount } }

  /// True if a call is held up.
  var isHolding: Bool { condition.withLock { rest == 0 && heldCount > 0 } }
}

/// A flag by which one task tells another that something has happened.
final class Flag: Sendable {
  private let value = Atomic<Bool>(false)
  var isSet: Bool { value.load(ordering: .acquiring) }
  func set() { value.store(true, ordering: .releasing) }
}

/// Waits until `condition` holds.
/// - Throws: `Expired` if `condition` does not hold within a minute. Only a test that fails waits so long.
func until(_ what: String, _ condition: () -> Bool) async throws {
  for _ in 0..<60_000 {
    if condition() { return }
    try await Task.sleep(for: .milliseconds(1))
  }
  throw Expired(what: what)
}

struct Expired: Error { let what: String }
