/// Cuts arrays out of a block of memory, each aligned to 64 bytes. Without a block it only counts.
package struct Carver {
  private let base: UnsafeMutableRawPointer?
  package private(set) var byteCount = 0

  package init(base: UnsafeMutableRawPointer?) { self.base = base }

  package mutating func take<Value>(_ count: Int) -> UnsafeMutablePointer<Value> {
    // Counting needs an address too; it is never followed.
    let start = base ?? UnsafeMutableRawPointer(bitPattern: TensorStorage.alignment)!
    defer { byteCount += (count * MemoryLayout<Value>.stride + 63) / 64 * 64 }
    return (start + byteCount).assumingMemoryBound(to: Value.self)
  }
}
