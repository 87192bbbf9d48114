import Attention
public import AttentionTensors
import AttentionTestSupport

/// An attention problem that is made from a fuzzer's bytes: shapes, strides, masks, values, element type, kernels and
/// threads.
public struct FuzzedAttention: CustomStringConvertible {
  private var reference = ReferenceAttention()
  private var parts: [MaskPart] = []
  private let places: ReferencePlaces
  private var names: [String] = []
  private let placements: [Placement]
  private let output: Placement
  private var outputGradientPlacement = Placement()
  private var outputGradient: [Double] = []
  private let isDouble: Bool
  private let extras: AttentionExtras
  private var context: AttentionContext

  public var description: String {
    let p = reference
    return
      "softcap \(p.softcap.map { "\($0)" } ?? "none") sinks \(p.sinks?.count ?? 0) B\(p.B) H\(p.H)/\(p.Hk) L\(p.L) S\(p.S) E\(p.E)/\(p.Ev) scale \(p.scale.map { "\($0)" } ?? "default") "
      + "\(isDouble ? "Double" : "Float") masks \(names) placements \(placements) into \(output) "
      + "\(context.path) threads \(context.threadCount)"
  }

  /// Makes the problem from `bytes`. `path` replaces the context that the bytes choose, except the number of threads.
  /// `limit` is about the greatest number of multiplications in the reference; if it is nil, the bytes choose one of
  /// two limits.
  public init(_ bytes: UnsafeRawBufferPointer, path: AttentionContext? = nil, limit usualLimit: Int? = nil) {
    var bytes = FuzzBytes(bytes)
    isDouble = bytes.flag()
    let threadCount = 1 + bytes.choice(4)
    context = bytes.element(of: AttentionContext.everyPath)
    if let path { context = path }
    context.threadCount = threadCount
    extras = AttentionExtras(rawValue: bytes.choice(4))
    reference.B = bytes.choice(4)
    reference.Hk = 1 + bytes.choice(3)
    reference.H = reference.Hk * (1 + bytes.choice(4))
    reference.E = bytes.extent(upTo: 80)
    reference.Ev = bytes.extent(upTo: 80)
    // The sizes are limited so that the reference takes some milliseconds, rarely more. With larger problems, the
    // fuzzer would try too few of them.
    let isLarge = bytes.choice(16) == 15
    let limit = usualLimit ?? (isLarge ? 600_000 : 50_000)
    let row = max(1, reference.B * reference.H * (reference.E + reference.Ev))
    reference.L = bytes.extent(upTo: 260)
    reference.S = bytes.extent(upTo: max(1, limit / (row * max(1, reference.L))))
    if bytes.flag() && bytes.flag() { reference.S *= 8 }
    reference.L = min(reference.L, max(1, 2 * limit / (row * max(1, reference.S))))
    reference.scale = bytes.element(of: [nil, nil, nil, 0, -0.5, 1, 3, 1e-6])
    placements = (0..<3).map { _ in Placement(&bytes) }
    output = Placement(&bytes, isWritten: true)
    places = ReferencePlaces(L: reference.L, S: reference.S)
    let partCount = bytes.choice(5)
    for _ in 0..<partCount { addPart(&bytes) }
    fillValues(&bytes)
    // These choices were added later. They are read after the older ones, so that stored seeds still give the same
    // problems.
    let moreCount = bytes.choice(4)
    for _ in 0..<moreCount { addRarerPart(&bytes) }
    reference.softcap = bytes.element(of: [nil, nil, 0.5, 20])
    if bytes.flag() { reference.sinks = (0..<reference.H).map { _ in Double(bytes.byte()) / 32 - 4 } }
    parts.apply(to: &reference)
    outputGradientPlacement = Placement(&bytes)
    var generator = TestGenerator(seed: UInt64(bytes.byte()))
    let shape = [reference.B, reference.H, reference.L, reference.Ev]
    var numbers = generator.numbers(shape.reduce(1, *))
    if bytes.choice(8) == 7 && !numbers.isEmpty {
      numbers[(bytes.byte() * 251 + bytes.byte()) % numbers.count] = .nan
    }
    outputGradient = outputGradientPlacement.broadcast(numbers, shape: shape)
  }

