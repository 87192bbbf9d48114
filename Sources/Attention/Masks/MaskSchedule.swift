internal import AttentionTensors

/// A mask compiled for one call: for every query intervals of keys, and what applies to scores within them.
struct MaskSchedule<Element: AttentionElement> {
  /// What to add to scores: −slope[head]·|key at which the query stands − key|.
  struct Distances {
    let slopes: [Element]
    private let alignment: AttentionMask.Alignment
    private let places: QueryPlaces

    init(
      _ distances: AttentionMask.Distances, _ places: QueryPlaces, shape: AttentionShape
    ) throws(AttentionError) {
      try distances.alignment.check(shape)
      try requireShape(
        distances.slopes.count == shape.headCount, AttentionShape.subject,
        "one slope for each of \(shape.headCount) heads expected; got \(distances.slopes.count)")
      slopes = distances.slopes.map { Element(nearest: $0) }
      try requireArgument(
        slopes.allSatisfy(\.isFinite), AttentionShape.subject,
        "slopes that are finite as \(Element.self) expected; got \(distances.slopes)")
      alignment = distances.alignment
      self.places = places
    }

    func key(ofQuery query: Int, batch: Int) -> Int { places.key(ofQuery: query, batch: batch, alignment) }
  }

  let keyCount: Int
  /// The set in which every query that attends to something has an interval.
  let firstSet: IntervalSet
  let otherSets: [IntervalSet]
  let origins: KeyOrigins
  /// Of each element of the batch, how many queries it has. Nil: all of them.
  private let queryCounts: [Int]?
  let booleans: [Operand]
  let blocks: [BlockMask]
  let biases: [Operand]
  let distances: [Distances]
  let functions: [AttentionScoreFunction<Element>]
  /// The first bias or boolean mask: of `[L, S]`, what a call reads most of.
  var firstMatrix: Operand? { biases.first ?? booleans.first }
  /// Keep the memory of tensors and intervals alive.
  private let owners: [any Sendable]
  private let intervals: KeyIntervalTable?

  /// True if within its interval a query may still not attend to every key.
  let hidesWithinIntervals: Bool
  /// True if scores are not what softcap leaves, or hidden.
  let hasTerms: Bool
  /// True if intervals differ from one query to the next.
  let isRagged: Bool

  init(_ mask: AttentionMask, shape: AttentionShape) throws(AttentionError) {
    keyCount = shape.keyCount
    let maskedKeyCount = shape.keyCount - mask.trailingKeyCount
    assert(maskedKeyCount >= 0)
    let compiled = try KeyIntervalTable.compile(mask, keyCount: maskedKeyCount, shape: shape)
    firstSet = IntervalSet(intervals: compiled.first, isMasked: true)
    var otherSets = compiled.others.map { IntervalSet(intervals: $0, isMasked: true) }
    if maskedKeyCount < keyCount {
      otherSets.append(IntervalSet(intervals: KeyIntervals(maskedKeyCount..<keyCount), isMasked: false))
    }
    self.otherSets = otherSets
    origins = KeyOrigins(mask, keyCount: maskedKeyCount, shape: shape)
    queryCounts =
      mask.queryLengths.isEmpty
      ? nil : (0..<shape.batchCount).map { batch in mask.queryLengths.map { $0[batch] }.min()! }
    intervals = compiled.owner
    isRagged = compiled.first.isRagged

    // Made where it is wanted: a small call without a mask would pay for an array.
    var target: [Int] { [shape.batchCount, shape.headCount, shape.queryCount, maskedKeyCount] }
    func checkShape(_ name: String, _ shape: [Int]) throws(AttentionError) {
      try requireShape(
        isBroadcastable(shape, to: target), AttentionShape.subject,
        "a \(name) that broadcasts to [B, H, L, S] = \(target) expected; got \(shape)")
    }
    func checkType(_ name: String, _ dataType: DataType, allowingHalves: Bool) throws(AttentionError) {
      try requireArgument(
        dataType == Element.dataType || (allowingHalves && HalfFormat(dataType) != nil && Element.dataType == .float32),
        AttentionShape.subject,
        "\(name) of \(Element.dataType.rawValue), the type that the query is computed in, expected; got "
          + "\(dataType.rawValue)\(allowingHalves ? ": convert it with Tensor(converting:)" : "")")
    }
    var owners: [any Sendable] = []
    booleans = try mask.booleans.map { tensor throws(AttentionError) in
      try checkShape("boolean mask", tensor.shape)
      owners.append(tensor)
      let wide = try tensor.broadcast(to: target)
      // A Bool is one byte, 0 or 1.
      return Operand(base: wide.base, dataType: .bool, strides: wide.strides)
    }
    biases = try mask.biases.map { bias throws(AttentionError) in
      try checkShape("bias", bias.shape)
      try checkType("a bias", bias.dataType, allowingHalves: true)
      owners.append(bias.tensor)
      func operand<Value: TensorElement>(_ tensor: Tensor<Value>) throws(AttentionError) -> Operand {
        let wide = try tensor.broadcast(to: target)
        return Operand(base: wide.base, dataType: Value.dataType, strides: wide.strides)
      }
      switch bias.tensor {
      case let tensor as Tensor<Element>: return try operand(tensor)
      case let tensor as Tensor<BFloat16>: return try operand(tensor)
      default:
        #if !(os(macOS) && arch(x86_64))
          if let tensor = bias.tensor as? Tensor<Float16> { return try operand(tensor) }
        #endif
        preconditionFailure("a bias of \(bias.dataType) passed the check")
      }
    }
    blocks = mask.blocks
    for block in mask.blocks {
      try requireShape(
        block.queryCount == shape.queryCount && block.keyCount == maskedKeyCount
          && [1, shape.batchCount].contains(block.batchCount) && [1, shape.headCount].contains(block.headCount),
        AttentionShape.subject,
        "a block mask that broadcasts to [B, H, L, S] = \(target) expected; got "
          + "\([block.batchCount, block.headCount, block.queryCount, block.keyCount])")
    }
    if mask.distances.isEmpty {
      distances = []
    } else {
      let places = QueryPlaces(mask, keyCount: maskedKeyCount, shape: shape)
      distances = try mask.distances.map { distances throws(AttentionError) in
        try Distances(distances, places, shape: shape)
      }
    }
    functions = try mask.functions.map { function throws(AttentionError) in
      try checkType("a function of scores", function.dataType, allowingHalves: false)
      return function.body as! AttentionScoreFunction<Element>
    }
    self.owners = owners
    hidesWithinIntervals = !booleans.isEmpty || !biases.isEmpty || !blocks.isEmpty || !functions.isEmpty
    hasTerms = hidesWithinIntervals || !distances.isEmpty
  }

