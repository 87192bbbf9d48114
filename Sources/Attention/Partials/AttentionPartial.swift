internal import AttentionBLAS
public import AttentionTensors

/// The result of attention to some of the keys, to be merged with the results for the other keys.
///
/// With partials, keys can be split over calls, caches or machines.
///
///     var whole = try AttentionPartial(query: query, key: nearKeys, value: nearValues)
///     try whole.merge(AttentionPartial(query: query, key: farKeys, value: farValues))
///     let output = whole.output
///
/// Partials k with outputs Oₖ and log-sum-exps lseₖ merge to the output `O = Σ wₖ·Oₖ` with the weights
/// `wₖ = exp(lseₖ − m) / Σ exp(lseₖ − m)`, where m is the greatest lseₖ. The log-sum-exp becomes
/// `m + ln Σ exp(lseₖ − m)`. The weights sum to 1, however large the log-sum-exps are. Merging is associative and
/// commutative up to rounding. A partial without keys (output 0, log-sum-exp −inf) changes nothing. Give sinks to only
/// one of the partials, because each sink must count once.
///
/// `Element` is the type that attention computes in: Double for operands of Double, Float for all others. Partials of
/// two-byte operands are not rounded to two bytes; convert the output after the last merge.
/// Source: Milakov and Gimelshein 2018 (arXiv:1805.02867), §3.1; Dao 2023 (arXiv:2307.08691), §3.1.
public struct AttentionPartial<Element: AttentionElement>: Sendable {
  /// The output `[B, H, L, Ev]`, or of lower rank, in ``layout``; contiguous.
  public private(set) var output: Tensor<Element>
  /// The order of the output's axes. The log-sum-exp has its heads first in either layout.
  public let layout: AttentionLayout
  /// m and Σ exp(lseₖ − m) of each row, over the partials k merged so far. Rows are in the order of the output's rows.
  /// The two numbers are stored separately, because in their combination m + ln Σ the logarithm could be rounded away
  /// beside a large m.
  private var maximum: Tensor<Element>
  private var sum: Tensor<Element>

  private static var subject: String { "AttentionPartial" }

  /// Attention of the queries to some of the keys.
  ///
  /// The parameters and errors are those of ``scaledDotProductAttention(query:key:value:mask:options:context:)``.
  public init<Stored: AttentionStorage, StoredKey: AttentionStorage>(
    query: Tensor<Stored>, key: Tensor<StoredKey>, value: Tensor<StoredKey>, mask: AttentionMask = .none,
    options: AttentionOptions<Element> = AttentionOptions(), context: AttentionContext = .default
  ) throws where Stored.Arithmetic == Element, StoredKey.Arithmetic == Element {
    let problem = try AttentionProblem<Element>(query: query, key: key, value: value, mask: mask, options)
    try self.init(problem.result(Element.self, returning: .logSumExp, context: context))
  }

  /// A partial from the result of a call that was asked for its log-sum-exp.
  /// - Throws: `AttentionError` if the result has no log-sum-exp.
  public init(_ result: AttentionResult<Element>) throws {
    try self.init(output: result.output, logSumExp: result.logSumExp, layout: result.layout)
  }

  /// A partial from tensors.
  ///
  /// - Parameters:
  ///   - output: `[B, H, L, Ev]`, or of lower rank, in `layout`.
  ///   - logSumExp: `[B, H, L]`, without the axes that the output does not have.
  ///   - layout: The order of the output's axes.
  /// - Throws: `AttentionError` where the shapes do not fit each other.
  public init(
    output: Tensor<Element>, logSumExp: Tensor<Element>, layout: AttentionLayout = .headsFirst
  ) throws {
    let rows = layout.canonical(output.shape, output.strides)?.shape.dropLast()
    try requireShape(
      rows.map { Array($0.suffix(output.rank - 1)) } == logSumExp.shape, Self.subject,
      "an output [B, H, L, Ev] and its log-sum-exp [B, H, L] expected; got \(output.shape) and \(logSumExp.shape)")
    self.output = try output.contiguous()
    self.layout = layout
    maximum = try Self.exchanged(logSumExp, layout).contiguous()
    sum = try Tensor(maximum.array.map { $0 == -.infinity ? 0 : 1 }, shape: maximum.shape)
  }

