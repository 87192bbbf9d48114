public import AttentionTensors

/// Which query may attend to which key, and how scores are changed.
///
/// Masks compose: ``combined(with:)`` attends where both masks attend, and applies the biases and functions of both.
///
///     .causal
///     .causal.combined(with: .window(left: 511, right: 0)).combined(with: .keyLengths([128, 97]))
///     .attending(Tensor<Bool>)      // true: may attend
///     .bias(Tensor<Float>)          // added to the scores; −inf: may not attend
///
/// `L` is the number of queries, and `S` the number of keys. A structural mask, such as ``causal`` or
/// ``keyLengths(_:)``, gives each query one interval of keys, or a few. Tiles of scores outside these intervals are
/// never computed, and keys outside the intervals of a tile's queries are never read. A query that may attend to
/// nothing gets output 0. A masked key or value does not reach the result, even if it holds NaN.
///
/// Scores are changed in this order: scale, softcap, ``scores(_:_:derivative:)``, ``alibi(slopes:alignment:)``, ``bias(_:)``, then
/// everything that forbids keys, then sinks and the softmax.
public struct AttentionMask: Sendable {
  /// Where the diagonal lies if the numbers of queries and keys differ.
  ///
  /// If a mask has ``documents(_:keyOffsets:left:right:)``, each document has its own diagonal, among its own queries
  /// and keys. Only ``offsets(_:)`` ignore documents: they count from query 0 and key 0 of the call.
  public enum Alignment: Sendable, Hashable {
    /// Query 0 stands at key 0: key j is on the diagonal of query i if j = i. This is PyTorch's `is_causal`.
    case topLeft
    /// The last query stands at the last key: j = i + S − L. Use this to decode with a cache.
    case bottomRight
    /// Query 0 of element b of the batch stands at key `offsets[b]`: j = i + offsets[b]. For caches of different lengths.
    case offsets([Int])
  }

  /// A rule that leaves every query an interval of keys, or two.
  enum Rule: Sendable {
    /// Keys from `left` before to `right` after the diagonal; nil: no bound on that side.
    case band(Alignment, left: Int?, right: Int?)
    /// The first keys, and all keys from the one that is `left` before the diagonal to the last.
    case keeping(first: Int, Alignment, left: Int)
    /// The first keys of each element of the batch, and those up to the diagonal.
    case prefix([Int], Alignment)
    /// Keys of the query's own chunk.
    case chunks(length: Int, Alignment)
    /// Keys of the query's own document, from `left` before to `right` after its diagonal.
    case documents(queries: [Int], keys: [Int], left: Int?, right: Int?)
  }

  /// A bias of any element type. The type is checked against the call's when the mask is compiled.
  struct Bias: Sendable {
    var tensor: any Sendable
    var shape: [Int]
    var dataType: DataType
  }

  /// A bias of −slope times the distance between query and key.
  struct Distances: Sendable {
    /// One slope for each head.
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
    /// The number of keys at the end to which every query attends. The rest of the mask applies only to the keys before
    /// them.
    var trailingKeyCount = 0
  }

  private final class Storage: Sendable {
    let components: Components
    init(_ components: Components) { self.components = components }
  }

  /// The components; nil for ``none``. A call copies its mask a few times: one reference is copied instead of nine
  /// arrays.
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

  /// Query i attends to key j only if j ≤ i + S − L: ``causal(_:)`` with `.bottomRight`.
  public static let causal = AttentionMask.causal(.bottomRight)

  /// Attends to the keys up to the diagonal.
  ///
  ///     bottomRight, L = 2, S = 5    topLeft, L = 2, S = 5    bottomRight, L = 3, S = 2
  ///     1 1 1 1 .                    1 . . . .                . .
  ///     1 1 1 1 1                    1 1 . . .                1 .
  ///                                                           1 1
  public static func causal(_ alignment: Alignment) -> AttentionMask {
    AttentionMask(Components(rules: [.band(alignment, left: nil, right: 0)]))
  }

  /// Attends to the keys from `left` before the diagonal to `right` after it, both included.
  /// - Parameters:
  ///   - left: At least 0; nil: no bound.
  ///   - right: At least 0; nil: no bound.
  ///   - alignment: Which diagonal.
  /// - Returns: The mask. The call that uses it throws if a bound is negative.
  public static func window(left: Int?, right: Int?, alignment: Alignment = .bottomRight) -> AttentionMask {
    AttentionMask(Components(rules: [.band(alignment, left: left, right: right)]))
  }

  /// A causal window that also keeps the first keys. A query attends to the first `count` keys, and to the keys from
  /// `left` before the diagonal up to it.
  ///
  /// Models use the first tokens as attention sinks.
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

  /// Attends to a prefix, and after it to the keys up to the diagonal, as prefix language models do.
  /// - Parameters:
  ///   - lengths: The length of the prefix of each element of the batch, counted from key 0, padding included.
  ///   - alignment: Which diagonal.
  /// - Returns: The mask.
  public static func prefix(_ lengths: [Int], alignment: Alignment = .bottomRight) -> AttentionMask {
    AttentionMask(Components(rules: [.prefix(lengths, alignment)]))
  }

