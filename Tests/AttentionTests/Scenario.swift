import Attention
import AttentionProblems
import AttentionTestSupport
import Testing

/// One problem of attention with a mask, in two forms: closures for the reference and values for the library.
struct Scenario: CustomTestStringConvertible, Sendable {
  enum Mask: Sendable, CaseIterable {
    case none, causal, causalTopLeft, window, windowTopLeft, oneSidedWindow, keyLengths, leftPadding, boolean,
      booleanPerHead, booleanPerKey, bias, biasPerQuery, biasWithInfinities, everything, queryLengths, offsets,
      keepingFirst, prefix, chunks, documents, causalDocuments, blocks, alibi, function, everythingElse, paddedChunks,
      documentsWithDistances, documentsWithChunks, twoPaddings, oddSlopes
  }

  var B = 2
  var H = 2
  var Hk = 2
  var L = 1
  var S = 1
  var E = 8
  var Ev = 8
  var mask = Mask.none
  var scale: Double?
  var softcap: Double?
  var hasSinks = false
  var dropout: AttentionDropout?
  /// How the size of scores changes over the keys, apart from random differences.
  var swell = Swell.none

  /// How the size of scores changes from the first key to the last. The largest scores are about `peak` or −`peak`.
  enum Swell: Sendable {
    case none
    case rising(peak: Double)
    case falling(peak: Double)
    /// The size rises and falls three times.
    case waves(peak: Double)

    /// The factor by which key `index` of `count` keys is multiplied.
    func factor(_ index: Int, of count: Int) -> Double {
      let place = Double(index + 1) / Double(count)
      return switch self {
      case .none: 1
      case .rising(let peak): max(1, peak / 4 * place)
      case .falling(let peak): max(1, peak / 4 * (1 - place))
      case .waves(let peak): max(1, peak / 4 * abs(3 * place - (3 * place).rounded()) * 2)
      }
    }

    var peak: Double {
      switch self {
      case .none: 0
      case .rising(let peak), .falling(let peak), .waves(let peak): peak
      }
    }
  }

  var testDescription: String {
    "B\(B) H\(H)/\(Hk) L\(L) S\(S) E\(E)/\(Ev) \(mask)\(softcap.map { " softcap \($0)" } ?? "")"
      + "\(hasSinks ? " sinks" : "")\(swell.peak > 0 ? " \(swell)" : "") seed \(seed)"
  }

  /// The seed follows from the scenario, so that a failure can be reproduced.
  var seed: UInt64 {
    [B, H, Hk, L, S, E, Ev].reduce(UInt64(Mask.allCases.firstIndex(of: mask)!)) { $0 &* 1009 &+ UInt64($1) }
  }

  /// The problem for the reference, with random numbers that Float holds exactly.
  func reference() -> ReferenceAttention {
    var generator = TestGenerator(seed: seed)
    var problem = ReferenceAttention()
    (problem.B, problem.H, problem.Hk, problem.L, problem.S, problem.E, problem.Ev) = (B, H, Hk, L, S, E, Ev)
    problem.query = generator.numbers(B * H * L * E, bound: 2)
    problem.key = generator.numbers(B * Hk * S * E, bound: 2)
    problem.value = generator.numbers(B * Hk * S * Ev)
    if swell.peak > 0 {
      for index in problem.key.indices {
        problem.key[index] = Double(Float(problem.key[index] * swell.factor(index / max(E, 1) % max(S, 1), of: S)))
      }
    }
    problem.scale = scale
    problem.softcap = softcap
    problem.sinks = sinks
    if let dropout {
      problem.dropout = { b, h, i, j in
        Philox.factor(probability: dropout.probability, seed: dropout.seed, b: b, h: h, i: i, j: j)
      }
    }
    parts.apply(to: &problem)
    return problem
  }

  private var sinks: [Double]? { hasSinks ? (0..<H).map { Double($0) / 3 - 1 } : nil }

