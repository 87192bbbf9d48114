internal import AttentionTensors

/// A mask compiled for one call: for every query an interval of keys, and tensors to be applied within it.
///
/// Both ends of the interval grow, or stay, from one query to the next. So the keys that any query of a
/// block needs, and those that all of them need, follow from its first and last query.
struct MaskSchedule<Element: AttentionElement> {
  /// Keys to which `mask` applies; those behind them are attended by every query.
  let maskedKeyCount: Int
  let keyCount: Int
  let booleans: [Operand<UInt8>]
  let biases: [Operand<Element>]
  private let bands: [(low: Int?, high: Int?)]
  /// For each element of the batch, the keys that its length and padding leave.
  private let keyRanges: [Range<Int>]?
  /// Keeps the tensors' memory alive.
  private let owners: [any Sendable]

  init(_ mask: AttentionMask, shape: AttentionShape) throws(AttentionError) {
    keyCount = shape.keyCount
    let maskedKeyCount = shape.keyCount - mask.trailingKeyCount
    self.maskedKeyCount = maskedKeyCount
    assert(maskedKeyCount >= 0)
    for band in mask.bands {
      try requireArgument(
        (band.left ?? 0) >= 0 && (band.right ?? 0) >= 0, AttentionShape.subject,
        "window bounds must not be negative; got \(band.left ?? 0), \(band.right ?? 0)")
    }
    bands = mask.bands.map { band in
      let offset = band.alignment.offset(queryCount: shape.queryCount, keyCount: maskedKeyCount)
      // A bound beyond every key is none; it must not overflow either.
      return (
        band.left.map { offset - min($0, shape.queryCount + shape.keyCount) },
        band.right.map { offset + min($0, shape.queryCount + shape.keyCount) + 1 }
      )
    }
    func check(_ name: String, _ counts: [Int]) throws(AttentionError) {
      try requireShape(
        counts.count == shape.batchCount, AttentionShape.subject,
        "one \(name) for each of \(shape.batchCount) elements of the batch expected; got \(counts.count)")
      try requireArgument(
        counts.allSatisfy { (0...maskedKeyCount).contains($0) }, AttentionShape.subject,
        "a \(name) from 0 to the \(maskedKeyCount) keys expected; got \(counts)")
    }
    for lengths in mask.keyLengths { try check("key length", lengths) }
    for counts in mask.leftPaddings { try check("left padding", counts) }
    if mask.keyLengths.isEmpty && mask.leftPaddings.isEmpty {
      keyRanges = nil
    } else {
      keyRanges = (0..<shape.batchCount).map { batch in
        let low = mask.leftPaddings.map { $0[batch] }.max() ?? 0
        let high = mask.keyLengths.map { $0[batch] }.min() ?? maskedKeyCount
        return low..<max(low, high)
      }
    }

    let target = [shape.batchCount, shape.headCount, shape.queryCount, maskedKeyCount]
    func checkShape(_ name: String, _ shape: [Int]) throws(AttentionError) {
      try requireShape(
        isBroadcastable(shape, to: target), AttentionShape.subject,
        "a \(name) that broadcasts to [B, H, L, S] = \(target) expected; got \(shape)")
    }
    var owners: [any Sendable] = []
    booleans = try mask.booleans.map { tensor throws(AttentionError) in
      try checkShape("boolean mask", tensor.shape)
      owners.append(tensor)
      let wide = try tensor.broadcast(to: target)
      // A Bool is one byte, 0 or 1.
      return Operand(base: UnsafeRawPointer(wide.base).assumingMemoryBound(to: UInt8.self), strides: wide.strides)
    }
    biases = try mask.biases.map { bias throws(AttentionError) in
      try checkShape("bias", bias.shape)
      guard let tensor = bias.tensor as? Tensor<Element> else {
        throw AttentionError(
          .invalidArgument, AttentionShape.subject,
          "a bias of the query's element type \(Element.dataType.rawValue) expected; got \(bias.dataType.rawValue): "
            + "convert it with Tensor(converting:)")
      }
      owners.append(tensor)
      let wide = try tensor.broadcast(to: target)
      return Operand(base: wide.base, strides: wide.strides)
    }
    self.owners = owners
  }

  /// True if within its interval a query may still not attend to every key.
  var hasTensors: Bool { !booleans.isEmpty || !biases.isEmpty }

  /// True if intervals differ from one query to the next.
  var isRagged: Bool { !bands.isEmpty }

  /// True if elements of the batch have lengths or paddings of their own.
  var differsByBatch: Bool { keyRanges != nil }

  /// True if some query's interval may leave keys out.
  var isStructured: Bool { !bands.isEmpty || keyRanges != nil }

  /// The keys before `maskedKeyCount` that a query's interval holds.
  func interval(batch: Int, query: Int) -> Range<Int> {
    var low = 0
    var high = maskedKeyCount
    for band in bands {
      if let bound = band.low { low = max(low, query + bound) }
      if let bound = band.high { high = min(high, query + bound) }
    }
    if let range = keyRanges?[batch] {
      low = max(low, range.lowerBound)
      high = min(high, range.upperBound)
    }
    low = min(max(low, 0), maskedKeyCount)
    return low..<max(low, min(high, maskedKeyCount))
  }

  /// The keys before `maskedKeyCount` that some query of a block needs.
  func union(batch: Int, queries: Range<Int>) -> Range<Int> {
    let first = interval(batch: batch, query: queries.lowerBound)
    let last = interval(batch: batch, query: queries.upperBound - 1)
    return first.lowerBound..<max(first.lowerBound, last.upperBound)
  }

  /// The keys before `maskedKeyCount` that every query of a block needs.
  func common(batch: Int, queries: Range<Int>) -> Range<Int> {
    let first = interval(batch: batch, query: queries.lowerBound)
    let last = interval(batch: batch, query: queries.upperBound - 1)
    return last.lowerBound..<max(last.lowerBound, first.upperBound)
  }

  /// Whether one query may attend to one key. For rare paths: the driver works by intervals.
  func attends(batch: Int, head: Int, query: Int, key: Int) -> Bool {
    if key >= maskedKeyCount { return true }
    guard interval(batch: batch, query: query).contains(key) else { return false }
    return booleans.allSatisfy { $0.row(batch: batch, head: head, index: query)[key * $0.widthStride] != 0 }
      && biases.allSatisfy { $0.row(batch: batch, head: head, index: query)[key * $0.widthStride] != -.infinity }
  }
}
