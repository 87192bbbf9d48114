import Attention
import AttentionFiles
import AttentionTestSupport
import AttentionTensors

extension Workload {
  static func attention<Stored: AttentionStorage>(_ request: Request, _: Stored.Type) throws -> Workload {
    if request.pass == .forwardBackward { return try training(request, Stored.self) }
    typealias Element = Stored.Arithmetic
    let (batch, heads, keyValueHeads) = (request.batch, request.heads, request.keyValueHeads)
    let query: Tensor<Stored> = try random([batch, heads, request.queries, request.width], request, 1)
    // Calls use pairs of a key and a value tensor in turn. Each further pair is a copy with its own memory. For the
    // CPU's cache, it does not matter that the numbers are the same.
    let key: Tensor<Stored> = try random([batch, keyValueHeads, request.keys, request.width], request, 2)
    let value: Tensor<Stored> = try random([batch, keyValueHeads, request.keys, request.valueWidth], request, 3)
    let pairs = try (0..<request.rotation).map { $0 == 0 ? (key, value) : (try key.copied(), try value.copied()) }
    let caches = try request.cache.map { kind in
      try pairs.map { try cache(kind, $0.0, $0.1) }
    }
    let mask = try RequestedMask(request, Element.self)
    let shape = [batch, heads, request.queries, request.valueWidth]
    let slot = Slot(try Tensor<Stored>(repeating: Stored(_nearest: .nan), shape: shape))
    var turn = 0
    var unfused: UnfusedAttention<Element>?
    var plain: ReferenceAttention?
    func converted(_ x: Tensor<Stored>) throws -> Tensor<Element> { try x as? Tensor<Element> ?? Tensor(converting: x) }
    var workload = Workload(
      operationCount: 2 * Double(batch * heads) * Double(request.queries) * Double(request.keys)
        * Double(request.width + request.valueWidth) * mask.share,
      keyValueByteCount: (key.count + value.count) * MemoryLayout<Stored>.stride, checksum: slot.checksum,
      maxError: slot.comparison {
        try scaledDotProductAttention(
          query: wide(query), key: wide(key), value: wide(value), mask: RequestedMask(request, Double.self).mask)
      },
      tensors: {
        var writer = SafeTensorsWriter()
        for (name, tensor) in [("query", query), ("key", key), ("value", value), ("output", slot.tensor)] {
          try writer.add(name, tensor)
        }
        try mask.add(to: &writer)
        return writer
      }
    ) { algorithm, context in
      let index = turn % pairs.count
      let (key, value) = pairs[index]
      turn += 1
      switch algorithm {
      case .library where caches != nil:
        slot.tensor = try scaledDotProductAttention(query: query, cache: caches![index], context: context)
      case .library where request.fresh:
        slot.tensor = try scaledDotProductAttention(
          query: query, key: key, value: value, mask: mask.mask, context: context)
      case .library:
        try scaledDotProductAttention(
          query: query, key: key, value: value, mask: mask.mask, into: &slot.tensor, context: context)
      case .unfused:
        if unfused == nil { unfused = try UnfusedAttention(request, mask) }
        var output = try Tensor<Element>(repeating: 0, shape: shape)
        if let own = slot.tensor as? Tensor<Element> { output = own }
        slot.tensor = try Tensor(repeating: Stored(_nearest: 0), shape: [0])
        try unfused!.attend(converted(query), converted(key), converted(value), into: &output, context)
        slot.tensor = try output as? Tensor<Stored> ?? Tensor(converting: output)
      case .naive:
        if plain == nil { plain = try plainProblem(request, converted(query), converted(key), converted(value), mask) }
        let output = try Tensor(plain!.answer(in: Element.self).output, shape: shape)
        slot.tensor = try output as? Tensor<Stored> ?? Tensor(converting: output)
      }
    }
    workload.readRate = { context in
      let tensors = pairs.flatMap { [$0.0, $0.1] }
      return withExtendedLifetime(tensors) {
        Machine.readRate(
          tensors.map { UnsafeRawBufferPointer(start: $0.base, count: $0.count * MemoryLayout<Stored>.stride) },
          context, times: 1)
      }
    }
    return workload
  }

  /// A cache of the requested kind that holds these tokens.
  private static func cache<Stored: AttentionStorage>(
    _ kind: Request.Cache, _ key: Tensor<Stored>, _ value: Tensor<Stored>
  ) throws -> KeyValueCache<Stored> {
    let cache = try KeyValueCache<Stored>(
      batchCount: key.shape[0], headCount: key.shape[1], headDimension: key.shape[3],
      valueDimension: value.shape[3], placement: kind == .paged ? .paged() : .contiguous)
    try cache.append(key: key, value: value)
    return cache
  }

