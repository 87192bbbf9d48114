internal import AttentionTensors

/// The part of a mask that works on scores: biases, distances and functions, and the boolean masks and block masks that
/// forbid keys within the intervals of queries.
///
/// This is a class because a call copies its compiled mask for each thread: one reference is copied instead of six
/// arrays.
final class MaskTerms<Element: AttentionElement>: @unchecked Sendable {
  // Sendable: operands point to the memory of tensors, which `owners` keeps alive and nobody writes to.

  /// A linear bias, ALiBi: adds −slope[head]·|key at which the query stands − key| to each score.
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
      slopes = distances.slopes.map { Element(_nearest: $0) }
      try requireArgument(
        slopes.allSatisfy(\.isFinite), AttentionShape.subject,
        "slopes that are finite as \(Element.self) expected; got \(distances.slopes)")
      alignment = distances.alignment
      self.places = places
    }

    func key(ofQuery query: Int, batch: Int) -> Int { places.key(ofQuery: query, batch: batch, alignment) }
  }

  let booleans: [Operand]
  let blocks: [BlockMask]
  let biases: [Operand]
  let distances: [Distances]
  let functions: [AttentionScoreFunction<Element>]
  /// The bias or boolean mask that is applied first. Nil if there is neither. The plan of a call depends on it, because
  /// it can have an element for each score, and so be the largest input of the call.
  var firstMatrix: Operand? { biases.first ?? booleans.first }
  /// True if these terms may forbid a key that lies in a query's interval.
  let isHiding: Bool
  /// Keeps the memory of tensors alive.
  private let owners: [any Sendable]

  /// The terms of a mask; nil if it has none.
  static func compiled(
    _ mask: AttentionMask, keyCount: Int, shape: AttentionShape
  ) throws(AttentionError) -> MaskTerms? {
    // This is not checked in an initialiser, because that would allocate an object before it returned nil.
    if mask.isNone
      || mask.booleans.isEmpty && mask.biases.isEmpty && mask.blocks.isEmpty && mask.distances.isEmpty
        && mask.functions.isEmpty
    {
      return nil
    }
    return try MaskTerms(mask, keyCount: keyCount, shape: shape)
  }

  private init(_ mask: AttentionMask, keyCount: Int, shape: AttentionShape) throws(AttentionError) {
    let target = [shape.batchCount, shape.headCount, shape.queryCount, keyCount]
    func checkShape(_ name: String, _ shape: [Int]) throws(AttentionError) {
      try requireShape(
        isBroadcastable(shape, to: target), AttentionShape.subject,
        "a \(name) that broadcasts to [B, H, L, S] = \(target) expected; got \(shape)")
    }
    func checkType(_ name: String, _ dataType: DataType, allowingHalves: Bool) throws(AttentionError) {
      try requireArgument(
        dataType == Element._dataType
          || (allowingHalves && HalfFormat(dataType) != nil && Element._dataType == .float32),
        AttentionShape.subject,
        "\(name) of \(Element._dataType.rawValue), the type that the query is computed in, expected; got "
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
        return Operand(base: wide.base, dataType: Value._dataType, strides: wide.strides)
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
        block.queryCount == shape.queryCount && block.keyCount == keyCount
          && [1, shape.batchCount].contains(block.batchCount) && [1, shape.headCount].contains(block.headCount),
        AttentionShape.subject,
        "a block mask that broadcasts to [B, H, L, S] = \(target) expected; got "
          + "\([block.batchCount, block.headCount, block.queryCount, block.keyCount])")
    }
    if mask.distances.isEmpty {
      distances = []
    } else {
      let places = QueryPlaces(mask, keyCount: keyCount, shape: shape)
      distances = try mask.distances.map { distances throws(AttentionError) in
        try Distances(distances, places, shape: shape)
      }
    }
    functions = try mask.functions.map { function throws(AttentionError) in
      try checkType("a function of scores", function.dataType, allowingHalves: false)
      return function.body as! AttentionScoreFunction<Element>
    }
    self.owners = owners
    isHiding = !booleans.isEmpty || !biases.isEmpty || !blocks.isEmpty || !functions.isEmpty
  }

  /// Returns true if the boolean masks, block masks and biases allow a query to attend to a key. Intervals are not checked.
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
    case .float16: place.load(as: UInt16.self) == 0xfc00
    case .bfloat16: place.load(as: UInt16.self) == 0xff80
    }
  }
}
