public import AttentionTensors

/// Which query may attend to which key, and what is added to the scores.
///
/// A value that composes: `intersection` attends where both do, and adds what both add.
///
///     .causal
///     .causal.intersection(.window(left: 511, right: 0)).intersection(.keyLengths([128, 97]))
///     .attending(Tensor<Bool>)      // true: may attend
///     .bias(Tensor<Float>)          // added to the scores; −inf: may not attend
///
/// With `L` queries and `S` keys, structural masks give every query one interval of keys; tiles of scores
/// outside of it are never computed, nor are keys read that no query nearby attends to. A query that may
/// attend to nothing gets output 0. What a masked key or value holds, even NaN, does not reach the result.
public struct AttentionMask: Sendable {
  /// Where the diagonal lies if there are more keys than queries, or fewer.
  public enum Alignment: Sendable, Hashable {
    /// Query 0 stands at key 0: key j of query i is on the diagonal if j = i. PyTorch's `is_causal`.
    case topLeft
    /// The last query stands at the last key: j = i + S − L. Right for decoding with a cache.
    case bottomRight

    func offset(queryCount: Int, keyCount: Int) -> Int {
      self == .topLeft ? 0 : keyCount - queryCount
    }
  }

  /// Keys from `left` before to `right` after the diagonal; nil: no bound on that side.
  struct Band: Sendable, Hashable {
    var alignment: Alignment
    var left: Int?
    var right: Int?
  }

  /// A bias of either element type, checked against the call's when it is compiled.
  struct Bias: Sendable {
    var tensor: any Sendable
    var shape: [Int]
    var dataType: DataType
  }

  var bands: [Band] = []
  var keyLengths: [[Int]] = []
  var leftPaddings: [[Int]] = []
  var booleans: [Tensor<Bool>] = []
  var biases: [Bias] = []
  /// Keys at the end that every query attends to, whatever the rest says of those before them.
  var trailingKeyCount = 0

  /// Every query attends to every key.
  public static let none = AttentionMask()

  /// Key j of query i only if j ≤ i + S − L: ``causal(_:)`` with `.bottomRight`.
  public static let causal = AttentionMask.causal(.bottomRight)

  /// Keys up to the diagonal.
  ///
  ///     bottomRight, L = 2, S = 5    topLeft, L = 2, S = 5    bottomRight, L = 3, S = 2
  ///     1 1 1 1 .                    1 . . . .                . .
  ///     1 1 1 1 1                    1 1 . . .                1 .
  ///                                                           1 1
  public static func causal(_ alignment: Alignment) -> AttentionMask {
    AttentionMask(bands: [Band(alignment: alignment, left: nil, right: 0)])
  }

  /// Keys from `left` before the diagonal to `right` after it, both included.
  /// - Parameters:
  ///   - left: At least 0; nil: no bound.
  ///   - right: At least 0; nil: no bound.
  ///   - alignment: Which diagonal.
  /// - Returns: The mask. Negative bounds are an error of the call that uses it.
  public static func window(left: Int?, right: Int?, alignment: Alignment = .bottomRight) -> AttentionMask {
    AttentionMask(bands: [Band(alignment: alignment, left: left, right: right)])
  }

  /// Keys before a length of its own for each element of the batch: right padding.
  public static func keyLengths(_ lengths: [Int]) -> AttentionMask { AttentionMask(keyLengths: [lengths]) }

  /// Keys after a padding of its own for each element of the batch.
  public static func leftPadding(_ counts: [Int]) -> AttentionMask { AttentionMask(leftPaddings: [counts]) }

  /// Keys where `mask` is true.
  /// - Parameter mask: Broadcasts to `[B, H, L, S]`, right-aligned; read in place.
  /// - Returns: The mask.
  public static func attending(_ mask: Tensor<Bool>) -> AttentionMask { AttentionMask(booleans: [mask]) }

  /// Adds `bias` to the scores; where it is −inf, the query does not attend.
  /// - Parameter bias: Broadcasts to `[B, H, L, S]`, right-aligned; read in place. Of the query's element type.
  /// - Returns: The mask.
  public static func bias<Element: AttentionElement>(_ bias: Tensor<Element>) -> AttentionMask {
    AttentionMask(biases: [Bias(tensor: bias, shape: bias.shape, dataType: Element.dataType)])
  }

