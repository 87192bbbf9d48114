internal import AttentionTensors

// Keys and values as parts, and what is computed without parts because it lies outside the range of the products.

extension MatrixTiles {
  // MARK: Keys

  /// True if keys are multiplied where they lie: if they are BFloat16 and so are the queries. Then each number is its own
  /// only part, also if it is infinite or NaN.
  static func readsKeys(_ call: AttentionCall<Element>) -> Bool {
    call.key.half == .bfloat16 && call.query.half == .bfloat16 && call.key.columnStride == 1
      && call.shape.headDimension % Kernels<Element>.matrixDepth == 0
  }

  func keys(_ tile: QueryTile, _ keys: Range<Int>, _ set: IntervalSet) -> StoredMatrix<Element> {
    let columnCount = call.shape.headDimension
    ownMemory.pointee.keysOutside.begin(keys.lowerBound)
    if Self.readsKeys(call) {
      return StoredMatrix(
        base: call.key.row(batch: tile.batch, head: tile.keyValueHead, index: keys.lowerBound), half: .bfloat16,
        rowCount: keys.count, columnCount: columnCount, rowStride: call.key.lengthStride, columnStride: 1)
    }
    let rows = keyRows(tile, keys, set)
    let parts = RowParts(
      base: own.key, partCount: own.limits.key, rowCount: keys.count, rowStride: own.depth,
      partStride: own.keyCapacity * own.depth)
    if !call.kernels.splitRows(rows, paddedCount: own.depth, greatest: PartLimits.greatestFactor, into: parts) {
      for (index, key) in keys.enumerated() {
        let elements = stridedSequence(rows.base + index * rows.rowStride, 1, count: columnCount)
        if !elements.allSatisfy(PartLimits.isFactor) { ownMemory.pointee.keysOutside.mark(key) }
      }
    }
    return StoredMatrix(
      base: own.key, half: .bfloat16, rowCount: keys.count, columnCount: columnCount, rowStride: own.depth,
      columnStride: 1)
  }

  /// Keys in the type that attention computes in, with adjacent columns.
  private func keyRows(_ tile: QueryTile, _ keys: Range<Int>, _ set: IntervalSet) -> StridedMatrix<Element> {
    call.matrix(call.key, tile, keys, set, columnCount: call.shape.headDimension, packedAt: own.keyRows) { _ in
      Self.splitsKeys(call)
    }
  }

  /// True if keys can be split where they lie. With block masks they cannot, because keys that no row attends to are not
  /// read.
  static func splitsKeys(_ call: AttentionCall<Element>) -> Bool {
    call.key.half == nil && call.key.columnStride == 1 && call.schedule.terms?.blocks.isEmpty != false
  }

  /// The same for values, whose rows or columns may be adjacent.
  static func splitsValues(_ call: AttentionCall<Element>) -> Bool {
    call.value.half == nil && (call.value.columnStride == 1 || call.value.lengthStride == 1)
      && call.schedule.terms?.blocks.isEmpty != false
  }

  /// Computes the scores of the queries and keys of a block that lie outside the range of the products.
  @inline(never)
  func computeScoresOutside(_ block: Block<Element>, _ tile: QueryTile) {
    let key = keyRows(tile, block.keys, block.set)
    let (depth, laneCount, factor) = (call.shape.headDimension, paddedCount(block.group), own.scale.factor)
    let (queriesOutside, keysOutside) = (own.queriesOutside, own.keysOutside)
    for row in block.rows {
      let isOutside = queriesOutside.contains(row)
      let query = lanes.own.query + block.group.lowerBound * depth + row - block.group.lowerBound
      for (index, number) in block.keys.enumerated() where isOutside || keysOutside.contains(number) {
        let elements = key.base + index * key.rowStride
        var sum: Element = 0
        for i in 0..<depth { sum += query[i * laneCount] * elements[i] }
        block.scores[row - block.rows.lowerBound + index * block.keyStride] = sum * factor
      }
    }
  }

  // MARK: Values

  func values(_ tile: QueryTile, _ keys: Range<Int>, _ set: IntervalSet, isNative: Bool) -> StoredMatrix<Element> {
    if isNative { return lanes.values(tile, keys, set, isNative: true) }
    let columnCount = call.shape.valueDimension
    let rows = call.matrix(call.value, tile, keys, set, columnCount: columnCount, packedAt: own.valueRows) { _ in
      Self.splitsValues(call)
    }
    let sequence = call.schedule.sequences.sequence(ofKey: keys.lowerBound, batch: tile.batch)
    return split(rows, keys, firstIndex: keys.lowerBound - sequence.lowerBound)
  }

