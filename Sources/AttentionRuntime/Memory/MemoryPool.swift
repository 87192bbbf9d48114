internal import CLibrary

/// Where the memory of tensors and of working space comes from, and where it goes back to.
///
/// The system maps large blocks afresh for each allocation, and gives their pages one by one as they are first
/// written: a result of 3 MiB cost 0.25 ms more than its computation of 0.6 ms. So such blocks are kept for the next
/// taker, up to ``keptByteCount`` in all.
final class MemoryPool: @unchecked Sendable {
  // Sendable: `blocks` is only touched under `lock`.
  static let shared = MemoryPool()

  /// A piece of memory that somebody may write to.
  struct Block {
    let base: UnsafeMutableRawPointer
    let byteCount: Int
  }

  /// Kept at most, in bytes and in blocks.
  private static let keptByteCount = 128 << 20
  private static let keptCount = 32
  /// Smaller blocks are left to malloc, which maps nothing for them.
  private static let leastByteCount = 64 << 10
  /// From here on, ask for huge pages: 4 KiB pages cost thousands of page faults, and every access to another page a search
  /// for its place.
  private static let hugePageByteCount = 2 << 20

  private let lock = ExclusionLock()
  /// The longest kept first.
  private var blocks: [Block] = []

  private init() {}

  /// At least `byteCount` bytes, contents unspecified; nil where the system has none.
  func take(byteCount: Int) -> Block? {
    if byteCount < Self.leastByteCount { return allocate(byteCount: byteCount) }
    guard let byteCount = Self.rounded(byteCount) else { return nil }
    if let block = takeKept(byteCount: byteCount) ?? allocate(byteCount: byteCount) { return block }
    // What is kept may be what lacks.
    release { $0.count }
    return allocate(byteCount: byteCount)
  }

  /// Up to an eighth more, so that lengths that grow by one find the blocks of those before; nil beyond all memory.
  private static func rounded(_ byteCount: Int) -> Int? {
    let unit = 1 << (Int.bitWidth - 1 - byteCount.leadingZeroBitCount - 3)
    let (sum, overflow) = byteCount.addingReportingOverflow(unit - 1)
    return overflow ? nil : sum / unit * unit
  }

  /// The smallest kept block that is large enough and not twice as large.
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
      // 14: MADV_HUGEPAGE, for what fills such pages. Only advice: a refusal changes nothing.
      if isHuge { _ = madvise(base, byteCount / Self.hugePageByteCount * Self.hugePageByteCount, 14) }
    #endif
    return Block(base: base, byteCount: byteCount)
  }

  /// Takes a block back.
  func give(_ block: Block) {
    if block.byteCount < Self.leastByteCount || block.byteCount > Self.keptByteCount { return free(block.base) }
    release { blocks in
      blocks.append(block)
      var total = blocks.reduce(0) { $0 + $1.byteCount }
      var count = 0
      while total > Self.keptByteCount || blocks.count - count > Self.keptCount {
        total -= blocks[count].byteCount
        count += 1
      }
      return count
    }
  }

  /// Gives the first kept blocks back to the system, as many as `count` says.
  private func release(_ count: (inout [Block]) -> Int) {
    let surplus = lock.withLock {
      let count = count(&blocks)
      defer { blocks.removeFirst(count) }
      return Array(blocks.prefix(count))
    }
    for block in surplus { free(block.base) }
  }
}

/// Calls `body` with at least `byteCount` bytes of working memory, aligned to 64, contents unspecified.
package func withScratch<R>(
  byteCount: Int, _ body: (UnsafeMutableRawPointer) -> R
) throws(AttentionError) -> R {
  guard let block = MemoryPool.shared.take(byteCount: byteCount) else {
    throw AttentionError(.outOfMemory, "working memory", "\(byteCount) bytes could not be allocated")
  }
  defer { MemoryPool.shared.give(block) }
  return body(block.base)
}
