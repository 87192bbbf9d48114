public import Attention
public import AttentionTestSupport

/// One part of a mask, made twice: as the reference's closures and as the library's value.
public struct MaskPart {
  /// Whether query i of head h may attend to key j; (b, h, i, j).
  public var attends: (Int, Int, Int, Int) -> Bool = { _, _, _, _ in true }
  /// Added to the score; −inf forbids.
  public var bias: (Int, Int, Int, Int) -> Double = { _, _, _, _ in 0 }
  /// The same for the library, whose biases have an element type.
  public var mask: (any AttentionElement.Type) throws -> AttentionMask

  /// Keys from `left` before to `right` behind the diagonal, of L queries and S keys; nil: without bound.
  public static func band(
    _ alignment: AttentionMask.Alignment, left: Int?, right: Int?, L: Int, S: Int
  ) -> MaskPart {
    let offset = alignment == .bottomRight ? S - L : 0
    return MaskPart(
      attends: { _, _, i, j in
        j >= i + offset - (left ?? 1 << 30) && j <= i + offset + (right ?? 1 << 30)
      },
      mask: { _ in
        left == nil && right == 0 ? .causal(alignment) : .window(left: left, right: right, alignment: alignment)
      })
  }

  public static func keyLengths(_ lengths: [Int]) -> MaskPart {
    MaskPart(attends: { b, _, _, j in j < lengths[b] }, mask: { _ in .keyLengths(lengths) })
  }

  public static func leftPadding(_ counts: [Int]) -> MaskPart {
    MaskPart(attends: { b, _, _, j in j >= counts[b] }, mask: { _ in .leftPadding(counts) })
  }

  /// Random flags of a shape that broadcasts to [B, H, L, S].
  public static func boolean(_ shape: [Int], trueShare: Double, seed: UInt64) -> MaskPart {
    var generator = TestGenerator(seed: seed)
    let flags = generator.flags(shape.reduce(1, *), trueShare: trueShare)
    return MaskPart(
      attends: { flags[position(shape, [$0, $1, $2, $3])] },
      mask: { _ in .attending(try Tensor(flags, shape: shape)) })
  }

  /// Random numbers of a shape that broadcasts to [B, H, L, S], a share of which is −inf.
  public static func bias(_ shape: [Int], infinities: Double, seed: UInt64) -> MaskPart {
    var generator = TestGenerator(seed: seed)
    let count = shape.reduce(1, *)
    let forbidden = generator.flags(count, trueShare: infinities)
    let numbers = zip(generator.numbers(count, bound: 3), forbidden).map { $1 ? -Double.infinity : $0 }
    return MaskPart(
      bias: { numbers[position(shape, [$0, $1, $2, $3])] },
      mask: { element in
        func make<Element: AttentionElement>(_: Element.Type) throws -> AttentionMask {
          .bias(try Tensor<Element>(numbers.map { Element($0) }, shape: shape))
        }
        return try make(element)
      })
  }
}

extension [MaskPart] {
  /// The library's mask: all parts at once.
  public func mask(_ element: any AttentionElement.Type) throws -> AttentionMask {
    try reduce(.none) { $0.intersection(try $1.mask(element)) }
  }

  /// The same for the reference.
  public func apply(to problem: inout ReferenceAttention) {
    problem.attends = { b, h, i, j in allSatisfy { $0.attends(b, h, i, j) } }
    problem.bias = { b, h, i, j in reduce(0) { $0 + $1.bias(b, h, i, j) } }
  }
}

/// Where index `[b, h, i, j]` lies in an array whose shape broadcasts to it, right-aligned.
private func position(_ shape: [Int], _ index: [Int]) -> Int {
  zip(shape, index.suffix(shape.count)).reduce(0) { $0 * $1.0 + ($1.0 == 1 ? 0 : $1.1) }
}