  private mutating func addPart(_ bytes: inout FuzzBytes) {
    let (B, H, L, S) = (reference.B, reference.H, reference.L, reference.S)
    func shape(_ bytes: inout FuzzBytes) -> [Int] {
      let whole = [B, H, L, S].map { bytes.flag() ? 1 : $0 }
      return Array(whole.dropFirst(bytes.choice(5)))
    }
    switch bytes.choice(5) {
    case 0:
      let alignment = bytes.element(of: [AttentionMask.Alignment.bottomRight, .topLeft])
      func bound(_ bytes: inout FuzzBytes) -> Int? { bytes.flag() ? bytes.byte() % 90 : nil }
      let (left, right) = (bound(&bytes), bytes.flag() ? 0 : bound(&bytes))
      parts.append(.band(alignment, left: left, right: right, places))
      names.append("band \(alignment) \(left as Int?) \(right as Int?)")
    case 1:
      let lengths = (0..<B).map { _ in bytes.byte() % (S + 1) }
      parts.append(.keyLengths(lengths))
      names.append("lengths \(lengths)")
    case 2:
      let counts = (0..<B).map { _ in bytes.byte() % (S + 1) }
      parts.append(.leftPadding(counts))
      places.paddings.append(counts)
      names.append("padding \(counts)")
    case 3:
      let shape = shape(&bytes)
      parts.append(
        .boolean(shape, trueShare: bytes.element(of: [0, 0.1, 0.5, 0.95, 1]), seed: UInt64(bytes.byte())))
      names.append("boolean \(shape)")
    default:
      let shape = shape(&bytes)
      parts.append(.bias(shape, infinities: bytes.element(of: [0, 0.1, 0.7]), seed: UInt64(bytes.byte())))
      names.append("bias \(shape)")
    }
  }

  private mutating func addRarerPart(_ bytes: inout FuzzBytes) {
    let (B, H, L, S) = (reference.B, reference.H, reference.L, reference.S)
    func cuts(_ length: Int, _ count: Int) -> [Int] {
      [0] + (0..<count).map { _ in bytes.byte() * 257 % (length + 1) }.sorted()
    }
    let kind = bytes.choice(9)
    switch kind {
    case 0: parts.append(.queryLengths((0..<B).map { _ in bytes.byte() % (L + 1) }))
    case 1: parts.append(.offsets((0..<B).map { _ in bytes.byte() - 100 }))
    case 2: parts.append(.keepingFirst(bytes.byte() % 20, left: bytes.byte() % 90, places))
    case 3: parts.append(.prefix((0..<B).map { _ in bytes.byte() % (S + 1) }, places))
    case 4: parts.append(.chunks(1 + bytes.byte(), places))
    case 5:
      let count = 1 + bytes.choice(5)
      let (queries, keys) = (cuts(L, count), cuts(S, count))
      // If a mask has several sets of documents, the first set defines the diagonals.
      if places.documents == nil { places.documents = (queries, keys) }
      parts.append(
        .documents(
          queries: queries, keys: keys, left: bytes.flag() ? bytes.byte() % 40 : nil, right: bytes.flag() ? 0 : nil))
    case 6:
      parts.append(
        .blocks(B: bytes.flag() ? 1 : B, H: bytes.flag() ? 1 : H, L: L, S: S, blockLength: 16 << bytes.choice(3)))
    case 7: parts.append(.alibi(slopes: (0..<H).map { _ in Double(bytes.byte()) / 256 }, places))
    default:
      // A function of scores is added only if no value is NaN.
      if !reference.value.contains(where: \.isNaN) { parts.append(.function()) }
    }
    names.append("rarer \(kind)")
  }

