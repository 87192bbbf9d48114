import Attention
import AttentionTestSupport
import Testing

/// One problem with a mask, made twice: as the reference's closures and as the library's values.
struct Scenario: CustomTestStringConvertible, Sendable {
  enum Mask: Sendable, CaseIterable {
    case none, causal, causalTopLeft, window, windowTopLeft, oneSidedWindow, keyLengths, leftPadding, boolean,
      booleanPerHead, booleanPerKey, bias, biasPerQuery, biasWithInfinities, everything
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

  var testDescription: String { "B\(B) H\(H)/\(Hk) L\(L) S\(S) E\(E)/\(Ev) \(mask) seed \(seed)" }

  /// Follows from the scenario, so that a failure is found again.
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
    problem.scale = scale
    let parts = self.parts
    problem.attends = { b, h, i, j in parts.allSatisfy { $0.attends(b, h, i, j) } }
    problem.bias = { b, h, i, j in parts.reduce(0) { $0 + $1.bias(b, h, i, j) } }
    return problem
  }

  /// The mask for the library.
  func libraryMask<Element: AttentionElement>(_: Element.Type = Element.self) throws -> AttentionMask {
    try parts.reduce(.none) { $0.intersection(try $1.mask(Element.self)) }
  }

  // MARK: Masks

  /// One part of a mask in both forms.
  private struct Part {
    var attends: (Int, Int, Int, Int) -> Bool = { _, _, _, _ in true }
    var bias: (Int, Int, Int, Int) -> Double = { _, _, _, _ in 0 }
    var mask: (any AttentionElement.Type) throws -> AttentionMask
  }

  private var parts: [Part] {
    let offset = S - L
    switch mask {
    case .none: return []
    case .causal: return [band(.bottomRight, nil, 0, offset)]
    case .causalTopLeft: return [band(.topLeft, nil, 0, 0)]
    case .window: return [band(.bottomRight, 5, 3, offset)]
    case .windowTopLeft: return [band(.topLeft, 2, 70, 0)]
    case .oneSidedWindow: return [band(.bottomRight, 9, nil, offset)]
    case .keyLengths: return [keyLengths]
    case .leftPadding: return [leftPadding]
    case .boolean: return [boolean([B, 1, L, S], 0.7)]
    case .booleanPerHead: return [boolean([1, H, L, S], 0.2)]
    case .booleanPerKey: return [boolean([B, 1, 1, S], 0.5)]
    case .bias: return [bias([1, H, L, S], infinities: 0)]
    case .biasPerQuery: return [bias([L, 1], infinities: 0)]
    case .biasWithInfinities: return [bias([B, 1, L, S], infinities: 0.4)]
    case .everything:
      return [
        band(.bottomRight, 40, 0, offset), band(.topLeft, nil, 60, 0), keyLengths, leftPadding,
        boolean([L, S], 0.8), boolean([B, 1, 1, S], 0.9), bias([1, H, 1, S], infinities: 0.1),
        bias([L, S], infinities: 0),
      ]
    }
  }

  private func band(_ alignment: AttentionMask.Alignment, _ left: Int?, _ right: Int?, _ offset: Int) -> Part {
    Part(
      attends: { _, _, i, j in
        j >= i + offset - (left ?? 1 << 30) && j <= i + offset + (right ?? 1 << 30)
      },
      mask: { _ in
        left == nil && right == 0 ? .causal(alignment) : .window(left: left, right: right, alignment: alignment)
      })
  }

  private var keyLengths: Part {
    let lengths = (0..<B).map { max(0, S - 3 - 7 * $0) }
    return Part(attends: { b, _, _, j in j < lengths[b] }, mask: { _ in .keyLengths(lengths) })
  }

  private var leftPadding: Part {
    let counts = (0..<B).map { min(S, 2 + 5 * $0) }
    return Part(attends: { b, _, _, j in j >= counts[b] }, mask: { _ in .leftPadding(counts) })
  }

  private func boolean(_ shape: [Int], _ share: Double) -> Part {
    var generator = TestGenerator(seed: seed &+ UInt64(shape.count))
    let flags = generator.flags(shape.reduce(1, *), trueShare: share)
    return Part(
      attends: { flags[position(shape, [$0, $1, $2, $3])] },
      mask: { _ in .attending(try Tensor(flags, shape: shape)) })
  }

  private func bias(_ shape: [Int], infinities: Double) -> Part {
    var generator = TestGenerator(seed: seed &+ 10 &+ UInt64(shape.count))
    let count = shape.reduce(1, *)
    let forbidden = generator.flags(count, trueShare: infinities)
    let numbers = zip(generator.numbers(count, bound: 3), forbidden).map { $1 ? -Double.infinity : $0 }
    return Part(
      bias: { numbers[position(shape, [$0, $1, $2, $3])] },
      mask: { element in
        func make<Element: AttentionElement>(_: Element.Type) throws -> AttentionMask {
          .bias(try Tensor<Element>(numbers.map { Element($0) }, shape: shape))
        }
        return try make(element)
      })
  }
}

/// Where index `[b, h, i, j]` lies in an array whose shape broadcasts to it, right-aligned.
private func position(_ shape: [Int], _ index: [Int]) -> Int {
  zip(shape, index.suffix(shape.count)).reduce(0) { $0 * $1.0 + ($1.0 == 1 ? 0 : $1.1) }
}

/// The reference's inputs as tensors `[B, H, L, E]`.
struct Inputs<Element: AttentionElement> {
  var query: Tensor<Element>
  var key: Tensor<Element>
  var value: Tensor<Element>

  init(_ p: ReferenceAttention) throws {
    query = try Tensor(p.query.map { Element($0) }, shape: [p.B, p.H, p.L, p.E])
    key = try Tensor(p.key.map { Element($0) }, shape: [p.B, p.Hk, p.S, p.E])
    value = try Tensor(p.value.map { Element($0) }, shape: [p.B, p.Hk, p.S, p.Ev])
  }
}
