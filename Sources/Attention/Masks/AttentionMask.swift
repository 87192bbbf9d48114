public import AttentionTensors

/// Which query may attend to which key, and what is added to the scores.
///
/// A value that composes: ``combined(with:)`` attends where both do, and adds what both add.
///
///     .causal
///     .causal.combined(with: .window(left: 511, right: 0)).combined(with: .keyLengths([128, 97]))
///     .attending(Tensor<Bool>)      // true: may attend
///     .bias(Tensor<Float>)          // added to the scores; −inf: may not attend
///
/// With `L` queries and `S` keys, structural masks give every query an interval of keys, or a few; tiles of
/// scores outside of them are never computed, nor are keys read outside of the intervals of a tile's queries. A query that
/// may attend to nothing gets output 0. What a masked key or value holds, even NaN, does not reach the result.
///
/// Scores pass through, in this order: scale, softcap, ``scores(_:_:)``, ``alibi(slopes:alignment:)``,
/// ``bias(_:)``, then everything that forbids, then sinks and the softmax.
public struct AttentionMask: Sendable {
  /// Where the diagonal lies if there are more keys than queries, or fewer. Beside ``documents(_:keyOffsets:left:right:)``
  /// each document has its own diagonal, with its own queries and keys; only ``offsets(_:)`` are for the whole row.
  public enum Alignment: Sendable, Hashable {
    /// Query 0 stands at key 0: key j of query i is on the diagonal if j = i. PyTorch's `is_causal`.
    case topLeft
    /// The last query stands at the last key: j = i + S − L. Right for decoding with a cache.
    case bottomRight
    /// Query 0 of element b of the batch stands at key `offsets[b]`: j = i + offsets[b]. For caches of several lengths.
    case offsets([Int])
  }

  /// A rule that leaves every query an interval of keys, or two.
  enum Rule: Sendable {
    /// Keys from `left` before to `right` after the diagonal; nil: no bound on that side.
    case band(Alignment, left: Int?, right: Int?)
    /// The first keys, and those from `left` before the diagonal.
    case keeping(first: Int, Alignment, left: Int)
    /// The first keys of each element of the batch, and those up to the diagonal.
    case prefix([Int], Alignment)
    /// Keys of the query's own chunk.
    case chunks(length: Int, Alignment)
    /// Keys of the query's own document, from `left` before to `right` after its diagonal.
    case documents(queries: [Int], keys: [Int], left: Int?, right: Int?)
  }

  /// A tensor of any element type, checked against the call's when it is compiled.
  struct Bias: Sendable {
    var tensor: any Sendable
    var shape: [Int]
    var dataType: DataType
  }

  /// −slope times the distance of query and key.
  struct Distances: Sendable {
    /// Of each head.
    var slopes: [Double]
    var alignment: Alignment
  }

  /// A function of scores of one element type.
  struct Function: Sendable {
    var body: any Sendable
    var dataType: DataType
  }

  /// What a mask is composed of.
  struct Components: Sendable {
    var rules: [Rule] = []
    var keyLengths: [[Int]] = []
    var queryLengths: [[Int]] = []
    var leftPaddings: [[Int]] = []
    var booleans: [Tensor<Bool>] = []
    var blocks: [BlockMask] = []
    var biases: [Bias] = []
    var distances: [Distances] = []
    var functions: [Function] = []
    /// Keys at the end that every query attends to, whatever the rest says of those before them.
    var trailingKeyCount = 0
  }

  private final class Storage: Sendable {
    let components: Components
    init(_ components: Components) { self.components = components }
  }

  /// One reference for ten arrays, because a call copies its mask a few times; nil, and so no reference, for ``none``.
  private var storage: Storage?

  private init() {}

  private init(_ components: Components) { storage = Storage(components) }

  private func modified(_ change: (inout Components) -> Void) -> AttentionMask {
    var components = storage?.components ?? Components()
    change(&components)
    return AttentionMask(components)
  }

  /// True for ``none``: there is nothing to compile.
  var isNone: Bool { storage == nil }

  var rules: [Rule] { storage?.components.rules ?? [] }
  var keyLengths: [[Int]] {
    get { storage?.components.keyLengths ?? [] }
    set { self = modified { $0.keyLengths = newValue } }
  }
  var queryLengths: [[Int]] { storage?.components.queryLengths ?? [] }
  var leftPaddings: [[Int]] {
    get { storage?.components.leftPaddings ?? [] }
    set { self = modified { $0.leftPaddings = newValue } }
  }
  var booleans: [Tensor<Bool>] { storage?.components.booleans ?? [] }
  var blocks: [BlockMask] { storage?.components.blocks ?? [] }
  var biases: [Bias] { storage?.components.biases ?? [] }
  var distances: [Distances] { storage?.components.distances ?? [] }
  var functions: [Function] { storage?.components.functions ?? [] }
  var trailingKeyCount: Int { storage?.components.trailingKeyCount ?? 0 }

  /// Every query attends to every key.
  public static let none = AttentionMask()

  // MARK: Intervals

  /// Key j of query i only if j ≤ i + S − L: ``causal(_:)`` with `.bottomRight`.
  public static let causal = AttentionMask.causal(.bottomRight)