  /// The values of some keys, transposed and split into parts. Keys outside the range of the products are 0.
  func split(_ value: StridedMatrix<Element>, _ keys: Range<Int>, firstIndex: Int) -> StoredMatrix<Element> {
    let unit = Kernels<Element>.matrixDepth
    let before = firstIndex % unit
    let parts = RowParts(
      base: own.value, partCount: own.limits.value, rowCount: value.columnCount, rowStride: own.valueStride,
      partStride: value.columnCount * own.valueStride)
    func split(_ rows: StridedMatrix<Element>) -> Bool {
      call.kernels.splitRows(
        rows, before: before, paddedCount: (before + keys.count).roundedUp(toMultipleOf: unit),
        greatest: PartLimits.greatestValue, into: parts)
    }
    ownMemory.pointee.valuesOutside.begin(keys.lowerBound)
    if !split(value.rowStride == 1 ? value.transposed : transposed(value)) {
      ownMemory.pointee.unsplitValue = value
      let within = transposed(value)
      for (index, key) in keys.enumerated() {
        let elements = stridedSequence(
          value.base + index * value.rowStride, value.columnStride, count: value.columnCount)
        if elements.allSatisfy(PartLimits.isValue) { continue }
        ownMemory.pointee.valuesOutside.mark(key)
        for column in 0..<value.columnCount { own.transposedValue[column * within.rowStride + index] = 0 }
      }
      _ = split(within)
    }
    return StoredMatrix(
      base: own.value + before, half: .bfloat16, rowCount: value.rowCount, columnCount: value.columnCount, rowStride: 1,
      columnStride: own.valueStride)
  }

  /// A copy of values whose rows are columns of memory.
  private func transposed(_ value: StridedMatrix<Element>) -> StridedMatrix<Element> {
    for key in 0..<value.rowCount { own.valueAddresses[key] = UnsafeRawPointer(value.base + key * value.rowStride) }
    call.kernels.pack(
      .scaled(by: 1), rowCount: value.rowCount, columnCount: value.columnCount, rows: own.valueAddresses,
      columnStride: value.columnStride, into: own.transposedValue, stride: own.keyCapacity)
    return StridedMatrix(
      base: own.transposedValue, rowCount: value.columnCount, columnCount: value.rowCount, rowStride: own.keyCapacity,
      columnStride: 1)
  }

  /// Adds the weighted values of a block that lie outside the range of the products. For each element, they are summed
  /// from 0 and then added, which has smaller rounding errors.
  @inline(never)
  func addValuesOutside(_ block: Block<Element>) {
    guard let value = own.unsplitValue else { return }
    let outside = own.valuesOutside
    for row in block.rows {
      let (result, stride) = result(ofRow: row, group: block.group)
      let weights = block.scores + row - block.rows.lowerBound
      for column in 0..<value.columnCount {
        let elements = value.base + column * value.columnStride
        var sum: Element = 0
        for key in block.keys where outside.contains(key) {
          sum +=
            weights[(key - block.keys.lowerBound) * block.keyStride] * elements[(key - outside.first) * value.rowStride]
        }
        result[column * stride] += sum
      }
    }
  }
}

/// Which rows of a tile, or which keys, lie outside the range of the products of parts.
struct OutsideRange {
  private let flags: UnsafeMutablePointer<Bool>
  private let capacity: Int
  /// The row or key of the first flag.
  private(set) var first = 0
  /// True if no row or key is marked.
  private(set) var isEmpty = true

  init(capacity: Int, _ arrays: inout ScratchArrays) {
    flags = arrays.take(capacity)
    self.capacity = capacity
  }

  /// Forgets all marks. The rows or keys that follow have numbers from `first` on.
  mutating func begin(_ first: Int) {
    self.first = first
    isEmpty = true
  }

  mutating func mark(_ index: Int) {
    if isEmpty { flags.update(repeating: false, count: capacity) }
    isEmpty = false
    flags[index - first] = true
  }

  func contains(_ index: Int) -> Bool { !isEmpty && flags[index - first] }
}

/// `count` elements of memory, `stride` apart.
func stridedSequence<Element>(
  _ base: UnsafePointer<Element>, _ stride: Int, count: Int
) -> LazyMapSequence<Range<Int>, Element> {
  (0..<count).lazy.map { base[$0 * stride] }
}
