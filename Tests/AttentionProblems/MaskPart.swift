public import Attention
public import AttentionTestSupport

/// One part of a mask, made twice: as the reference's closures and as the library's value.
public struct MaskPart {
  /// Whether query i of head h may attend to key j; (b, h, i, j).
  public var attends: (Int, Int, Int, Int) -> Bool = { _, _, _, _ in true }
  /// Added to the score; −inf forbids.
  public var bias: (Int, Int, Int, Int) -> Double = { _, _, _, _ in 0 }
  /// Replaces the score before anything is added; (score, b, h, i, j).
  public var score: (Double, Int, Int, Int, Int) -> Double = { score, _, _, _, _ in score }
  /// The same for the library, whose biases have an element type.
  public var mask: (any AttentionElement.Type) throws -> AttentionMask

  /// Keys from `left` before to `right` behind the diagonal; nil: without bound.
  public static func band(
    _ alignment: AttentionMask.Alignment, left: Int?, right: Int?, _ places: ReferencePlaces
  ) -> MaskPart {
    MaskPart(
      attends: { _, _, i, j in
        let place = places.key(i, alignment)
        return j >= place - (left ?? 1 << 30) && j <= place + (right ?? 1 << 30)
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

  public static func queryLengths(_ lengths: [Int]) -> MaskPart {
    MaskPart(attends: { b, _, i, _ in i < lengths[b] }, mask: { _ in .queryLengths(lengths) })
  }

  /// Causal, query 0 of each element of the batch at a key of its own.
  public static func offsets(_ offsets: [Int]) -> MaskPart {
    MaskPart(attends: { b, _, i, j in j <= i + offsets[b] }, mask: { _ in .causal(.offsets(offsets)) })
  }

  public static func keepingFirst(_ count: Int, left: Int, _ places: ReferencePlaces) -> MaskPart {
    MaskPart(
      attends: { _, _, i, j in j <= places.key(i) && (j < count || j >= places.key(i) - left) },
      mask: { _ in .window(left: left, keepingFirst: count) })
  }

  public static func prefix(_ lengths: [Int], _ places: ReferencePlaces) -> MaskPart {
    MaskPart(attends: { b, _, i, j in j < lengths[b] || j <= places.key(i) }, mask: { _ in .prefix(lengths) })
  }

  public static func chunks(_ length: Int, _ places: ReferencePlaces) -> MaskPart {
    MaskPart(
      attends: { b, _, i, j in
        func chunk(_ x: Int) -> Int { Int((Double(x - places.firstKey(b, i)) / Double(length)).rounded(.down)) }
        return chunk(places.key(i)) == chunk(j)
      }, mask: { _ in .chunks(length: length) })
  }

  /// Packed documents, each with a diagonal of its own.
  public static func documents(queries: [Int], keys: [Int], left: Int?, right: Int?) -> MaskPart {
    MaskPart(
      attends: { _, _, i, j in
        guard let d = (0..<queries.count - 1).first(where: { (queries[$0]..<queries[$0 + 1]).contains(i) }),
          (keys[d]..<keys[d + 1]).contains(j)
        else { return false }
        let diagonal = i - queries[d + 1] + keys[d + 1]
        return j >= diagonal - (left ?? 1 << 30) && j <= diagonal + (right ?? 1 << 30)
      },
      mask: { _ in .documents(queries, keyOffsets: keys, left: left, right: right) })
  }

  /// Flags by a rule that leaves whole blocks empty and full, as a block mask.
  public static func blocks(B: Int, H: Int, L: Int, S: Int, blockLength: Int) -> MaskPart {
    @Sendable func attends(_ b: Int, _ h: Int, _ i: Int, _ j: Int) -> Bool {
      (i / 40 + j / 50 + (B == 1 ? 0 : b) + (H == 1 ? 0 : h)) % 3 != 0 && (i / 100 != 0 || (i * 7 + j * 3) % 5 != 1)
    }
    return MaskPart(
      attends: attends,
      mask: { _ in
        .attending(
          try BlockMask(
            queryCount: L, keyCount: S, batchCount: B, headCount: H, blockLength: blockLength
          ) { attends($0.batch, $0.head, $0.query, $0.key) })
      })
  }

  public static func alibi(slopes: [Double], _ places: ReferencePlaces) -> MaskPart {
    MaskPart(
      bias: { _, h, i, j in -slopes[h] * Double(abs(places.key(i) - j)) }, mask: { _ in .alibi(slopes: slopes) })
  }

  /// A function of scores that forbids some, too.
  public static func function() -> MaskPart {
    MaskPart(
      attends: { _, h, i, j in (i + j + h) % 11 != 4 },
      score: { score, b, h, i, j in score / 2 + Double((i + 2 * j + 3 * h + b) % 8) / 4 },
      mask: { element in
        func make<Element: AttentionElement>(_: Element.Type) -> AttentionMask {
          .scores(Element.self) { tile in
            tile.update { score, at in
              (at.query + at.key + at.head) % 11 == 4
                ? -.infinity
                : score / 2 + Element((at.query + 2 * at.key + 3 * at.head + at.batch) % 8) / 4
            }
          }
        }
        return make(element)
      })
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
    try reduce(.none) { $0.combined(with: try $1.mask(element)) }
  }

  /// The same for the reference.
  public func apply(to problem: inout ReferenceAttention) {
    problem.attends = { b, h, i, j in allSatisfy { $0.attends(b, h, i, j) } }
    problem.bias = { b, h, i, j in reduce(0) { $0 + $1.bias(b, h, i, j) } }
    problem.score = { score, b, h, i, j in reduce(score) { $1.score($0, b, h, i, j) } }
  }
}

/// Where index `[b, h, i, j]` lies in an array whose shape broadcasts to it, right-aligned.
private func position(_ shape: [Int], _ index: [Int]) -> Int {
  zip(shape, index.suffix(shape.count)).reduce(0) { $0 * $1.0 + ($1.0 == 1 ? 0 : $1.1) }
}
