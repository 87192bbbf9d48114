/// The memory behind tensors: shared by views, released with the last of them.
@usableFromInline
package final class TensorStorage: @unchecked Sendable {
  // Sendable: `base` never changes, and writing needs the one reference that there is (Tensor's
  // copy-on-write sees to that).
  @usableFromInline package let base: UnsafeMutableRawPointer
  package let byteCount: Int
  /// What keeps `base` alive where it is not ours, for instance a mapped file.
  private let owner: AnyObject?

  /// Aligned to a cache line and to the widest vector.
  @inlinable package static var alignment: Int { 64 }

  /// Uninitialised memory of our own.
  package init(byteCount: Int) throws(AttentionError) {
    guard let block = MemoryPool.shared.take(byteCount: byteCount) else {
      throw AttentionError(.outOfMemory, "Tensor", "\(byteCount) bytes could not be allocated")
    }
    base = block.base
    self.byteCount = block.byteCount
    owner = nil
  }

  /// Memory that `owner` keeps alive and that is never written.
  package init(readOnly base: UnsafeRawPointer, byteCount: Int, owner: AnyObject) {
    self.base = UnsafeMutableRawPointer(mutating: base)
    self.byteCount = byteCount
    self.owner = owner
  }

  package var isReadOnly: Bool { owner != nil }

  deinit {
    if owner == nil { MemoryPool.shared.give(MemoryPool.Block(base: base, byteCount: byteCount)) }
  }
}
