internal import AttentionTensors

/// What the online softmax knows of each row of a tile.
struct RowState<Element: AttentionElement> {
  let maximum: UnsafeMutablePointer<Element>
  let sum: UnsafeMutablePointer<Element>
  /// Σ exp(score − maximum) · value, `[rows, Ev]`.
  let result: UnsafeMutablePointer<Element>

  init(_ carver: inout Carver, rowCount: Int, valueWidth: Int) {
    maximum = carver.take(rowCount)
    sum = carver.take(rowCount)
    result = carver.take(rowCount * valueWidth)
  }

  /// One of several states that lie one after another.
  init(base: UnsafeMutableRawPointer, index: Int, rowCount: Int, valueWidth: Int) {
    var carver = Carver(base: base + index * Self.byteCount(rowCount: rowCount, valueWidth: valueWidth))
    self.init(&carver, rowCount: rowCount, valueWidth: valueWidth)
  }

  static func byteCount(rowCount: Int, valueWidth: Int) -> Int {
    var carver = Carver(base: nil)
    _ = RowState(&carver, rowCount: rowCount, valueWidth: valueWidth)
    return carver.byteCount
  }

  /// Before the first key.
  func reset(rowCount: Int, valueWidth: Int) {
    maximum.update(repeating: -.infinity, count: rowCount)
    sum.update(repeating: 0, count: rowCount)
    result.update(repeating: 0, count: rowCount * valueWidth)
  }
}

/// Cuts arrays out of a block of memory, each aligned to 64 bytes. Without a block it only counts.
struct Carver {
  private let base: UnsafeMutableRawPointer?
  private(set) var byteCount = 0

  init(base: UnsafeMutableRawPointer?) { self.base = base }

  mutating func take<Value>(_ count: Int) -> UnsafeMutablePointer<Value> {
    // Counting needs an address too; it is never followed.
    let start = base ?? UnsafeMutableRawPointer(bitPattern: TensorStorage.alignment)!
    defer { byteCount += (count * MemoryLayout<Value>.stride + 63) / 64 * 64 }
    return (start + byteCount).assumingMemoryBound(to: Value.self)
  }
}
