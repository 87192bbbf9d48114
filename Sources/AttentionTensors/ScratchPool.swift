#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#elseif canImport(Darwin)
  import Darwin
#endif

/// Working memory that outlives calls, so that a call allocates nothing that grows with its tiles.
///
/// A borrower has a block to itself. Blocks go back to a short list and are reused, largest first.
package final class ScratchPool: @unchecked Sendable {
  // Sendable: `blocks` is only touched under `lock`.
  package static let shared = ScratchPool()

  /// Blocks kept at most; one is borrowed per call, so this many calls at once find one.
  private static let blockLimit = 8
  /// Larger blocks are given back to the system.
  private static let keptByteCount = 64 << 20

  private let lock = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
  private var blocks: [TensorStorage] = []

  private init() { pthread_mutex_init(lock, nil) }

  /// Calls `body` with at least `byteCount` bytes, aligned to 64, contents unspecified.
  package func withScratch<R>(
    byteCount: Int, _ body: (UnsafeMutableRawPointer) throws -> R
  ) throws -> R {
    let block = try take(byteCount: byteCount)
    defer { give(block) }
    return try body(block.base)
  }

  private func take(byteCount: Int) throws(AttentionError) -> TensorStorage {
    pthread_mutex_lock(lock)
    let index = blocks.indices.filter { blocks[$0].byteCount >= byteCount }.min {
      blocks[$0].byteCount < blocks[$1].byteCount
    }
    let block = index.map { blocks.remove(at: $0) }
    pthread_mutex_unlock(lock)
    if let block { return block }
    return try TensorStorage(byteCount: byteCount)
  }

  private func give(_ block: TensorStorage) {
    if block.byteCount > Self.keptByteCount { return }
    pthread_mutex_lock(lock)
    blocks.append(block)
    if blocks.count > Self.blockLimit {
      let smallest = blocks.indices.min { blocks[$0].byteCount < blocks[$1].byteCount }
      if let smallest { blocks.remove(at: smallest) }
    }
    pthread_mutex_unlock(lock)
  }
}
