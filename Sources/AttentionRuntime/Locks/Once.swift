import Synchronization

/// The lock under which every ``Once`` makes its value. One lock is enough, because values are rarely made, and making
/// one value never makes another. It is an outer lock, because making a value takes the locks of ``MemoryPool`` and of
/// ``ThreadTeam``.
let makers = ExclusionLock(isOuter: true)

/// A value that is made at its first use and then shared, also by copies of its owner.
package final class Once<Value: Sendable>: @unchecked Sendable {
  // Sendable: `value` is written once, under the lock, before `isMade` becomes true.
  private let isMade = Atomic<Bool>(false)
  private var value: Value?

  package init() {}

  /// True if the value is made.
  package var hasValue: Bool { isMade.load(ordering: .acquiring) }

  /// The value. The first caller makes it, and other callers wait. If making fails, the next caller tries again.
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