  /// True if elements of the batch have intervals of their own.
  var differsByBatch: Bool { firstSet.intervals.differsByBatch }

  /// True if some query's intervals may leave keys out.
  var isStructured: Bool { firstSet.intervals.isStructured }

  /// The queries of an element of the batch that may attend to something.
  func queryCount(batch: Int, of shape: AttentionShape) -> Int { queryCounts?[batch] ?? shape.queryCount }

  /// True if some query may not attend to some key.
  var isHiding: Bool { isRagged || hidesWithinIntervals }

  func forEachSet(_ body: (IntervalSet) -> Void) {
    body(firstSet)
    for set in otherSets { body(set) }
  }

  /// The keys that some query of a tile needs, counted once for each set.
  func unionCount(batch: Int, queries: Range<Int>) -> Int {
    var count = 0
    forEachSet { count += $0.intervals.union(batch: batch, queries: queries).count }
    return count
  }

  /// Whether one query may attend to one key, functions of scores aside. For rare paths: passes work by intervals.
  func attends(batch: Int, head: Int, query: Int, key: Int) -> Bool {
    func has(_ set: IntervalSet) -> Bool { set.intervals[batch, query].contains(key) }
    if !has(firstSet) {
      guard let set = otherSets.first(where: has) else { return false }
      if !set.isMasked { return true }
    }
    return allows(batch: batch, head: head, query: query, key: key)
  }

  /// Whether tensors and block masks let one query attend to one key, intervals aside.
  func allows(batch: Int, head: Int, query: Int, key: Int) -> Bool {
    booleans.allSatisfy {
      $0.row(batch: batch, head: head, index: query, from: key).load(as: UInt8.self) != 0
    }
      && blocks.allSatisfy {
        $0.row(batch: batch, head: head, query: query, column: key / $0.blockLength)[key % $0.blockLength] != 0
      }
      && biases.allSatisfy { !Self.isNegativeInfinity($0, $0.row(batch: batch, head: head, index: query, from: key)) }
  }

  private static func isNegativeInfinity(_ bias: Operand, _ place: UnsafeRawPointer) -> Bool {
    switch bias.half {
    case nil: place.load(as: Element.self) == -.infinity
    case .ieee: place.load(as: UInt16.self) == 0xfc00
    case .brain: place.load(as: UInt16.self) == 0xff80
    }
  }
}
