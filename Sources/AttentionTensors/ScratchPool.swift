/// Working memory that outlives calls, so that a call allocates nothing that grows with its tiles.
///
/// A borrower has a block to itself. Blocks go back to a short list and are reused.
package final class ScratchPool: @unchecked Sendable {
  // Sendable: `blocks` is only touched under `lock`.
  package static let shared = ScratchPool()

  /// Blocks kept at most; one is borrowed per call, so this many calls at once find one.
  private static let blockLimit = 8
  /// Larger blocks are given back to the system.
  private static let keptByteCount = 64 << 20

  private let lock = ExclusionLock()
  private var blocks: [TensorStorage] = []

  private init() {}

  /// Calls `body` with at least `byteCount` bytes, aligned to 64, contents unspecified.
  package func withScratch<R>(
    byteCount: Int, _ body: (UnsafeMutableRawPointer) throws -> R
  ) throws -> R {
    let block = try take(byteCount: byteCount)
    defer { give(block) }
    return try body(block.base)
  }

  /// The smallest block that is large enough, else a new one.
  private func take(byteCount: Int) throws(AttentionError) -> TensorStorage {
    let kept = lock.withLock { () -> TensorStorage? in
      let fitting = blocks.indices.filter { blocks[$0].byteCount >= byteCount }
      return fitting.min { blocks[$0].byteCount < blocks[$1].byteCount }.map { blocks.remove(at: $0) }
    }
    if let kept { return kept }
    return try TensorStorage(byteCount: byteCount)
  }

  private func give(_ block: TensorStorage) {
    if block.byteCount > Self.keptByteCount { return }
    lock.withLock {
      blocks.append(block)
      if blocks.count > Self.blockLimit,
        let smallest = blocks.indices.min(by: { blocks[$0].byteCount < blocks[$1].byteCount })
      {
        blocks.remove(at: smallest)
      }
    }
  }
}
