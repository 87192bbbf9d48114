/// Divides a block of memory into arrays, each aligned as the memory of tensors is. Without a block, it only counts the
/// bytes that the arrays would take.
///
/// It is inlined in other modules, because each task divides its working memory into some twenty arrays anew. With
/// small heads, a task is so short that calls would cost noticeable time.
@usableFromInline package struct ScratchArrays {
  @usableFromInline let base: UnsafeMutableRawPointer?
  @usableFromInline package var byteCount = 0

  @inlinable package init(base: UnsafeMutableRawPointer?) { self.base = base }

  @inlinable package var isCounting: Bool { base == nil }

  /// An array of no elements.
  @inlinable package func none<Value>() -> UnsafeMutablePointer<Value> {
    UnsafeMutableRawPointer(bitPattern: TensorStorage.alignment)!.assumingMemoryBound(to: Value.self)
  }

  @inlinable package mutating func take<Value>(_ count: Int) -> UnsafeMutablePointer<Value> {
    // Counting needs an address too, but never uses it.
    let alignment = TensorStorage.alignment
    let start = base ?? UnsafeMutableRawPointer(bitPattern: alignment)!
    let array = (start + byteCount).assumingMemoryBound(to: Value.self)
    byteCount += (count * MemoryLayout<Value>.stride + alignment - 1) / alignment * alignment
    return array
  }
}