  /// Attends to the keys of the query's own chunk.
  ///
  /// Keys are cut into chunks of `length`. A query belongs to the chunk that holds its key on the diagonal. The first chunk
  /// begins where the sequence begins: after the sample's ``leftPadding(_:)``, at the first key of the query's document, or
  /// else at key 0. Together with ``causal`` this is chunked attention as in Llama 4.
  public static func chunks(length: Int, alignment: Alignment = .bottomRight) -> AttentionMask {
    AttentionMask(Components(rules: [.chunks(length: length, alignment)]))
  }

  /// Several sequences packed into one row, each of which attends only to itself.
  ///
  ///     .documents([0, 2, 5])              .documents([0, 2, 5], right: 0)
  ///     1 1 . . .                          1 . . . .
  ///     1 1 . . .                          1 1 . . .
  ///     . . 1 1 1                          . . 1 . .
  ///     . . 1 1 1                          . . 1 1 .
  ///     . . 1 1 1                          . . 1 1 1
  ///
  /// - Parameters:
  ///   - offsets: Where each document begins, and then where the last one ends: 0, followed by the running sums of the
  ///     lengths, as flash-attention's `cu_seqlens`. Queries after the end attend to nothing.
  ///   - keyOffsets: The same for the keys, if their numbers differ from those of the queries. The number of documents must
  ///     be the same.
  ///   - left: How many keys before the diagonal a query attends to; nil: no bound. The diagonal is bottom-right within
  ///     each document.
  ///   - right: How many keys after the diagonal it attends to; nil: no bound; 0: causal.
  /// - Returns: The mask. The call that uses it throws if offsets decrease.
  public static func documents(
    _ offsets: [Int], keyOffsets: [Int]? = nil, left: Int? = nil, right: Int? = nil
  ) -> AttentionMask {
    AttentionMask(
      Components(rules: [.documents(queries: offsets, keys: keyOffsets ?? offsets, left: left, right: right)]))
  }

  /// Attends to only the first keys of each element of the batch, as many as `lengths` says: right padding.
  public static func keyLengths(_ lengths: [Int]) -> AttentionMask { AttentionMask(Components(keyLengths: [lengths])) }

  /// Lets only the first queries of each element of the batch attend, as many as `lengths` says. The other queries
  /// attend to nothing, so their output is 0.
  public static func queryLengths(_ lengths: [Int]) -> AttentionMask {
    AttentionMask(Components(queryLengths: [lengths]))
  }

  /// Hides the first keys of each element of the batch, as many as `counts` says: left padding.
  public static func leftPadding(_ counts: [Int]) -> AttentionMask { AttentionMask(Components(leftPaddings: [counts])) }

  // MARK: Tensors

  /// Attends where `mask` is true.
  /// - Parameter mask: Broadcasts to `[B, H, L, S]`, right-aligned; read in place.
  /// - Returns: The mask.
  public static func attending(_ mask: Tensor<Bool>) -> AttentionMask { AttentionMask(Components(booleans: [mask])) }

  /// Attends where a block mask does. Empty blocks cost nothing, and the keys of full blocks are not checked one by
  /// one.
  public static func attending(_ blocks: BlockMask) -> AttentionMask { AttentionMask(Components(blocks: [blocks])) }

  /// Adds `bias` to the scores; where it is −inf, the query does not attend.
  /// - Parameter bias: Broadcasts to `[B, H, L, S]`, right-aligned; read in place. Its type is the one that the query is
  ///   computed in. If that is Float, a type of two bytes is allowed too.
  /// - Returns: The mask.
  public static func bias<Element: AttentionStorage>(_ bias: Tensor<Element>) -> AttentionMask {
    AttentionMask(Components(biases: [Bias(tensor: bias, shape: bias.shape, dataType: Element._dataType)]))
  }

  // MARK: Functions of positions

  /// Attention with linear biases: adds `−slope · |d − j|` to the scores, where j is the key and d is the key on the
  /// query's diagonal, by default i + S − L for query i. Each head has its own slope.
  /// - Parameters:
  ///   - slopes: One for each query head.
  ///   - alignment: Which diagonal has distance 0.
  /// - Returns: The mask; it forbids nothing.
  ///
  /// Source: Press et al. 2021 (arXiv:2108.12409), §3. The distance to keys after the query is as in flash-attention.
  public static func alibi(slopes: [Double], alignment: Alignment = .bottomRight) -> AttentionMask {
    AttentionMask(Components(distances: [Distances(slopes: slopes, alignment: alignment)]))
  }

  /// ``alibi(slopes:alignment:)`` with the slopes of the paper.
  ///
  /// For n heads, n a power of two, the slopes are 2^(−8/n), 2^(−16/n) … For other n, they are the slopes of the next lower
  /// power of two, followed by every second slope of twice that power.
  public static func alibi(headCount: Int, alignment: Alignment = .bottomRight) -> AttentionMask {
    .alibi(slopes: alibiSlopes(headCount: headCount), alignment: alignment)
  }