  /// Fills the operands with random numbers. Some keys or values become NaN, whether a query attends to them or not.
  /// The numbers of an operand are equal along its broadcast axes.
  private mutating func fillValues(_ bytes: inout FuzzBytes) {
    var generator = TestGenerator(seed: UInt64(bytes.byte()) << 8 | UInt64(bytes.byte()))
    let p = reference
    let bound = bytes.element(of: [2, 0.1, 8] as [Float])
    let shapes = [[p.B, p.H, p.L, p.E], [p.B, p.Hk, p.S, p.E], [p.B, p.Hk, p.S, p.Ev]]
    var operands = shapes.map { generator.numbers($0.reduce(1, *), bound: bound) }
    // No NaN if the scale is 0: the library then makes all scores 0, but the plain formula computes 0·NaN.
    if bytes.choice(4) == 0, reference.scale != 0 {
      for operand in 1...2 where !operands[operand].isEmpty {
        for _ in 0...bytes.choice(3) {
          operands[operand][(bytes.byte() * 251 + bytes.byte()) % operands[operand].count] = .nan
        }
      }
    }
    for (operand, shape) in shapes.enumerated() {
      operands[operand] = placements[operand].broadcast(operands[operand], shape: shape)
    }
    (reference.query, reference.key, reference.value) = (operands[0], operands[1], operands[2])
  }

  /// What differs from the reference; nil if nothing does.
  public func mismatch() throws -> String? {
    try isDouble ? mismatch(in: Double.self) : mismatch(in: Float.self)
  }

  private func mismatch<Element: AttentionElement>(in _: Element.Type) throws -> String? {
    let exact = reference.answer()
    let plain = reference.answer(in: Element.self)
    let inputs = try Inputs<Element>(reference)
    let (query, key, value) = (
      try placements[0].place(inputs.query), try placements[1].place(inputs.key),
      try placements[2].place(inputs.value)
    )
    let mask: AttentionMask = try parts.mask(Element.self)
    let sinks = try reference.sinks.map { try Tensor($0.map { Element($0) }, shape: [$0.count]) }
    let options = AttentionOptions(scale: reference.scale, softcap: reference.softcap, sinks: sinks)
    let result = try scaledDotProductAttention(
      query: query, key: key, value: value, mask: mask, options: options, returning: extras, context: context)
    var target = try output.place(Tensor<Element>(repeating: .nan, shape: result.output.shape))
    try scaledDotProductAttention(
      query: query, key: key, value: value, mask: mask, options: options, into: &target, context: context)

    // With few rows, the plain formula may have almost no error by luck, for instance if all keys are equal. So an
    // error of two or three units in the last place of a usual score is always allowed. Other tests are stricter.
    func largest(_ numbers: [Double]) -> Double { numbers.reduce(0) { $1.isFinite ? max($0, abs($1)) : $0 } }
    let scale = abs(reference.scale ?? 1 / Double(max(reference.E, 1)).squareRoot())
    func usual(_ numbers: [Double]) -> Double {
      let squares = numbers.reduce(0) { $1.isFinite ? $0 + $1 * $1 : $0 }
      return (squares / Double(max(numbers.count, 1))).squareRoot()
    }
    // `score` is an estimate of the size of scores. The scores that matter are near the log-sum-exp. The partial sums
    // of a score with random terms are about √E times as large as a term. If all terms are equal, the partial sums are
    // up to E times as large as a term, and all are rounded in the same direction.
    let hasEqualTerms = placements[0].hasEqualColumns && placements[1].hasEqualColumns
    let root = Double(reference.E).squareRoot()
    let score =
      max(largest(exact.logSumExp), scale * usual(reference.query) * usual(reference.key) * root)
      * (hasEqualTerms ? max(1, root) : 1)
    let slack = 2.5 * Double(Element.ulpOfOne) * (1 + score) * max(1, largest(reference.value))
    func compare(_ name: String, _ got: [Element], _ plain: [Element], _ exact: [Double]) -> String? {
      AttentionTestSupport.mismatch(got, exact, tolerance: tolerance(plain: plain, exact: exact) + slack, name)
    }
    var results = [
      ("output", result.output.array, plain.output, exact.output),
      ("output in place", target.array, plain.output, exact.output),
    ]
    if extras.contains(.logSumExp) {
      results.append(("log-sum-exp", try result.logSumExp.array, plain.logSumExp, exact.logSumExp))
    }
    if extras.contains(.weights) { results.append(("weights", try result.weights.array, plain.weights, exact.weights)) }
    // The derivative of several functions of scores is not supported.
    if parts.count(where: \.isFunction) <= 1 {
      let gradients = try scaledDotProductAttentionGradients(
        query: query, key: key, value: value, mask: mask, options: options,
        result: scaledDotProductAttention(
          query: query, key: key, value: value, mask: mask, options: options, returning: .logSumExp, context: context),
        outputGradient: outputGradientPlacement.place(
          Tensor(
            outputGradient.map { Element($0) }, shape: [reference.B, reference.H, reference.L, reference.Ev])),
        returning: sinks == nil
          ? [.biases, .alibiSlopes, .scoreParameters] : [.biases, .alibiSlopes, .scoreParameters, .sinks],
        context: context)
      if let mismatch = try mismatch(gradients, score: score) { return mismatch }
    }
    return results.lazy.compactMap(compare).first
      ?? (output.gapsAreUntouched(in: target) ? nil : "gaps between the output's elements were written to")
  }
}

