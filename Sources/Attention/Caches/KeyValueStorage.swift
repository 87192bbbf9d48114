internal import AttentionTensors

/// Where a cache stores its keys and values. Every token of a sample has one row of keys and one of values in each
/// head. `index` is the number of the token among the stored tokens of its sample.
protocol KeyValueStorage: AnyObject {
  var rows: KeyValueRows { get }

  /// The number of rows from the start of one head to the start of the next.
  var headRowCount: Int { get }

  /// Makes room for the rows `range` of a sample, in memory that no other cache or sample shares. The sample must
  /// already have all rows before `range`.
  func prepare(sample: Int, _ range: Range<Int>) throws

  /// The place of the first head's row `index`, and how many rows from there lie one after another, at most `limit`.
  func adjacentRows(sample: Int, from index: Int, limit: Int) -> (place: KeyValueRows.Place, count: Int)

  /// Removes the rows `range` of a sample. The rows after them, up to `end`, take their place.
  func remove(sample: Int, _ range: Range<Int>, end: Int) throws

  /// Makes a storage of some samples of this storage, in the given order. Each keeps its first `counts[sample]` rows,
  /// where `sample` is its number in this storage.
  func fork(samples: [Int], counts: [Int]) throws -> any KeyValueStorage

  /// The keys and values as operands with `keyCount` rows for each sample and head.
  func inputs(keyCount: Int) throws -> (key: AttentionInput, value: AttentionInput)
}

/// The extents of a cache's rows.
struct KeyValueRows: Sendable {
  let batchCount: Int
  let headCount: Int
  let headDimension: Int
  let valueDimension: Int
  let dataType: DataType

  /// The addresses of a row of keys and of the row of values that belongs to it.
  struct Place {
    let key: UnsafeMutableRawPointer
    let value: UnsafeMutableRawPointer
  }

  private var elementByteCount: Int { dataType.bitCount / 8 }

  func with(batchCount: Int) -> KeyValueRows {
    KeyValueRows(
      batchCount: batchCount, headCount: headCount, headDimension: headDimension, valueDimension: valueDimension,
      dataType: dataType)
  }

  /// Memory for `count` rows of every head of `batchCount` samples, and the offset of the values in it, in bytes.
  func allocate(_ count: Int, batchCount: Int) throws(AttentionError) -> (memory: TensorStorage, valueOffset: Int) {
    func bytes(_ dimension: Int) throws(AttentionError) -> Int {
      // `elementCount` checks these extents as it checks those of a tensor.
      try elementCount(of: [batchCount, headCount, count, max(dimension, 1), elementByteCount])
    }
    let (keys, values) = (try bytes(headDimension), try bytes(valueDimension))
    try requireArgument(
      max(keys, values) < Int.max / 4, "KeyValueCache", "\(count) rows have more bytes than fit an Int")
    let valueOffset = (keys + 63) / 64 * 64
    return (try TensorStorage(byteCount: valueOffset + values), valueOffset)
  }

  /// The place `count` rows after `place`.
  func advance(_ place: Place, by count: Int) -> Place {
    Place(
      key: place.key + count * headDimension * elementByteCount,
      value: place.value + count * valueDimension * elementByteCount)
  }

  /// Copies `count` rows of every head. Heads begin `headRowCount` rows apart in the source, and `targetCount` rows
  /// apart in the target. The old and the new rows of a head may overlap, as for memmove.
  func copy(_ count: Int, from source: Place, headRowCount: Int, to target: Place, headRowCount targetCount: Int) {
    for head in 0..<headCount {
      let from = advance(source, by: head * headRowCount)
      let to = advance(target, by: head * targetCount)
      to.key.copyMemory(from: from.key, byteCount: count * headDimension * elementByteCount)
      to.value.copyMemory(from: from.value, byteCount: count * valueDimension * elementByteCount)
    }
  }

  func inputs(
    _ first: Place, keyCount: Int, headRowCount: Int, keyPages: Operand.Pages? = nil, valuePages: Operand.Pages? = nil,
    owner: AnyObject
  ) -> (key: AttentionInput, value: AttentionInput) {
    func input(_ base: UnsafeMutableRawPointer, _ dimension: Int, _ pages: Operand.Pages?) -> AttentionInput {
      AttentionInput(
        shape: [batchCount, headCount, keyCount, dimension],
        operand: Operand(
          base: base, dataType: dataType,
          strides: [headCount * headRowCount * dimension, headRowCount * dimension, dimension, 1], pages: pages),
        owner: owner)
    }
    return (input(first.key, headDimension, keyPages), input(first.value, valueDimension, valuePages))
  }
}

