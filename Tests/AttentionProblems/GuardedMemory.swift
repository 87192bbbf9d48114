public import AttentionTensors
import CLibrary

/// Memory between two pages that may not be touched. A process that touches one of these pages, or a page that
/// ``hide(_:)`` has hidden, ends at once.
public final class GuardedMemory {
  /// The end of the memory that lies directly at a page that may not be touched. The other end does, too, if the size
  /// is a multiple of the page size.
  public enum Side: Sendable, CaseIterable { case front, back }

  public let base: UnsafeMutableRawPointer
  public let byteCount: Int
  private let pages: UnsafeMutableRawPointer
  private let pagesByteCount: Int

  public static let pageByteCount = Int(sysconf(CInt(_SC_PAGESIZE)))

  public init(byteCount: Int, guarding side: Side) {
    let page = Self.pageByteCount
    let inner = (byteCount + page - 1) / page * page
    pagesByteCount = inner + 2 * page
    pages = mmap(nil, pagesByteCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0)!
    precondition(pages != MAP_FAILED)
    self.byteCount = byteCount
    base = pages + page + (side == .front ? 0 : inner - byteCount)
    precondition(mprotect(pages, page, PROT_NONE) == 0 && mprotect(pages + page + inner, page, PROT_NONE) == 0)
  }

  deinit { munmap(pages, pagesByteCount) }

  /// Hides the whole pages within a range of bytes: they may not be touched any more. Returns the number of these
  /// pages.
  @discardableResult
  public func hide(_ bytes: Range<Int>) -> Int {
    let page = Self.pageByteCount
    let start = Int(bitPattern: base)
    let first = (start + bytes.lowerBound + page - 1) / page * page
    let end = (start + bytes.upperBound) / page * page
    if first >= end { return 0 }
    precondition(mprotect(UnsafeMutableRawPointer(bitPattern: first)!, end - first, PROT_NONE) == 0)
    return (end - first) / page
  }
}

extension Tensor {
  /// A contiguous copy of the tensor between pages that may not be touched. The whole pages within the element ranges
  /// `hidden` may not be touched either. The number of these hidden pages is added to `hiddenPageCount`.
  public func guarded(
    _ side: GuardedMemory.Side, hiding hidden: [Range<Int>] = [], hiddenPageCount: inout Int
  ) throws -> Tensor {
    let size = MemoryLayout<Element>.stride
    let memory = GuardedMemory(byteCount: count * size, guarding: side)
    let elements = array
    elements.withUnsafeBytes { memory.base.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
    for range in hidden { hiddenPageCount += memory.hide(range.lowerBound * size..<range.upperBound * size) }
    return Tensor(
      storage: TensorStorage(readOnly: memory.base, byteCount: memory.byteCount, owner: memory), offset: 0,
      shape: shape, strides: try contiguous().strides)
  }

  public func guarded(_ side: GuardedMemory.Side) throws -> Tensor {
    var count = 0
    return try guarded(side, hiddenPageCount: &count)
  }
}