extension FuzzedAttention {
  /// True if the loss has a derivative: all numbers are finite, and the mask has at most one function of scores.
  public var isDifferentiable: Bool {
    [reference.query, reference.key, reference.value, outputGradient].allSatisfy { $0.allSatisfy(\.isFinite) }
      && parts.count(where: \.isFunction) <= 1
  }

  /// Describes how the library's gradients, in Double, differ from central differences of the reference; nil if they do
  /// not, or if there is no derivative.
  ///
  /// All inputs move along one random direction d at once. Let f(t) be the loss Σ dO ∘ O after a step of t·d. Its
  /// derivative at 0 is (8·(f(h) − f(−h)) − (f(2h) − f(−2h))) / 12h, with an error of the order of h⁴. The library's
  /// gradients g give Σ g ∘ d.
  public func differenceMismatch() throws -> String? {
    let p = reference
    if !isDifferentiable { return nil }
    let inputs = try Inputs<Double>(p)
    let (query, key, value) = (
      try placements[0].place(inputs.query), try placements[1].place(inputs.key),
      try placements[2].place(inputs.value)
    )
    let sinks = try p.sinks.map { try Tensor($0, shape: [$0.count]) }
    let options = AttentionOptions(scale: p.scale, softcap: p.softcap, sinks: sinks)
    var extras: AttentionGradientExtras = [.biases, .alibiSlopes, .scoreParameters]
    if sinks != nil { extras.insert(.sinks) }
    let mask = try parts.mask(Double.self)
    let gradients = try scaledDotProductAttentionGradients(
      query: query, key: key, value: value, mask: mask, options: options,
      result: scaledDotProductAttention(
        query: query, key: key, value: value, mask: mask, options: options, returning: .logSumExp, context: context),
      outputGradient: outputGradientPlacement.place(Tensor(outputGradient, shape: [p.B, p.H, p.L, p.Ev])),
      returning: extras, context: context)

    var generator = TestGenerator(seed: UInt64(p.query.count + p.key.count + p.value.count))
    let directions = [p.query, p.key, p.value].map { generator.numbers($0.count) }
    let sinkDirection = generator.numbers(p.sinks?.count ?? 0)
    let partDirections = parts.map { generator.numbers($0.numberCount) }
    func loss(_ step: Double) -> Double {
      func moved(_ numbers: [Double], _ direction: [Double]) -> [Double] {
        zip(numbers, direction).map { $0 + step * $1 }
      }
      var other = p
      (other.query, other.key) = (moved(p.query, directions[0]), moved(p.key, directions[1]))
      other.value = moved(p.value, directions[2])
      other.sinks = p.sinks.map { moved($0, sinkDirection) }
      zip(parts, partDirections).map { part, direction in part.moved.map { $0(direction.map { $0 * step }) } ?? part }
        .apply(to: &other)
      return zip(other.answer().output, outputGradient).reduce(0) { $0 + $1.0 * $1.1 }
    }
    let h = 2e-5
    let numeric = (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h)

    var pairs = [
      (gradients.query.array, directions[0]), (gradients.key.array, directions[1]),
      (gradients.value.array, directions[2]),
    ]
    if sinks != nil { pairs.append((try gradients.sinks.array, sinkDirection)) }
    func add(_ gradients: [Tensor<Double>], where isWanted: (MaskPart) -> Bool) {
      let wanted = zip(parts, partDirections).filter { isWanted($0.0) }
      pairs += zip(gradients, wanted).map { ($0.array, $1.1) }
    }
    add(try gradients.biases) { $0.biasShape != nil }
    add(try gradients.alibiSlopes) { $0.distance != nil }
    add([try gradients.scoreParameters]) { $0.isFunction }
    let terms = pairs.flatMap { zip($0, $1).map { $0 * $1 } }
    let (sum, size) = terms.reduce((0.0, 0.0)) { ($0.0 + $1, $0.1 + abs($1)) }
    let rounding = 1e-15 / h * outputGradient.reduce(0) { $0 + abs($1) } * (p.value.map(abs).max() ?? 0)
    if abs(numeric - sum) <= 1e-6 * size + rounding { return nil }
    return "derivative along a direction: \(numeric) by differences, \(sum) by gradients, of the size \(size)"
  }

