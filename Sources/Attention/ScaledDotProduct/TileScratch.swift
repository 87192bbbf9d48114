internal import AttentionTensors

/// The working memory of one worker: about 1 MiB at width 64, whatever the lengths.
struct TileScratch<Element: AttentionElement> {
  /// Queries packed row by row, where their strides are no matrix's.
  let query: UnsafeMutablePointer<Element>
  /// One key tile packed, where BLAS cannot read its strides.
  let key: UnsafeMutablePointer<Element>
  let value: UnsafeMutablePointer<Element>
  let scores: UnsafeMutablePointer<Element>
  let scoreStride: Int
  /// Sum, maximum and unnormalised result of every row.
  let state: RowState<Element>
  let rescale: UnsafeMutablePointer<Element>
  let begin: UnsafeMutablePointer<Int64>
  let end: UnsafeMutablePointer<Int64>
  /// One row of a bias or boolean mask, where it is not contiguous.
  let biasRow: UnsafeMutablePointer<Element>
  let booleanRow: UnsafeMutablePointer<UInt8>

  init(base: UnsafeMutableRawPointer, plan: AttentionPlan, shape: AttentionShape) {
    var carver = Carver(base: base)
    self.init(&carver, plan: plan, shape: shape)
  }

  static func byteCount(plan: AttentionPlan, shape: AttentionShape) -> Int {
    var carver = Carver(base: nil)
    _ = TileScratch(&carver, plan: plan, shape: shape)
    return carver.byteCount
  }

  private init(_ carver: inout Carver, plan: AttentionPlan, shape: AttentionShape) {
    let rowCount = plan.rowsPerTile
    let keyCount = min(plan.keyTileLength, max(shape.keyCount, 1))
    // Rows a power of two apart would share the sets of the cache.
    scoreStride = (keyCount + 15) / 16 * 16 + 16
    query = carver.take(rowCount * shape.width)
    key = carver.take(keyCount * shape.width)
    value = carver.take(keyCount * shape.valueWidth)
    scores = carver.take(rowCount * scoreStride)
    state = RowState(&carver, rowCount: rowCount, valueWidth: shape.valueWidth)
    rescale = carver.take(rowCount)
    begin = carver.take(rowCount)
    end = carver.take(rowCount)
    biasRow = carver.take(keyCount)
    booleanRow = carver.take(keyCount)
  }
}

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