  /// Keys up to the diagonal.
  ///
  ///     bottomRight, L = 2, S = 5    topLeft, L = 2, S = 5    bottomRight, L = 3, S = 2
  ///     1 1 1 1 .                    1 . . . .                . .
  ///     1 1 1 1 1                    1 1 . . .                1 .
  ///                                                           1 1
  public static func causal(_ alignment: Alignment) -> AttentionMask {
    AttentionMask(Components(rules: [.band(alignment, left: nil, right: 0)]))
  }

  /// Keys from `left` before the diagonal to `right` after it, both included.
  /// - Parameters:
  ///   - left: At least 0; nil: no bound.
  ///   - right: At least 0; nil: no bound.
  ///   - alignment: Which diagonal.
  /// - Returns: The mask. Negative bounds are an error of the call that uses it.
  public static func window(left: Int?, right: Int?, alignment: Alignment = .bottomRight) -> AttentionMask {
    AttentionMask(Components(rules: [.band(alignment, left: left, right: right)]))
  }

  /// The first `count` keys, and those from `left` before the diagonal up to it: a causal window that keeps the
  /// first tokens, of which models make sinks for attention.
  ///
  ///     keepingFirst 1, left 1, L = S = 5
  ///     1 . . . .
  ///     1 1 . . .
  ///     1 1 1 . .
  ///     1 . 1 1 .
  ///     1 . . 1 1
  ///
  /// Source: Xiao et al. 2023 (arXiv:2309.17453), §3.2.
  public static func window(
    left: Int, keepingFirst count: Int, alignment: Alignment = .bottomRight
  ) -> AttentionMask {
    AttentionMask(
      Components(rules: [.keeping(first: count, alignment, left: left), .band(alignment, left: nil, right: 0)]))
  }

  /// A prefix to which every query attends, and after it keys up to the diagonal: prefix language models.
  /// - Parameters:
  ///   - lengths: The prefix of each element of the batch: keys from key 0 on, padding included.
  ///   - alignment: Which diagonal.
  /// - Returns: The mask.
  public static func prefix(_ lengths: [Int], alignment: Alignment = .bottomRight) -> AttentionMask {
    AttentionMask(Components(rules: [.prefix(lengths, alignment)]))
  }

  /// Keys of the query's own chunk: keys are cut every `length`, and the query's chunk is that of its key on the diagonal.
  ///
  /// The first chunk begins where the sequence does: after the sample's ``leftPadding(_:)``, at the first key of the query's
  /// document, else at key 0. Together with ``causal`` this is chunked attention as in Llama 4.
  public static func chunks(length: Int, alignment: Alignment = .bottomRight) -> AttentionMask {
    AttentionMask(Components(rules: [.chunks(length: length, alignment)]))
  }

  /// Several sequences packed into one row, each attending to itself alone.
  ///
  ///     .documents([0, 2, 5])              .documents([0, 2, 5], right: 0)
  ///     1 1 . . .                          1 . . . .
  ///     1 1 . . .                          1 1 . . .
  ///     . . 1 1 1                          . . 1 . .
  ///     . . 1 1 1                          . . 1 1 .
  ///     . . 1 1 1                          . . 1 1 1
  ///
  /// - Parameters:
  ///   - offsets: Where each document begins, and at the end where the last one ends: the running sums of their
  ///     lengths, 0 first, as flash-attention's `cu_seqlens`. Queries behind the end attend to nothing.
  ///   - keyOffsets: The same for the keys, if they are not as many; as many documents.
  ///   - left: Keys before the document's diagonal, which is bottom-right within it; nil: no bound.
  ///   - right: Keys after it; 0: causal.
  /// - Returns: The mask. Offsets that fall are an error of the call that uses it.
  public static func documents(
    _ offsets: [Int], keyOffsets: [Int]? = nil, left: Int? = nil, right: Int? = nil
  ) -> AttentionMask {
    AttentionMask(
      Components(rules: [.documents(queries: offsets, keys: keyOffsets ?? offsets, left: left, right: right)]))
  }

  /// Keys before a length of its own for each element of the batch: right padding.
  public static func keyLengths(_ lengths: [Int]) -> AttentionMask { AttentionMask(Components(keyLengths: [lengths])) }

  /// Queries from a length on attend to nothing: their output is 0.
  public static func queryLengths(_ lengths: [Int]) -> AttentionMask {
    AttentionMask(Components(queryLengths: [lengths]))
  }

  /// Keys after a padding of its own for each element of the batch.
  public static func leftPadding(_ counts: [Int]) -> AttentionMask { AttentionMask(Components(leftPaddings: [counts])) }

  // MARK: Tensors

  /// Keys where `mask` is true.
  /// - Parameter mask: Broadcasts to `[B, H, L, S]`, right-aligned; read in place.
  /// - Returns: The mask.
  public static func attending(_ mask: Tensor<Bool>) -> AttentionMask { AttentionMask(Components(booleans: [mask])) }

  /// Keys where a function says so, looked up block by block: empty blocks cost nothing, full ones no look.
  public static func attending(_ blocks: BlockMask) -> AttentionMask { AttentionMask(Components(blocks: [blocks])) }