  /// Reorders `[B, H, L]` to the order of the output's rows, or back. Returns a view.
  private static func exchanged(_ rows: Tensor<Element>, _ layout: AttentionLayout) throws -> Tensor<Element> {
    // Without heads there is nothing to exchange.
    if layout == .headsFirst || rows.rank < 2 { return rows }
    var axes = Array(0..<rows.rank)
    axes.swapAt(rows.rank - 2, rows.rank - 1)
    return try rows.permuted(axes)
  }

  /// `[B, H, L]`: the log-sum-exp of all keys so far; −inf for a query that attends to none.
  public var logSumExp: Tensor<Element> {
    get throws {
      let values = zip(maximum.array, sum.array).map { maximum, sum in
        sum == 0 ? -.infinity : maximum + Element(_nearest: sum._double.naturalLogarithm)
      }
      return try Self.exchanged(Tensor(values, shape: maximum.shape), layout).contiguous()
    }
  }

  /// Adds a partial of other keys to this one, in place.
  ///
  /// - Parameters:
  ///   - other: A partial of the same queries.
  ///   - context: The threads and the instruction set. The bits of the result do not depend on the threads.
  /// - Throws: `AttentionError` if shapes or layouts differ, if the context asks for something that this machine does
  ///   not have, or if memory runs out. This partial is then unchanged.
  public mutating func merge(_ other: AttentionPartial, context: AttentionContext = .default) throws {
    try requireShape(
      other.output.shape == output.shape && other.layout == layout, Self.subject,
      "a partial of shape \(output.shape), \(layout), expected; got \(other.output.shape), \(other.layout)")
    let kernels = try context.kernels(for: Element.self)
    let (rowCount, columnCount) = (maximum.count, output.shape[output.rank - 1])
    try output.withMutableView { output in
      try maximum.withMutableView { maximum in
        try sum.withMutableView { sum in
          let own = UncheckedSendable(
            RowState(maximum: maximum.base, sum: sum.base, result: output.base, valueDimension: columnCount))
          let added = UncheckedSendable(
            RowState(
              maximum: other.maximum.mutableBase, sum: other.sum.mutableBase, result: other.output.mutableBase,
              valueDimension: columnCount))
          // An estimate that sets the size of tasks: one thread takes 20 ns for the maximum and the sum of a row, and
          // 0.5 ns for each element of its output.
          context.parallelFor(count: rowCount, nanosecondsPerItem: 20 + 0.5 * Double(columnCount)) { rows, _ in
            own.value.rows(rows).merge(added.value.rows(rows), rowCount: rows.count, kernels)
          }
        }
      }
    }
    withExtendedLifetime(other) {}
  }

  /// Returns this partial merged with another of the same queries. Up to rounding, the result is as if one call had
  /// attended to the keys of both.
  /// - Throws: As ``merge(_:context:)``.
  public func merged(with other: AttentionPartial, context: AttentionContext = .default) throws -> AttentionPartial {
    var result = self
    try result.merge(other, context: context)
    return result
  }

  /// Merges one or more partials of the same queries, in the given order. Up to rounding, the result is as if one call
  /// had attended to the keys of all of them.
  /// - Throws: `AttentionError` if there is no partial; else as ``merge(_:context:)``.
  public static func merged(
    _ partials: [AttentionPartial], context: AttentionContext = .default
  ) throws -> AttentionPartial {
    guard var result = partials.first else {
      throw AttentionError(.invalidArgument, subject, "at least one partial expected; got none")
    }
    for partial in partials.dropFirst() { try result.merge(partial, context: context) }
    return result
  }
}