  /// The ALiBi slopes of Press et al. 2021, one for each head. `headCount` is from 1 to 2^20; other numbers give an empty array.
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
  ///   - body: Called for each tile of scores, from several threads at once. A tile holds the scores of some queries
  ///     and some keys. If weights or scores are asked for, or if a result is not finite, `body` is called again for
  ///     the same scores, so equal scores must give equal results. It sees scores after scale and softcap, also those
  ///     of masked keys, whose results are not used. A result of −inf forbids the key.
  ///   - derivative: Needed for gradients only. It gets the scores that `body` gets, and the gradient of the results of
  ///     `body`, which it replaces by the gradient of the scores. Where a key is masked, the gradient is 0 and must stay 0,
  ///     whatever the score is.
  /// - Returns: The mask.
  public static func scores<Element: AttentionElement>(
    _ element: Element.Type, _ body: @escaping @Sendable (inout AttentionScoreTile<Element>) -> Void,
    derivative: (
      @Sendable (_ scores: borrowing AttentionScoreTile<Element>, _ gradient: inout AttentionScoreTile<Element>) -> Void
    )? = nil
  ) -> AttentionMask {
    guard let derivative else { return function(body, nil, 0) }
    return function(body, { scores, gradient, _ in derivative(scores, &gradient) }, 0)
  }

  /// The derivative of a function of scores with parameters.
  public typealias ScoreDerivative<Element: AttentionElement> =
    @Sendable (
      _ scores: borrowing AttentionScoreTile<Element>, _ gradient: inout AttentionScoreTile<Element>,
      _ parameters: inout MutableSpan<Element>
    ) -> Void

  /// Replaces scores by a function of them, their positions and parameters that are trained.
  ///
  ///     // S = f(x, θ)  ⇒  dθ += Σ dS·∂f/∂θ
  ///     let mask = AttentionMask.scores(Float.self, parameterCount: 1) { [slope] tile in
  ///       tile.update { score, at in score + slope * Float(at.key - at.query) }
  ///     } derivative: { scores, gradient, parameters in
  ///       for row in 0..<gradient.rowCount {
  ///         for key in gradient.keys {
  ///           let at = gradient.position(row: row, key: key)
  ///           parameters[0] += gradient[row, key] * Float(at.key - at.query)
  ///         }
  ///       }
  ///     }
  ///
  /// - Parameters:
  ///   - element: As in ``scores(_:_:derivative:)``.
  ///   - parameterCount: The number of parameters: 0 or more.
  ///   - body: As in ``scores(_:_:derivative:)``.
  ///   - derivative: As in ``scores(_:_:derivative:)``. It also gets `parameterCount` sums, and adds to them the
  ///     gradients of the parameters. Each score whose gradient is computed is passed to it exactly once. The bits of
  ///     the sums do not depend on the number of threads.
  /// - Returns: The mask. ``AttentionGradients/scoreParameters`` has the gradients.
  public static func scores<Element: AttentionElement>(
    _ element: Element.Type, parameterCount: Int,
    _ body: @escaping @Sendable (inout AttentionScoreTile<Element>) -> Void,
    derivative: @escaping ScoreDerivative<Element>
  ) -> AttentionMask {
    function(body, derivative, parameterCount)
  }

  private static func function<Element: AttentionElement>(
    _ body: @escaping @Sendable (inout AttentionScoreTile<Element>) -> Void, _ derivative: ScoreDerivative<Element>?,
    _ parameterCount: Int
  ) -> AttentionMask {
    let function = AttentionScoreFunction<Element>(body: body, derivative: derivative, parameterCount: parameterCount)
    return AttentionMask(Components(functions: [Function(body: function, dataType: Element._dataType)]))
  }

  // MARK: Composition

  /// Attends where both masks attend, and applies the biases and functions of both.
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

  /// True if some component depends on the positions of keys in their sequence. Tensors, block masks and functions do
  /// not: they apply to the keys by their index.
  var countsPositions: Bool {
    !rules.isEmpty || !distances.isEmpty || !leftPaddings.isEmpty || !keyLengths.isEmpty
  }

  var hasDocuments: Bool { rules.contains { if case .documents = $0 { true } else { false } } }

  /// The alignments of all rules and distances.
  var alignments: [Alignment] { rules.compactMap(\.alignment) + distances.map(\.alignment) }

  /// This mask with `alignment` in place of every `.bottomRight`. A mask with documents stays as it is, because each
  /// document has its own diagonal.
  func replacingBottomRight(by alignment: Alignment) -> AttentionMask {
    if hasDocuments { return self }
    return modified {
      $0.rules = rules.map { $0.alignment == .bottomRight ? $0.aligned(alignment) : $0 }
      $0.distances = distances.map {
        $0.alignment == .bottomRight ? Distances(slopes: $0.slopes, alignment: alignment) : $0
      }
    }
  }

  /// This mask for the first keys, followed by `count` more keys to which every query attends.
  func appendingAttendedKeys(_ count: Int) -> AttentionMask {
    count == 0 ? self : modified { $0.trailingKeyCount += count }
  }
}
