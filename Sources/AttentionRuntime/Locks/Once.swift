import Synchronization

/// Makers take turns, whatever they make: rarely, and never one inside another.
private let makers = ExclusionLock()

/// A value that is made at its first use and shared then, by copies of its owner too.
package final class Once<Value: Sendable>: @unchecked Sendable {
  // Sendable: `value` is written once, under the lock, before `isMade` says so.
  private let isMade = Atomic<Bool>(false)
  private var value: Value?

  package init() {}

  /// The value; whoever comes first makes it, others wait. Where that fails, the next one tries again.
  package func get(_ make: () throws -> Value) throws -> Value {
    if isMade.load(ordering: .acquiring) { return value! }
    return try makers.withLock {
      if let value { return value }
      let made = try make()
      value = made
      isMade.store(true, ordering: .releasing)
      return made
    }
  }
}