  /// Describes how `gradients` differ from those of the reference; nil if they do not. `score` is the size of scores.
  private func mismatch<Element: AttentionElement>(
    _ gradients: AttentionGradients<Element, Element>, score: Double
  ) throws -> String? {
    let exact = reference.gradients(of: outputGradient)
    let plain = reference.gradients(of: outputGradient, in: Element.self)
    func largest(_ numbers: [Double]) -> Double { numbers.reduce(1) { $1.isFinite ? max($0, abs($1)) : $0 } }
    // The error of a weight, in units in the last place, is about as large as its score. In the gradients, this error
    // is multiplied by dP − Δ, whose terms are products of dO and V. Sums of many terms have larger errors.
    let p = reference
    let scale = abs(p.scale ?? 1 / Double(max(p.E, 1)).squareRoot())
    let size = largest(p.value) * Double(max(p.Ev, 1)) * max(1, scale * max(largest(p.query), largest(p.key)))
    let slack = 4 * Double(Element.ulpOfOne) * (1 + score) * size
    func compare(
      _ name: String, _ got: [Element], _ plain: [Element], _ exact: [Double], termCount: Int
    ) -> String? {
      AttentionTestSupport.mismatch(
        got, exact,
        tolerance: tolerance(plain: plain, exact: exact) + slack * Double(max(termCount, 1)).squareRoot(),
        "gradient of \(name)")
    }
    let rowCount = p.B * p.H * p.L
    var results: [String?] = [
      compare("query", gradients.query.array, plain.query, exact.query, termCount: p.S),
      compare("key", gradients.key.array, plain.key, exact.key, termCount: rowCount),
      compare("value", gradients.value.array, plain.value, exact.value, termCount: rowCount),
    ]
    if p.sinks != nil {
      results.append(compare("sinks", try gradients.sinks.array, plain.sinks, exact.sinks, termCount: rowCount))
    }
    let biases = zip(parts.biasGradients(plain.scores, p), parts.biasGradients(exact.scores, p))
    for (got, expected) in zip(try gradients.biases, biases) {
      results.append(compare("a bias", got.array, expected.0, expected.1, termCount: rowCount * p.S))
    }
    if parts.contains(where: \.isFunction) {
      results.append(
        compare(
          "the function's parameters", try gradients.scoreParameters.array, plain.scoreParameters,
          exact.scoreParameters,
          termCount: rowCount * p.S * 64))
    }
    let slopes = zip(parts.slopeGradients(plain.scores, p), parts.slopeGradients(exact.scores, p))
    for (got, expected) in zip(try gradients.alibiSlopes, slopes) {
      results.append(
        compare("slopes", got.array, expected.0, expected.1, termCount: rowCount * p.S * (p.L + p.S) * (p.L + p.S)))
    }
    return results.lazy.compactMap { $0 }.first
  }
}