  /// The library's answer.
  func result<Element: AttentionElement>(
    _ inputs: Inputs<Element>, returning extras: AttentionExtras, context: AttentionContext
  ) throws -> AttentionResult<Element> {
    try scaledDotProductAttention(
      query: inputs.query, key: inputs.key, value: inputs.value, mask: libraryMask(Element.self),
      options: options(Element.self), returning: extras, context: context)
  }

  func options<Element: AttentionElement>(_: Element.Type) throws -> AttentionOptions<Element> {
    AttentionOptions(
      scale: scale, softcap: softcap, sinks: try sinks.map { try Tensor($0.map { Element($0) }, shape: [H]) },
      dropout: dropout)
  }

  /// The mask for the library.
  func libraryMask<Element: AttentionElement>(_: Element.Type = Element.self) throws -> AttentionMask {
    try parts.mask(Element.self)
  }

  var parts: [MaskPart] {
    let places = ReferencePlaces(L: L, S: S)
    func band(_ alignment: AttentionMask.Alignment, _ left: Int?, _ right: Int?) -> MaskPart {
      .band(alignment, left: left, right: right, places)
    }
    func documents(left: Int? = nil, right: Int? = nil) -> MaskPart {
      places.documents = (cuts(L), cuts(S))
      return .documents(queries: cuts(L), keys: cuts(S), left: left, right: right)
    }
    let alibi = MaskPart.alibi(slopes: AttentionMask.alibiSlopes(headCount: H), places)
    func boolean(_ shape: [Int], _ share: Double) -> MaskPart {
      .boolean(shape, trueShare: share, seed: seed &+ UInt64(shape.count))
    }
    func bias(_ shape: [Int], infinities: Double) -> MaskPart {
      .bias(shape, infinities: infinities, seed: seed &+ 10 &+ UInt64(shape.count))
    }
    let keyLengths = MaskPart.keyLengths((0..<B).map { max(0, S - 3 - 7 * $0) })
    let leftPadding = MaskPart.leftPadding((0..<B).map { min(S, 2 + 5 * $0) })
    switch mask {
    case .none: return []
    case .causal: return [band(.bottomRight, nil, 0)]
    case .causalTopLeft: return [band(.topLeft, nil, 0)]
    case .window: return [band(.bottomRight, 5, 3)]
    case .windowTopLeft: return [band(.topLeft, 2, 70)]
    case .oneSidedWindow: return [band(.bottomRight, 9, nil)]
    case .keyLengths: return [keyLengths]
    case .leftPadding: return [leftPadding]
    case .boolean: return [boolean([B, 1, L, S], 0.7)]
    case .booleanPerHead: return [boolean([1, H, L, S], 0.2)]
    case .booleanPerKey: return [boolean([B, 1, 1, S], 0.5)]
    case .bias: return [bias([1, H, L, S], infinities: 0)]
    case .biasPerQuery: return [bias([L, 1], infinities: 0)]
    case .biasWithInfinities: return [bias([B, 1, L, S], infinities: 0.4)]
    case .queryLengths: return [.queryLengths((0..<B).map { max(0, L - 2 - 3 * $0) })]
    case .offsets: return [.offsets((0..<B).map { S - L - 4 + 9 * $0 })]
    case .keepingFirst: return [.keepingFirst(3, left: 6, places)]
    case .prefix: return [.prefix((0..<B).map { min(S, 3 + 6 * $0) }, places)]
    case .chunks: return [.chunks(7, places)]
    case .documents: return [documents()]
    case .causalDocuments: return [documents(left: 20, right: 0)]
    case .blocks: return [.blocks(B: B, H: H, L: L, S: S, blockLength: 16)]
    case .alibi: return [alibi]
    case .function: return [.function()]
    case .paddedChunks:
      places.paddings = [(0..<B).map { min(S, 2 + 5 * $0) }]
      return [leftPadding, .chunks(4, places), band(.bottomRight, nil, 0)]
    case .documentsWithDistances:
      return [documents(), band(.bottomRight, nil, 0), band(.topLeft, 50, 30), alibi]
    case .documentsWithChunks: return [documents(), .chunks(7, places)]
    case .twoPaddings:
      return [
        .leftPadding((0..<B).map { min(S, 9 - 6 * $0) }), .leftPadding((0..<B).map { min(S, 2 + 5 * $0) }),
        .keyLengths((0..<B).map { max(0, S - 1 - 4 * $0) }), .keyLengths((0..<B).map { max(0, S - 6 + 5 * $0) }),
      ]
    // Slopes that Float cannot hold exactly.
    case .oddSlopes: return [.alibi(slopes: (0..<H).map { 0.1 / Double($0 + 3) }, places)]
    case .everythingElse:
      return [
        .queryLengths((0..<B).map { max(0, L - $0) }), .keepingFirst(5, left: 60, places),
        .prefix((0..<B).map { _ in min(S, 80) }, places), .blocks(B: 1, H: H, L: L, S: S, blockLength: 64),
        alibi, .function(),
        bias([1, H, 1, S], infinities: 0.1), .keyLengths((0..<B).map { max(0, S - 5 * $0) }),
      ]
    case .everything:
      return [
        band(.bottomRight, 40, 0), band(.topLeft, nil, 60), keyLengths, leftPadding,
        boolean([L, S], 0.8), boolean([B, 1, 1, S], 0.9), bias([1, H, 1, S], infinities: 0.1),
        bias([L, S], infinities: 0),
      ]
    }
  }

