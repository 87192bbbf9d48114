/// Cuts arrays out of a block of memory, each aligned to 64 bytes. Without a block it only counts.
///
/// Inlined in other modules: a working memory of some twenty arrays is cut for every run of small heads.
@usableFromInline package struct Carver {
  @usableFromInline let base: UnsafeMutableRawPointer?
  @usableFromInline package var byteCount = 0
  @inlinable static var alignment: Int { 64 }

  @inlinable package init(base: UnsafeMutableRawPointer?) { self.base = base }

  @inlinable package mutating func take<Value>(_ count: Int) -> UnsafeMutablePointer<Value> {
    // Counting needs an address too; it is never followed.
    let start = base ?? UnsafeMutableRawPointer(bitPattern: Self.alignment)!
    let array = (start + byteCount).assumingMemoryBound(to: Value.self)
    byteCount += (count * MemoryLayout<Value>.stride + Self.alignment - 1) / Self.alignment * Self.alignment
    return array
  }
}