/// How an operand lies in memory: the order of its axes, the distance between its elements, and its broadcast axes.
private struct Placement: CustomStringConvertible {
  private let order: [Int]
  private let elementStride: Int
  private let isBroadcast: [Bool]

  /// The placement of a contiguous tensor in row-major order.
  init() {
    order = [0, 1, 2, 3]
    elementStride = 1
    isBroadcast = [false, false, false, false]
  }

  init(_ bytes: inout FuzzBytes, isWritten: Bool = false) {
    var axes = [0, 1, 2, 3]
    order = (0..<4).map { _ in axes.remove(at: bytes.choice(axes.count)) }
    elementStride = 1 + (bytes.choice(4) == 3 ? 1 + bytes.choice(3) : 0)
    isBroadcast = (0..<4).map { _ in bytes.choice(8) == 7 && !isWritten }
  }

  /// True if all elements of a row are equal to each other.
  var hasEqualColumns: Bool { isBroadcast[3] }

  var description: String {
    "\(order)×\(elementStride)\(isBroadcast.contains(true) ? " broadcast \(isBroadcast)" : "")"
  }

  /// The numbers of an operand `[B, H, L, E]` in row-major order, made equal along each broadcast axis.
  func broadcast(_ numbers: [Double], shape: [Int]) -> [Double] {
    guard isBroadcast.contains(true), !shape.contains(0) else { return numbers }
    return numbers.indices.map { position in
      var rest = position
      var source = 0
      var stride = 1
      for axis in (0..<4).reversed() {
        if !isBroadcast[axis] { source += rest % shape[axis] * stride }
        rest /= shape[axis]
        stride *= shape[axis]
      }
      return numbers[source]
    }
  }

  /// A tensor with the same elements that lies in memory as this placement says, with NaN in the gaps.
  func place<Element: AttentionElement>(_ x: Tensor<Element>) throws -> Tensor<Element> {
    var narrow = x
    for axis in 0..<4 where isBroadcast[axis] && x.shape[axis] > 0 { narrow = try narrow.slice(0..<1, axis: axis) }
    let moved = try narrow.permuted(order)
    var wide = try Tensor<Element>(repeating: .nan, shape: moved.shape + [elementStride])
    try wide.withMutableView { view in
      try view.withSlice(0..<1, axis: 4) { try $0.copy(from: moved.reshaped(moved.shape + [1])) }
    }
    let inverse = order.indices.map { order.firstIndex(of: $0)! }
    return try wide.select(0, axis: 4).permuted(inverse).broadcast(to: x.shape)
  }

  /// True if the gaps that `place` made between the elements still hold NaN.
  func gapsAreUntouched<Element: AttentionElement>(in x: Tensor<Element>) -> Bool {
    guard elementStride > 1, x.count > 1 else { return true }
    // The elements lie at multiples of the stride. Memory after the last element is not checked.
    let positions = (0..<x.count * elementStride - elementStride + 1).filter { $0 % elementStride != 0 }
    return positions.allSatisfy { x.base[$0].isNaN }
  }
}
