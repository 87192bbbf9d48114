#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#elseif canImport(Darwin)
  import Darwin
#endif

/// The memory behind tensors: shared by views, released with the last of them.
@usableFromInline
package final class TensorStorage: @unchecked Sendable {
  // Sendable: `base` never changes, and writing needs the one reference that there is (Tensor's
  // copy-on-write sees to that).
  @usableFromInline let base: UnsafeMutableRawPointer
  let byteCount: Int
  /// What keeps `base` alive where it is not ours, for instance a mapped file.
  private let owner: AnyObject?

  /// Aligned to a cache line and to the widest vector.
  package static let alignment = 64
  /// From here on, ask for huge pages: such memory is mapped afresh for each allocation, and 4 KiB
  /// pages cost thousands of page faults.
  private static let hugePageByteCount = 2 << 20
  private static let hugeAllocationByteCount = 4 << 20

  /// Uninitialised memory of our own.
  package init(byteCount: Int) throws(AttentionError) {
    let isHuge = byteCount >= Self.hugeAllocationByteCount
    var pointer: UnsafeMutableRawPointer?
    let status = posix_memalign(
      &pointer, isHuge ? Self.hugePageByteCount : Self.alignment, max(byteCount, Self.alignment))
    guard status == 0, let pointer else {
      throw AttentionError(.outOfMemory, "Tensor", "\(byteCount) bytes could not be allocated")
    }
    #if os(Linux)
      // 14: MADV_HUGEPAGE. Only advice: a refusal changes nothing.
      if isHuge { _ = madvise(pointer, byteCount, 14) }
    #endif
    base = pointer
    self.byteCount = byteCount
    owner = nil
  }

  /// Memory that `owner` keeps alive and that is never written.
  package init(readOnly base: UnsafeRawPointer, byteCount: Int, owner: AnyObject) {
    self.base = UnsafeMutableRawPointer(mutating: base)
    self.byteCount = byteCount
    self.owner = owner
  }

  var isReadOnly: Bool { owner != nil }

  deinit {
    if owner == nil { free(base) }
  }
}
