public import Attention
public import AttentionTestSupport

/// One part of a mask, made twice: as the reference's closures and as the library's value.
public struct MaskPart {
  /// Whether query i of head h may attend to key j. The arguments are (b, h, i, j); b is the element of the batch.
  public var attends: (Int, Int, Int, Int) -> Bool = { _, _, _, _ in true }
  /// The number that is added to the score; −inf forbids the key. The arguments are (b, h, i, j).
  public var bias: (Int, Int, Int, Int) -> Double = { _, _, _, _ in 0 }
  /// The score that replaces the given score before a bias is added. The arguments are (score, b, h, i, j).
  public var score: (Double, Int, Int, Int, Int) -> Double = { score, _, _, _, _ in score }
  /// The derivative of ``score`` with respect to the score. The arguments are (score, b, h, i, j).
  public var scoreDerivative: (Double, Int, Int, Int, Int) -> Double = { _, _, _, _, _ in 1 }
  /// The derivatives of ``score`` with respect to its parameters, if it has any. The arguments are (score, b, h, i, j).
  public var parameterDerivatives: ((Double, Int, Int, Int, Int) -> [Double])?
  /// The shape of the bias; nil if this part is not a bias.
  public var biasShape: [Int]?
  /// The distance of query i from key j, if this part is a linear bias. The arguments are (i, j).
  public var distance: ((Int, Int) -> Double)?
  /// The number of this part's numbers whose gradients are computed: the elements of a bias, the slopes, or the
  /// parameters of a function; 0 for other parts.
  public var numberCount = 0
  /// Makes the same part with its numbers changed by a step. The argument is the step, which has ``numberCount``
  /// numbers.
  public var moved: (([Double]) -> MaskPart)?
  /// True if this part is a function of scores.
  public var isFunction = false
  /// The same part as a mask of the library. The argument is the element type of its biases.
  public var mask: (any AttentionElement.Type) throws -> AttentionMask

  /// The keys from `left` before the diagonal to `right` after the diagonal; nil means no bound.
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

  /// A causal mask. `offsets` holds, for each element of the batch, the key at which query 0 stands.
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