  /// The offsets of three documents, of which the second is empty. The last token belongs to no document.
  private func cuts(_ length: Int) -> [Int] { [0, length / 3, length / 3, max(length / 3, length - 1)] }
}

extension Scenario {
  /// Compares output, weights and log-sum-exp of both element types with the reference in Double, with each context.
  func check(_ contexts: [AttentionContext] = AttentionContext.everyPath) throws {
    let problem = reference()
    let exact = problem.answer()
    try check(problem, exact, Float.self, contexts)
    try check(problem, exact, Double.self, contexts)
  }

  private func check<Element: AttentionElement>(
    _ problem: ReferenceAttention, _ exact: ReferenceAttention.Answer<Double>, _: Element.Type,
    _ contexts: [AttentionContext]
  ) throws {
    let plain = problem.answer(in: Element.self)
    let inputs = try Inputs<Element>(problem)
    // A large score has a large unit in the last place, so the relative error of its weight is large too.
    let slack = 4 * Double(Element.ulpOfOne) * swell.peak
    let outputTolerance = tolerance(plain: plain.output, exact: exact.output) + slack
    let weightTolerance = tolerance(plain: plain.weights, exact: exact.weights) + slack
    let logSumExpTolerance = tolerance(plain: plain.logSumExp, exact: exact.logSumExp) + slack
    for context in contexts {
      let result = try result(inputs, returning: [.logSumExp, .weights], context: context)
      func compare(_ name: String, _ got: [Element], _ exact: [Double], _ tolerance: Double) {
        let difference = mismatch(
          got, exact, tolerance: tolerance, "\(name) \(Element.self) of \(self), \(context.path)")
        #expect(difference == nil)
      }
      compare("output", result.output.array, exact.output, outputTolerance)
      compare("weights", try result.weights.array, exact.weights, weightTolerance)
      compare("log-sum-exp", try result.logSumExp.array, exact.logSumExp, logSumExpTolerance)
    }
  }

  /// The plan of this problem. The operands are broadcast from one row, so they need no memory of their size.
  func plan<Element: AttentionElement>(_: Element.Type, _ context: AttentionContext) throws -> AttentionPlan {
    func operand(_ shape: [Int]) throws -> Tensor<Element> {
      try Tensor<Element>(repeating: 0, shape: [1, 1, 1, shape[3]]).broadcast(to: shape)
    }
    return try AttentionProblem(
      query: operand([B, H, L, E]), key: operand([B, Hk, S, E]), value: operand([B, Hk, S, Ev]),
      mask: libraryMask(Element.self)
    ).plans(context: context)[0]
  }
}
