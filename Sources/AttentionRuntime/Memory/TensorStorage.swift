/// The memory of tensors. Views share it, and it is released with the last of them.
@usableFromInline
package final class TensorStorage: @unchecked Sendable {
  // Sendable: `base` never changes, and only the holder of the single reference writes (Tensor's copy-on-write
  // ensures that).
  @usableFromInline package let base: UnsafeMutableRawPointer
  package let byteCount: Int
  /// What keeps `base` alive if the memory is not from the pool: for instance a mapped file. Nil: the memory is from
  /// the pool.
  private let owner: AnyObject?

  /// The alignment of memory, in bytes: that of a cache line and of the widest vector.
  @inlinable package static var alignment: Int { 64 }

  /// Uninitialised memory from the pool.
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