  /// Attends where both masks do, and adds what both add.
  public func intersection(_ other: AttentionMask) -> AttentionMask {
    assert(trailingKeyCount == 0 && other.trailingKeyCount == 0, "trailing keys are appended last")
    var result = self
    result.bands += other.bands
    result.keyLengths += other.keyLengths
    result.leftPaddings += other.leftPaddings
    result.booleans += other.booleans
    result.biases += other.biases
    return result
  }

  /// This mask for the first keys, and `count` more keys that every query attends to.
  func appendingAttendedKeys(_ count: Int) -> AttentionMask {
    var result = self
    result.trailingKeyCount += count
    return result
  }
}

// MARK: - PyTorch's nn.MultiheadAttention

extension AttentionMask {
  /// `key_padding_mask` of PyTorch's `nn.MultiheadAttention`, in which true means *ignore*.
  /// - Parameter mask: `[B, S]`, or `[S]` without a batch.
  /// - Returns: The mask.
  /// - Throws: `AttentionError` for other shapes.
  public static func pyTorchKeyPadding(_ mask: Tensor<Bool>) throws -> AttentionMask {
    .attending(try inverted(try keyPadding(mask)))
  }

  /// A floating-point `key_padding_mask` of PyTorch's `nn.MultiheadAttention`, which is added.
  /// - Parameter mask: `[B, S]`, or `[S]` without a batch.
  /// - Returns: The mask.
  /// - Throws: `AttentionError` for other shapes.
  public static func pyTorchKeyPadding<Element: AttentionElement>(_ mask: Tensor<Element>) throws -> AttentionMask {
    .bias(try keyPadding(mask))
  }

  /// `attn_mask` of PyTorch's `nn.MultiheadAttention`, in which true means *ignore*.
  /// - Parameters:
  ///   - mask: `[L, S]` or `[B·H, L, S]`, batch-major.
  ///   - headCount: H.
  /// - Returns: The mask.
  /// - Throws: `AttentionError` for other shapes.
  public static func pyTorchAttention(_ mask: Tensor<Bool>, headCount: Int) throws -> AttentionMask {
    .attending(try inverted(try splitBatch(mask, headCount: headCount)))
  }

  /// A floating-point `attn_mask` of PyTorch's `nn.MultiheadAttention`, which is added.
  /// - Parameters:
  ///   - mask: `[L, S]` or `[B·H, L, S]`, batch-major.
  ///   - headCount: H.
  /// - Returns: The mask.
  /// - Throws: `AttentionError` for other shapes.
  public static func pyTorchAttention<Element: AttentionElement>(
    _ mask: Tensor<Element>, headCount: Int
  ) throws -> AttentionMask {
    .bias(try splitBatch(mask, headCount: headCount))
  }

  private static func keyPadding<Element>(_ mask: Tensor<Element>) throws -> Tensor<Element> {
    try requireShape(
      mask.rank == 1 || mask.rank == 2, "key padding mask", "[B, S] or [S] expected; got \(mask.shape)")
    return try mask.reshaped([mask.rank == 2 ? mask.shape[0] : 1, 1, 1, mask.shape[mask.rank - 1]])
  }

  private static func splitBatch<Element>(_ mask: Tensor<Element>, headCount: Int) throws -> Tensor<Element> {
    if mask.rank == 2 { return mask }
    try requireShape(
      mask.rank == 3 && headCount > 0 && mask.shape[0] % headCount == 0, "attention mask",
      "[L, S] or [B·H, L, S] with H = \(headCount) expected; got \(mask.shape)")
    return try mask.reshaped([mask.shape[0] / headCount, headCount, mask.shape[1], mask.shape[2]])
  }

  private static func inverted(_ mask: Tensor<Bool>) throws -> Tensor<Bool> {
    try Tensor(shape: mask.shape) { target in
      try mask.withUnsafeBufferPointer { source in
        for i in source.indices { target[i] = !source[i] }
      }
    }
  }
}