  /// A block mask. Its flags follow a rule that makes some whole blocks empty and some full.
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
      bias: { _, h, i, j in -slopes[h] * Double(abs(places.key(i) - j)) },
      distance: { i, j in Double(abs(places.key(i) - j)) }, numberCount: slopes.count,
      moved: { .alibi(slopes: zip(slopes, $0).map { $0 + $1 }, places) }, mask: { _ in .alibi(slopes: slopes) })
  }

  /// A function that changes scores, and forbids some keys: S / (1 + |S| / bound) + slope · place, where place is a number
  /// that depends on the positions. Its parameters are the bound and the slope.
  public static func function(bound: Double = 16, slope: Double = 0.25) -> MaskPart {
    @Sendable func place(_ b: Int, _ h: Int, _ i: Int, _ j: Int) -> Int { (i + 2 * j + 3 * h + b) % 8 }
    return MaskPart(
      attends: { _, h, i, j in (i + j + h) % 11 != 4 },
      score: { score, b, h, i, j in score / (1 + abs(score) / bound) + slope * Double(place(b, h, i, j)) },
      scoreDerivative: { score, _, _, _, _ in 1 / ((1 + abs(score) / bound) * (1 + abs(score) / bound)) },
      parameterDerivatives: { score, b, h, i, j in
        let ratio = score / (bound + abs(score))
        return [ratio * abs(ratio), Double(place(b, h, i, j))]
      },
      numberCount: 2, moved: { .function(bound: bound + $0[0], slope: slope + $0[1]) },
      isFunction: true,
      mask: { element in
        func make<Element: AttentionElement>(_: Element.Type) -> AttentionMask {
          let (bound, slope) = (Element(bound), Element(slope))
          return .scores(Element.self, parameterCount: 2) { tile in
            tile.update { score, at in
              (at.query + at.key + at.head) % 11 == 4
                ? -.infinity
                : score / (1 + abs(score) / bound) + slope * Element(place(at.batch, at.head, at.query, at.key))
            }
          } derivative: { scores, gradient, parameters in
            for row in 0..<gradient.rowCount {
              for key in gradient.keys {
                let (score, at) = (scores[row, key], gradient.position(row: row, key: key))
                // The score of a masked key may be any number, even NaN, so keys without a gradient are skipped.
                if gradient[row, key] == 0 { continue }
                let ratio = score / (bound + abs(score))
                parameters[0] += gradient[row, key] * ratio * abs(ratio)
                parameters[1] += gradient[row, key] * Element(place(at.batch, at.head, at.query, at.key))
                let divisor = 1 + abs(score) / bound
                gradient[row, key] /= divisor * divisor
              }
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

  /// Random numbers of a shape that broadcasts to [B, H, L, S]. The share `infinities` of them is −inf.
  public static func bias(_ shape: [Int], infinities: Double, seed: UInt64) -> MaskPart {
    var generator = TestGenerator(seed: seed)
    let count = shape.reduce(1, *)
    let forbidden = generator.flags(count, trueShare: infinities)
    return bias(shape, zip(generator.numbers(count, bound: 3), forbidden).map { $1 ? -Double.infinity : $0 })
  }

  private static func bias(_ shape: [Int], _ numbers: [Double]) -> MaskPart {
    MaskPart(
      bias: { numbers[position(shape, [$0, $1, $2, $3])] }, biasShape: shape, numberCount: numbers.count,
      moved: { .bias(shape, zip(numbers, $0).map { $0 + $1 }) },
      mask: { element in
        func make<Element: AttentionElement>(_: Element.Type) throws -> AttentionMask {
          .bias(try Tensor<Element>(numbers.map { Element($0) }, shape: shape))
        }
        return try make(element)
      })
  }
}

extension [MaskPart] {
  /// The library's mask that combines all parts.
  public func mask(_ element: any AttentionElement.Type) throws -> AttentionMask {
    try reduce(.none) { $0.combined(with: try $1.mask(element)) }
  }

  /// Gives the reference the combination of all parts.
  public func apply(to problem: inout ReferenceAttention) {
    problem.attends = { b, h, i, j in allSatisfy { $0.attends(b, h, i, j) } }
    problem.bias = { b, h, i, j in reduce(0) { $0 + $1.bias(b, h, i, j) } }
    problem.score = { score, b, h, i, j in reduce(score) { $1.score($0, b, h, i, j) } }
    if let parameterDerivatives = compactMap(\.parameterDerivatives).first {
      problem.parameterDerivatives = parameterDerivatives
    }
    problem.scoreDerivative = { score, b, h, i, j in
      reduce((score, 1.0)) {
        ($1.score($0.0, b, h, i, j), $0.1 * $1.scoreDerivative($0.0, b, h, i, j))
      }.1
    }
  }
}

extension [MaskPart] {
  /// The gradients of the biases: the gradients of the scores, summed over the axes along which a bias is broadcast.
  public func biasGradients<Number: BinaryFloatingPoint>(
    _ scores: [Number], _ problem: ReferenceAttention
  ) -> [[Number]] {
    compactMap(\.biasShape).map { shape in
      var result = [Number](repeating: 0, count: shape.reduce(1, *))
      problem.forEachScore { index, place in result[position(shape, index)] += scores[place] }
      return result
    }
  }

  /// The gradients of the slopes of linear biases.
  public func slopeGradients<Number: BinaryFloatingPoint>(
    _ scores: [Number], _ problem: ReferenceAttention
  ) -> [[Number]] {
    compactMap(\.distance).map { distance in
      var result = [Number](repeating: 0, count: problem.H)
      problem.forEachScore { index, place in
        result[index[1]] -= scores[place] * Number(distance(index[2], index[3]))
      }
      return result
    }
  }
}

extension ReferenceAttention {
  /// Calls `body` with the index `[b, h, i, j]` of every score, and its place in row-major order.
  fileprivate func forEachScore(_ body: (_ index: [Int], _ place: Int) -> Void) {
    var place = 0
    for b in 0..<B {
      for h in 0..<H {
        for i in 0..<L {
          for j in 0..<S {
            body([b, h, i, j], place)
            place += 1
          }
        }
      }
    }
  }
}

/// The position of the element `[b, h, i, j]` in an array of `shape`. The shape broadcasts to `[B, H, L, S]`, aligned
/// at the last axis.
private func position(_ shape: [Int], _ index: [Int]) -> Int {
  zip(shape, index.suffix(shape.count)).reduce(0) { $0 * $1.0 + ($1.0 == 1 ? 0 : $1.1) }
}