/// Keys `[B, Hk, capacity, E]` and values `[B, Hk, capacity, Ev]` in one block of memory. When the capacity becomes too
/// small, the rows are copied to a larger block.
final class ContiguousKeyValues: KeyValueStorage {
  let rows: KeyValueRows
  private(set) var headRowCount: Int
  private var memory: TensorStorage
  private var valueOffset: Int

  init(_ rows: KeyValueRows, capacity: Int) throws(AttentionError) {
    self.rows = rows
    headRowCount = capacity
    (memory, valueOffset) = try rows.allocate(capacity, batchCount: rows.batchCount)
  }

  private func place(sample: Int, index: Int) -> KeyValueRows.Place {
    let first = KeyValueRows.Place(key: memory.base, value: memory.base + valueOffset)
    return rows.advance(first, by: sample * rows.headCount * headRowCount + index)
  }

  func prepare(sample _: Int, _ range: Range<Int>) throws {
    // The capacity grows by half or more, so that on average a row is copied only a few times.
    if range.upperBound > headRowCount { try resize(to: max(range.upperBound, headRowCount + headRowCount / 2 + 16)) }
  }

  private func resize(to capacity: Int) throws {
    let larger = try ContiguousKeyValues(rows, capacity: capacity)
    for sample in 0..<rows.batchCount {
      rows.copy(
        headRowCount, from: place(sample: sample, index: 0), headRowCount: headRowCount,
        to: larger.place(sample: sample, index: 0), headRowCount: capacity)
    }
    (headRowCount, memory, valueOffset) = (capacity, larger.memory, larger.valueOffset)
  }

  func adjacentRows(sample: Int, from index: Int, limit: Int) -> (place: KeyValueRows.Place, count: Int) {
    (place(sample: sample, index: index), limit)
  }

  func remove(sample: Int, _ range: Range<Int>, end: Int) {
    rows.copy(
      end - range.upperBound, from: place(sample: sample, index: range.upperBound), headRowCount: headRowCount,
      to: place(sample: sample, index: range.lowerBound), headRowCount: headRowCount)
  }

  func fork(samples: [Int], counts: [Int]) throws -> any KeyValueStorage {
    let copy = try ContiguousKeyValues(
      rows.with(batchCount: samples.count), capacity: samples.map { counts[$0] }.max() ?? 0)
    for (target, source) in samples.enumerated() {
      rows.copy(
        counts[source], from: place(sample: source, index: 0), headRowCount: headRowCount,
        to: copy.place(sample: target, index: 0), headRowCount: copy.headRowCount)
    }
    return copy
  }

  func inputs(keyCount: Int) -> (key: AttentionInput, value: AttentionInput) {
    rows.inputs(place(sample: 0, index: 0), keyCount: keyCount, headRowCount: headRowCount, owner: memory)
  }
}

/// Pages, each with keys `[Hk, length, E]` and values `[Hk, length, Ev]`. Several caches and samples may share a page.
/// A sample that writes to a shared page first replaces it by a page of its own.
final class PagedKeyValues: KeyValueStorage {
  final class Page {
    let memory: TensorStorage
    let place: KeyValueRows.Place

    init(_ rows: KeyValueRows, length: Int) throws(AttentionError) {
      let (memory, valueOffset) = try rows.allocate(length, batchCount: 1)
      self.memory = memory
      place = KeyValueRows.Place(key: memory.base, value: memory.base + valueOffset)
    }
  }

  /// The addresses of each sample's pages, for one call.
  private final class Table {
    let key: UnsafeMutablePointer<UnsafeRawPointer>
    let value: UnsafeMutablePointer<UnsafeRawPointer>
    /// Keeps the pages alive: a cache may release a page while a result is computed.
    let pages: [[Page]]

    init(_ pages: [[Page]], countPerSample: Int, default first: Page) {
      self.pages = pages
      key = .allocate(capacity: max(1, pages.count * countPerSample))
      value = .allocate(capacity: max(1, pages.count * countPerSample))
      for (sample, own) in pages.enumerated() {
        for index in 0..<countPerSample {
          // A sample that is shorter than others may have no page `index`. The mask hides the keys of such a page from
          // the sample's queries, so the address of any page will do.
          let page = index < own.count ? own[index] : first
          key[sample * countPerSample + index] = UnsafeRawPointer(page.place.key)
          value[sample * countPerSample + index] = UnsafeRawPointer(page.place.value)
        }
      }
    }

