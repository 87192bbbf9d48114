import AttentionRuntime
import AttentionTestSupport
import Synchronization
import Testing

@Suite("Loops over independent items")
struct ParallelLoopTests {
  /// The ranges that a loop is cut into, sorted.
  private func ranges(_ itemCount: Int, _ nanoseconds: Double, threadCount: Int) -> [Range<Int>] {
    let seen = Mutex<[Range<Int>]>([])
    let loop = ParallelLoop(
      itemCount: itemCount, nanosecondsPerItem: nanoseconds, context: AttentionContext(threadCount: threadCount))
    loop.run { items, worker in
      #expect((0..<loop.workerCount).contains(worker))
      seen.withLock { $0.append(items) }
    }
    return seen.withLock { $0 }.sorted { $0.lowerBound < $1.lowerBound }
  }

  @Test(
    "every item is in one range, and the ranges are the same for any number of threads",
    arguments: [0, 1, 5, 1000, 99_999],
    [0, 0.25, 30, 7_000, 1e9, .infinity])
  func cover(itemCount: Int, nanoseconds: Double) {
    let one = ranges(itemCount, nanoseconds, threadCount: 1)
    #expect(one.flatMap { Array($0) } == Array(0..<itemCount))
    #expect(one == ranges(itemCount, nanoseconds, threadCount: 4))
  }

  @Test("every task except the last takes at least 30 µs; a loop of one task runs on one thread")
  func sizes() {
    #expect(ranges(1000, 1000, threadCount: 1).map(\.count).dropLast().allSatisfy { $0 == 30 })
    #expect(ranges(4, .infinity, threadCount: 4).count == 4)
    func workers(_ itemCount: Int, _ nanoseconds: Double) -> Int {
      ParallelLoop(
        itemCount: itemCount, nanosecondsPerItem: nanoseconds, context: AttentionContext(threadCount: 8)
      ).workerCount
    }
    #expect(workers(29, 1000) == 1 && workers(61, 1000) == 3 && workers(10_000, 1000) == 8 && workers(0, 1) == 1)
  }

  @Test("division that rounds up")
  func rounding() {
    for (dividend, divisor, quotient) in [(0, 3, 0), (1, 3, 1), (3, 3, 1), (4, 3, 2)] {
      #expect(dividend.dividedRoundingUp(by: divisor) == quotient)
      #expect(dividend.roundedUp(toMultipleOf: divisor) == quotient * divisor)
    }
  }
}