  /// The same problem for the plain formula, which is the reference of the tests.
  private static func plainProblem<Element: AttentionElement>(
    _ request: Request, _ query: Tensor<Element>, _ key: Tensor<Element>, _ value: Tensor<Element>,
    _ mask: RequestedMask<Element>
  ) throws -> ReferenceAttention {
    var problem = ReferenceAttention()
    (problem.B, problem.H, problem.Hk) = (request.batch, request.heads, request.keyValueHeads)
    (problem.L, problem.S, problem.E, problem.Ev) = (
      request.queries, request.keys, request.width, request.valueWidth
    )
    (problem.query, problem.key, problem.value) = (
      query.array.map { Double($0) }, key.array.map { Double($0) }, value.array.map { Double($0) }
    )
    let keyCount = request.keys
    if let flags = try mask.flags(request)?.array {
      let plane = request.queries * keyCount
      let stride = flags.count > plane ? plane : 0
      problem.attends = { b, _, i, j in flags[b * stride + i * keyCount + j] }
    }
    if let bias = mask.bias?.array { problem.bias = { _, _, i, j in Double(bias[i * keyCount + j]) } }
    return problem
  }
}

/// The mask of a request.
struct RequestedMask<Element: AttentionElement> {
  private(set) var mask = AttentionMask.none
  /// The share of the scores that is counted as operations under this mask.
  private(set) var share = 1.0
  /// `[1, 1, L, S]`; nil if the mask has no bias.
  private(set) var bias: Tensor<Element>?
  /// `[1, 1, L, S]`; nil if the mask is not boolean.
  private(set) var attends: Tensor<Bool>?
  /// `[B]`; nil if the mask has no key lengths.
  private(set) var keyLengths: [Int]?

  init(_ request: Request, _: Element.Type) throws {
    let isCausal = request.mask == .causal || request.mask == .causalTopLeft
    let alignment: AttentionMask.Alignment = request.mask == .causalTopLeft ? .topLeft : .bottomRight
    switch request.mask {
    case .none: if request.cache != nil { mask = .causal }
    case .alibi: mask = .alibi(headCount: request.heads)
    case .alibiFunction:
      let slopes = AttentionMask.alibiSlopes(headCount: request.heads).map { Element($0) }
      let offset = request.keys - request.queries
      mask = .scores(Element.self) { tile in
        tile.update { score, at in score - slopes[at.head] * Element(abs(at.query + offset - at.key)) }
      }
    case .causal, .causalTopLeft: mask = .causal(alignment)
    case .boolean:
      // Each pair of a query and a key is masked with probability 0.1.
      var generator = SeededGenerator(seed: request.seed &+ 77)
      let attends = (0..<request.queries * request.keys).map { _ in generator.nextUnit() >= 0.1 }
      self.attends = try Tensor(attends, shape: [1, 1, request.queries, request.keys])
      mask = .attending(self.attends!)
    case .bias:
      bias = try random([1, 1, request.queries, request.keys], request, 78)
      mask = .bias(bias!)
    case .keyLengths:
      var generator = SeededGenerator(seed: request.seed &+ 79)
      let lengths = (0..<request.batch).map { _ in
        Int.random(in: (request.keys + 1) / 2...request.keys, using: &generator)
      }
      keyLengths = lengths
      mask = .keyLengths(lengths)
      share = Double(lengths.reduce(0, +)) / Double(request.batch * request.keys)
    }
    if let window = request.window {
      mask = mask.combined(with: .window(left: window, right: nil, alignment: alignment))
    }
    if isCausal && request.window == nil && request.queries == request.keys {
      share = 0.5
    } else if isCausal || request.window != nil {
      share = Self.keptShare(request, isCausal: isCausal, alignment)
    }
  }

  /// The share of the scores that are inside the causal mask and the window.
  private static func keptShare(_ request: Request, isCausal: Bool, _ alignment: AttentionMask.Alignment) -> Double {
    let offset = alignment == .topLeft ? 0 : request.keys - request.queries
    let kept = (0..<request.queries).reduce(0) { sum, query in
      let low = max(0, query + offset - (request.window ?? request.queries + request.keys))
      let high = isCausal ? min(request.keys, query + offset + 1) : request.keys
      return sum + max(0, high - low)
    }
    return Double(kept) / (Double(request.queries) * Double(request.keys))
  }

  /// Adds the tensors and lengths of the mask.
  func add(to writer: inout SafeTensorsWriter) throws {
    if let bias { try writer.add("bias", bias) }
    if let attends { try writer.add("attends", attends) }
    if let keyLengths {
      try writer.add("key_lengths", Tensor(keyLengths.map(Int64.init), shape: [keyLengths.count]))
    }
  }

  /// The mask as a boolean for each pair of a query and a key, for code that cannot compute a mask from a rule such as
  /// causality: `[1 or B, 1, L, S]`; nil: every query attends to every key.
  func flags(_ request: Request) throws -> Tensor<Bool>? {
    if request.window == nil && (request.mask == .none || request.mask == .bias) { return nil }
    return try mask.attendance(
      queryCount: request.queries, keyCount: request.keys, batchCount: request.mask == .keyLengths ? request.batch : 1)
  }
}