  /// Adds `bias` to the scores; where it is −inf, the query does not attend.
  /// - Parameter bias: Broadcasts to `[B, H, L, S]`, right-aligned; read in place. Of the type that the query is
  ///   computed in; where that is Float, also of two bytes.
  /// - Returns: The mask.
  public static func bias<Element: AttentionStorage>(_ bias: Tensor<Element>) -> AttentionMask {
    AttentionMask(Components(biases: [Bias(tensor: bias, shape: bias.shape, dataType: Element._dataType)]))
  }

  // MARK: Functions of positions

  /// Attention with linear biases: adds `−slope · |i + S − L − j|`, each head with its slope.
  /// - Parameters:
  ///   - slopes: One for each query head.
  ///   - alignment: Which diagonal has distance 0.
  /// - Returns: The mask; it forbids nothing.
  ///
  /// Source: Press et al. 2021 (arXiv:2108.12409), §3; the distance to keys after the query as in flash-attention.
  public static func alibi(slopes: [Double], alignment: Alignment = .bottomRight) -> AttentionMask {
    AttentionMask(Components(distances: [Distances(slopes: slopes, alignment: alignment)]))
  }

  /// ``alibi(slopes:alignment:)`` with the paper's slopes: 2^(−8/n), 2^(−16/n) … for n heads, n a power of two. For
  /// other counts those of the next lower power, then every second one of twice that.
  public static func alibi(headCount: Int, alignment: Alignment = .bottomRight) -> AttentionMask {
    .alibi(slopes: alibiSlopes(headCount: headCount), alignment: alignment)
  }

  /// The slopes of the paper for any number of heads from 1 to 2^20; none for others.
  public static func alibiSlopes(headCount: Int) -> [Double] {
    guard (1...1 << 20).contains(headCount) else { return [] }
    let power = 1 << (Int.bitWidth - 1 - headCount.leadingZeroBitCount)
    func slope(_ step: Int, of count: Int) -> Double { Double.exp2(-8 * Double(step) / Double(count)) }
    return (0..<headCount).map { head in
      head < power ? slope(head + 1, of: power) : slope(2 * (head - power) + 1, of: 2 * power)
    }
  }

  /// Replaces scores by a function of them and their positions.
  ///
  ///     let mask = AttentionMask.scores(Float.self) { tile in
  ///       tile.update { score, at in score + Float(at.key - at.query) / 100 }
  ///     }
  ///
  /// - Parameters:
  ///   - element: The type that the query is computed in: Float, also for types of two bytes, or Double.
  ///   - body: Called for some queries by some keys, from several threads at once, and again where weights or scores are
  ///     asked for, or a result is not finite: the same scores must give the same. It sees scores after scale and softcap, also
  ///     of keys that are masked, whose results are not used; −inf as a result forbids.
  /// - Returns: The mask.
  public static func scores<Element: AttentionElement>(
    _ element: Element.Type, _ body: @escaping @Sendable (inout AttentionScoreTile<Element>) -> Void
  ) -> AttentionMask {
    AttentionMask(
      Components(functions: [
        Function(body: AttentionScoreFunction<Element>(body: body), dataType: Element._dataType)
      ]))
  }

  // MARK: Composition

  /// Attends where both masks do, and adds what both add.
  public func combined(with other: AttentionMask) -> AttentionMask {
    assert(trailingKeyCount == 0 && other.trailingKeyCount == 0, "trailing keys are appended last")
    guard let own = other.storage?.components else { return self }
    return modified {
      $0.rules += own.rules
      $0.keyLengths += own.keyLengths
      $0.queryLengths += own.queryLengths
      $0.leftPaddings += own.leftPaddings
      $0.booleans += own.booleans
      $0.blocks += own.blocks
      $0.biases += own.biases
      $0.distances += own.distances
      $0.functions += own.functions
    }
  }

  /// True if some part counts keys; tensors, block masks and functions take the keys as they are.
  var countsPositions: Bool {
    !rules.isEmpty || !distances.isEmpty || !leftPaddings.isEmpty || !keyLengths.isEmpty
  }

  var hasDocuments: Bool { rules.contains { if case .documents = $0 { true } else { false } } }

  /// The alignments of all rules and distances.
  var alignments: [Alignment] { rules.compactMap(\.alignment) + distances.map(\.alignment) }

  /// This mask with another alignment wherever it is bottom-right; beside documents, each of which has its own diagonal,
  /// as it is.
  func replacingBottomRight(by alignment: Alignment) -> AttentionMask {
    if hasDocuments { return self }
    return modified {
      $0.rules = rules.map { $0.alignment == .bottomRight ? $0.aligned(alignment) : $0 }
      $0.distances = distances.map {
        $0.alignment == .bottomRight ? Distances(slopes: $0.slopes, alignment: alignment) : $0
      }
    }
  }

  /// This mask for the first keys, and `count` more keys that every query attends to.
  func appendingAttendedKeys(_ count: Int) -> AttentionMask {
    count == 0 ? self : modified { $0.trailingKeyCount += count }
  }
}