    deinit {
      key.deallocate()
      value.deallocate()
    }
  }

  let rows: KeyValueRows
  let headRowCount: Int
  private var pages: [[Page]]

  init(_ rows: KeyValueRows, pageLength: Int) {
    self.rows = rows
    headRowCount = pageLength
    pages = Array(repeating: [], count: rows.batchCount)
  }

  func prepare(sample: Int, _ range: Range<Int>) throws {
    if range.isEmpty { return }
    let first = range.lowerBound / headRowCount
    let last = (range.upperBound - 1) / headRowCount
    // Pages after the one with the last row of `range` are left from before a truncation. None of their rows exist any
    // more, so these pages are removed.
    if pages[sample].count > last + 1 { pages[sample].removeLast(pages[sample].count - last - 1) }
    if first < pages[sample].count && !isKnownUniquelyReferenced(&pages[sample][first]) {
      let copy = try Page(rows, length: headRowCount)
      rows.copy(
        range.lowerBound % headRowCount, from: pages[sample][first].place, headRowCount: headRowCount, to: copy.place,
        headRowCount: headRowCount)
      pages[sample][first] = copy
    }
    // Later pages are written from their first row on. So a shared one is replaced by a new page, without a copy of its
    // rows.
    for index in first + 1..<max(first + 1, min(pages[sample].count, last + 1))
    where !isKnownUniquelyReferenced(&pages[sample][index]) {
      pages[sample][index] = try Page(rows, length: headRowCount)
    }
    while pages[sample].count <= last { pages[sample].append(try Page(rows, length: headRowCount)) }
  }

  func adjacentRows(sample: Int, from index: Int, limit: Int) -> (place: KeyValueRows.Place, count: Int) {
    let (page, row) = index.quotientAndRemainder(dividingBy: headRowCount)
    return (rows.advance(pages[sample][page].place, by: row), min(limit, headRowCount - row))
  }

  func remove(sample: Int, _ range: Range<Int>, end: Int) throws {
    let (source, newEnd) = (pages[sample], end - range.count)
    let keptPageCount = range.lowerBound / headRowCount
    // The page of the first removed row and all pages after it are replaced by new ones, because other caches or
    // samples may share the old ones.
    var target = Array(source.prefix(keptPageCount))
    var row = keptPageCount * headRowCount
    while row < newEnd {
      let page = try Page(rows, length: headRowCount)
      let pageEnd = min(row + headRowCount, newEnd)
      var place = page.place
      while row < pageEnd {
        // Rows before the removed ones keep their index.
        let isBefore = row < range.lowerBound
        let old = isBefore ? row : row + range.count
        let (index, first) = old.quotientAndRemainder(dividingBy: headRowCount)
        let count = min((isBefore ? min(pageEnd, range.lowerBound) : pageEnd) - row, headRowCount - first)
        rows.copy(
          count, from: rows.advance(source[index].place, by: first), headRowCount: headRowCount, to: place,
          headRowCount: headRowCount)
        place = rows.advance(place, by: count)
        row += count
      }
      target.append(page)
    }
    pages[sample] = target
  }

  func fork(samples: [Int], counts: [Int]) -> any KeyValueStorage {
    let fork = PagedKeyValues(rows.with(batchCount: samples.count), pageLength: headRowCount)
    fork.pages = samples.map { sample in
      Array(pages[sample].prefix((counts[sample] + headRowCount - 1) / headRowCount))
    }
    return fork
  }

  func inputs(keyCount: Int) throws -> (key: AttentionInput, value: AttentionInput) {
    let first = try self.pages.lazy.compactMap(\.first).first ?? Page(rows, length: 1)
    let count = (keyCount + headRowCount - 1) / headRowCount
    let table = Table(self.pages, countPerSample: count, default: first)
    func pages(_ bases: UnsafeMutablePointer<UnsafeRawPointer>) -> Operand.Pages {
      Operand.Pages(bases: UnsafePointer(bases), countPerSample: count, length: headRowCount)
    }
    return rows.inputs(
      first.place, keyCount: keyCount, headRowCount: headRowCount, keyPages: pages(table.key),
      valuePages: pages(table.value), owner: table)
  }

  /// The number of pages of this storage. A page counts once, however many samples share it.
  var pageCount: Int { Set(pages.joined().map { ObjectIdentifier($0) }).count }
}
