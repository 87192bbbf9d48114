internal import CLibrary

/// Allocates the memory of tensors and of working space, and takes it back.
///
/// The system maps a large block anew for each allocation, and provides its pages one by one when they are first
/// written. For a result of 3 MiB this cost 0.25 ms, in addition to 0.6 ms of computation (2026-11). So the pool keeps
/// large blocks for later allocations, up to ``Limits/usual`` in all, or more inside of
/// ``withKeptMemory(byteCount:_:)``.
final class MemoryPool: @unchecked Sendable {
  // Sendable: `blocks` is only touched under `lock`.
  static let shared = MemoryPool()

  /// A block of memory that its holder may write to.
  struct Block {
    let base: UnsafeMutableRawPointer
    let byteCount: Int
  }

  /// The most that is kept, in bytes and in blocks.
  private struct Limits {
    var byteCount: Int
    var count: Int

    static let usual = Limits(byteCount: 128 << 20, count: 32)
  }
  /// The size in bytes from which on blocks are kept. Smaller blocks are freed at once, because malloc need not map new
  /// memory for them.
  private static let leastByteCount = 64 << 10
  /// The size in bytes from which on the pool asks for huge pages. With pages of 4 KiB, a large block causes thousands
  /// of page faults, and the CPU has to translate an address whenever it goes on to another page.
  private static let hugePageByteCount = 2 << 20

  private let lock = ExclusionLock()
  /// The blocks that are kept; the one that was kept longest is first.
  private var blocks: [Block] = []
  /// The `byteCount` of each call of ``withKeptMemory(byteCount:_:)`` that is running. The greatest one applies.
  private var askedByteCounts: [Int] = []

  private init() {}

  /// The limits that apply now. Called under the lock.
  private var limits: Limits {
    guard let most = askedByteCounts.max(), most > Limits.usual.byteCount else { return .usual }
    return Limits(byteCount: most, count: 4096)
  }

  func keep(byteCount: Int) { lock.withLock { askedByteCounts.append(byteCount) } }

  func endKeeping(byteCount: Int) {
    lock.withLock {
      if let index = askedByteCounts.firstIndex(of: byteCount) { askedByteCounts.remove(at: index) }
    }
    release { surplus($0) }
  }

  /// The number of blocks, from the first on, that must go so that the others are within the limits. Called under the
  /// lock.
  private func surplus(_ blocks: [Block]) -> Int {
    let limits = limits
    var total = blocks.reduce(0) { $0 + $1.byteCount }
    var count = 0
    while total > limits.byteCount || blocks.count - count > limits.count {
      total -= blocks[count].byteCount
      count += 1
    }
    return count
  }

  /// Returns at least `byteCount` bytes, contents unspecified; nil if the system has no memory.
  func take(byteCount: Int) -> Block? {
    if byteCount < Self.leastByteCount { return allocate(byteCount: byteCount) }
    guard let byteCount = Self.rounded(byteCount) else { return nil }
    if let block = takeKept(byteCount: byteCount) ?? allocate(byteCount: byteCount) { return block }
    // The kept blocks may be the memory that is missing: give them back and try again.
    release { $0.count }
    return allocate(byteCount: byteCount)
  }

  /// Rounds up by at most an eighth. So an array that grows by one element mostly finds a kept block of the size that
  /// it needs. Returns nil if the rounded size does not fit an Int.
  private static func rounded(_ byteCount: Int) -> Int? {
    let unit = 1 << (Int.bitWidth - 1 - byteCount.leadingZeroBitCount - 3)
    let (sum, overflow) = byteCount.addingReportingOverflow(unit - 1)
    return overflow ? nil : sum / unit * unit
  }

  /// Takes the smallest kept block that is large enough, but at most about twice as large; nil if there is none.
  private func takeKept(byteCount: Int) -> Block? {
    lock.withLock {
      let fitting = blocks.indices.filter { blocks[$0].byteCount >= byteCount && blocks[$0].byteCount / 2 <= byteCount }
      return fitting.min { blocks[$0].byteCount < blocks[$1].byteCount }.map { blocks.remove(at: $0) }
    }
  }

  private func allocate(byteCount: Int) -> Block? {
    let isHuge = byteCount >= Self.hugePageByteCount
    var base: UnsafeMutableRawPointer?
    let status = posix_memalign(
      &base, isHuge ? Self.hugePageByteCount : TensorStorage.alignment, max(byteCount, TensorStorage.alignment))
    guard status == 0, let base else { return nil }
    #if os(Linux)
      // 14 is MADV_HUGEPAGE, for the huge pages that the block fills. It is only advice: a refusal changes nothing.
      if isHuge { _ = madvise(base, byteCount / Self.hugePageByteCount * Self.hugePageByteCount, 14) }
    #endif
    return Block(base: base, byteCount: byteCount)
  }

  /// Takes a block back.
  func give(_ block: Block) {
    if block.byteCount < Self.leastByteCount { return free(block.base) }
    release { blocks in
      // A block that is larger than the limit is freed at once, because keeping it would drive out all others.
      if block.byteCount > limits.byteCount {
        blocks.insert(block, at: 0)
        return 1
      }
      blocks.append(block)
      return surplus(blocks)
    }
  }

  /// Gives the first blocks back to the system. `count` may change the blocks, and returns how many to give back.
  private func release(_ count: (inout [Block]) -> Int) {
    let surplus = lock.withLock {
      let count = count(&blocks)
      defer { blocks.removeFirst(count) }
      return Array(blocks.prefix(count))
    }
    for block in surplus { free(block.base) }
  }
}

/// Calls `body`. Until it returns, up to `byteCount` bytes of memory that tensors give back are kept for later tensors,
/// if that is more than the usual 128 MiB. Afterwards the surplus goes back to the system.
///
/// A training step allocates the same tensors as the step before. If their memory is kept, the system need not provide
/// zeroed pages for them again. In the first six steps of fine-tuning MiniLM, providing pages takes 16 % of the time,
/// and 6 % with kept memory (2 threads, Zen 3, 2026-11).
///
///     try withKeptMemory(byteCount: 4 << 30) {
///       for batch in batches { try step(batch) }
///     }
///
/// Calls may be nested, and made by several threads: the greatest limit of all holds.
public func withKeptMemory<R>(byteCount: Int, _ body: () throws -> R) rethrows -> R {
  MemoryPool.shared.keep(byteCount: byteCount)
  defer { MemoryPool.shared.endKeeping(byteCount: byteCount) }
  return try body()
}

/// Calls `body` with at least `byteCount` bytes of working memory, aligned to 64 bytes, whose contents are unspecified.
package func withScratch<R>(
  byteCount: Int, _ body: (UnsafeMutableRawPointer) -> R
) throws(AttentionError) -> R {
  guard let block = MemoryPool.shared.take(byteCount: byteCount) else {
    throw AttentionError(.outOfMemory, "working memory", "\(byteCount) bytes could not be allocated")
  }
  defer { MemoryPool.shared.give(block) }
  return body(block.base)
}
