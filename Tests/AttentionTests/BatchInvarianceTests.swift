import Attention
import AttentionProblems
import AttentionTestSupport
import Testing

/// Compares the results of sequences in a batch with the results of each sequence alone. No difference is allowed.
@Suite("A sequence in a batch has the same bits as alone, whatever else is in the batch")
struct BatchInvarianceTests {
  /// All paths except OpenBLAS: it rounds an element differently at different places of a matrix, so its results depend
  /// on the batch.
  private static let paths = AttentionContext.everyPath.filter { $0.resolvedAlgorithm != .openBLAS }

  /// Lengths of sequences: near the lengths of tiles of keys and of vectors of queries, and far from them.
  private static let lengths = [1, 300, 37, 3, 530, 129, 16]

  private enum Mask: CaseIterable {
    case none, causal, window, keepingFirst

    func value(left: Int = 0) -> AttentionMask {
      switch self {
      case .none: .none
      case .causal: .causal
      case .window: .window(left: 40, right: 10)
      case .keepingFirst: .window(left: 20, keepingFirst: 4)
      }
    }
  }

  /// Queries, keys and values of one sequence, or of a batch.
  private struct Tokens<Element: AttentionElement> {
    var query: Tensor<Element>
    var key: Tensor<Element>
    var value: Tensor<Element>

    /// Random tensors `[1, H, n, E]`, where n is `queries` for the query and `keys` for the key and the value.
    static func random(queries: Int, keys: Int, seed: UInt64) throws -> Tokens {
      func tensor(_ heads: Int, _ count: Int, _ seed: UInt64) throws -> Tensor<Element> {
        var generator = TestGenerator(seed: seed)
        return try Tensor(
          generator.numbers(heads * count * 20, bound: 2).map { Element($0) }, shape: [1, heads, count, 20])
      }
      return Tokens(
        query: try tensor(4, queries, seed), key: try tensor(2, keys, seed + 1), value: try tensor(2, keys, seed + 2))
    }

    /// Joins sequences into one batch. Each begins at the row that `first` returns; the rows around it are NaN.
    static func batch(_ all: [Tokens], queries: Int, keys: Int, first: (Tokens) -> Int = { _ in 0 }) throws -> Tokens {
      func joined(_ part: (Tokens) -> Tensor<Element>, _ count: Int) throws -> Tensor<Element> {
        let heads = part(all[0]).shape[1]
        var result = try Tensor<Element>(repeating: .nan, shape: [all.count, heads, count, 20])
        try result.withMutableView { view in
          for (index, one) in all.enumerated() {
            let rows = first(one)..<first(one) + part(one).shape[2]
            try view.withSlice(index..<index + 1, axis: 0) { sample in
              try sample.withSlice(rows, axis: 2) { try $0.copy(from: part(one)) }
            }
          }
        }
        return result
      }
      return Tokens(
        query: try joined({ $0.query }, queries), key: try joined({ $0.key }, keys),
        value: try joined({ $0.value }, keys))
    }

    func attend(
      _ mask: AttentionMask, softcap: Double? = nil, sinks: Bool = false, _ context: AttentionContext
    ) throws -> (output: Tensor<Element>, logSumExp: Tensor<Element>) {
      let result = try scaledDotProductAttention(
        query: query, key: key, value: value, mask: mask,
        options: AttentionOptions(softcap: softcap, sinks: sinks ? try Tensor([0.5, -1, 2, 0], shape: [4]) : nil),
        returning: .logSumExp, context: context)
      return try (result.output, result.logSumExp.reshaped(result.logSumExp.shape + [1]))
    }
  }

  /// Checks that the rows `rows` of one sample of a batch equal the result of that sequence alone. NaN equals NaN.
  private func expectSame<Element: AttentionElement>(
    _ batch: (output: Tensor<Element>, logSumExp: Tensor<Element>), sample: Int, _ rows: Range<Int>,
    _ alone: (output: Tensor<Element>, logSumExp: Tensor<Element>), _ what: @autoclosure () -> String
  ) throws {
    for (ours, theirs) in [(batch.output, alone.output), (batch.logSumExp, alone.logSumExp)] {
      let part = try ours.slice(sample..<sample + 1, axis: 0).slice(rows, axis: 2).array
      let other = theirs.array
      let differing = zip(part, other).enumerated().filter { $1.0 != $1.1 && !($1.0.isNaN && $1.1.isNaN) }
      #expect(part.count == other.count)
      if let (index, pair) = differing.first {
        Issue.record(
          "\(what()): \(differing.count) of \(part.count) differ, at \(index): \(pair.1) alone, \(pair.0) in the batch")
      }
    }
  }

  private func sequences<Element: AttentionElement>(_: Element.Type) throws -> [Tokens<Element>] {
    try Self.lengths.enumerated().map { try Tokens.random(queries: $1, keys: $1, seed: UInt64(40 + 3 * $0)) }
  }

  // MARK: Attention

  @Test("sequences of one length", arguments: paths)
  func plain(context: AttentionContext) throws {
    try plain(Float.self, context)
    try plain(Double.self, context)
  }

  private func plain<Element: AttentionElement>(_: Element.Type, _ context: AttentionContext) throws {
    for (queries, keys) in [(130, 530), (1, 2600), (5, 1100), (20, 4300)] {
      let all = try (0..<7).map { try Tokens<Element>.random(queries: queries, keys: keys, seed: UInt64($0)) }
      let batch = try Tokens.batch(all, queries: queries, keys: keys)
      for mask in [Mask.none, .causal, .window] {
        let together = try batch.attend(mask.value(), sinks: keys > 1000, context)
        for (index, one) in all.enumerated() {
          try expectSame(
            together, sample: index, 0..<queries, try one.attend(mask.value(), sinks: keys > 1000, context),
            "\(Element.self) \(context.path) \(queries) × \(keys) \(mask), sequence \(index)")
        }
      }
    }
  }

  @Test("sequences padded to one length, on the right and on the left", arguments: paths)
  func padded(context: AttentionContext) throws {
    try padded(Float.self, context)
    try padded(Double.self, context)
  }

  private func padded<Element: AttentionElement>(_: Element.Type, _ context: AttentionContext) throws {
    let all = try sequences(Element.self)
    let longest = Self.lengths.max()!
    let right = try Tokens.batch(all, queries: longest, keys: longest)
    let left = try Tokens.batch(all, queries: longest, keys: longest) { longest - $0.key.shape[2] }
    for mask in Mask.allCases {
      let softcap = mask == .window ? 3.0 : nil
      let onTheRight = try right.attend(
        mask.value().combined(with: .keyLengths(Self.lengths)), softcap: softcap, sinks: mask == .causal, context)
      let onTheLeft = try left.attend(
        mask.value().combined(with: .leftPadding(Self.lengths.map { longest - $0 })), softcap: softcap,
        sinks: mask == .causal, context)
      for (index, one) in all.enumerated() {
        let alone = try one.attend(mask.value(), softcap: softcap, sinks: mask == .causal, context)
        let length = Self.lengths[index]
        let what = "\(Element.self) \(context.path) \(mask), length \(length)"
        try expectSame(onTheRight, sample: index, 0..<length, alone, "right, " + what)
        // This mask always keeps the first keys, which are padding here.
        if mask == .keepingFirst { continue }
        try expectSame(onTheLeft, sample: index, longest - length..<longest, alone, "left, " + what)
      }
    }
  }

  @Test("a few queries over many keys, in several lengths: the keys are split", arguments: paths)
  func splits(context: AttentionContext) throws {
    try splits(Float.self, context)
    try splits(Double.self, context)
  }

  private func splits<Element: AttentionElement>(_: Element.Type, _ context: AttentionContext) throws {
    let lengths = [1, 4600, 37, 3, 4097, 129, 1100]
    for queries in [1, 3, 40] {
      let all = try lengths.enumerated().map {
        try Tokens<Element>.random(queries: queries, keys: $1, seed: UInt64(90 + 3 * $0))
      }
      let batch = try Tokens.batch(all, queries: queries, keys: 4600)
      // The diagonal of each sequence ends at its own last key.
      let offsets = AttentionMask.Alignment.offsets(lengths.map { $0 - queries })
      let masks: [(together: AttentionMask, alone: AttentionMask)] = [
        (.none, .none), (.causal(offsets), .causal),
        (.window(left: 1500, right: 0, alignment: offsets), .window(left: 1500, right: 0)),
      ]
      for (index, mask) in masks.enumerated() {
        let together = try batch.attend(mask.together.combined(with: .keyLengths(lengths)), context)
        for (sample, one) in all.enumerated() {
          try expectSame(
            together, sample: sample, 0..<queries, try one.attend(mask.alone, context),
            "\(Element.self) \(context.path) \(queries) × \(lengths[sample]), mask \(index)")
        }
      }
    }
  }

  @Test("documents that are packed in one row", arguments: paths)
  func documents(context: AttentionContext) throws {
    try documents(Float.self, context)
    try documents(Double.self, context)
  }

  private func documents<Element: AttentionElement>(_: Element.Type, _ context: AttentionContext) throws {
    let all = try sequences(Element.self)
    let offsets = Self.lengths.reduce(into: [0]) { $0.append($0.last! + $1) }
    func row(_ part: (Tokens<Element>) -> Tensor<Element>) throws -> Tensor<Element> {
      let heads = part(all[0]).shape[1]
      var result = try Tensor<Element>(repeating: .nan, shape: [1, heads, offsets.last!, 20])
      try result.withMutableView { view in
        for (index, one) in all.enumerated() {
          try view.withSlice(offsets[index]..<offsets[index + 1], axis: 2) { try $0.copy(from: part(one)) }
        }
      }
      return result
    }
    let packed = Tokens(query: try row { $0.query }, key: try row { $0.key }, value: try row { $0.value })
    for (left, right) in [(nil, nil), (nil, 0), (25, 0)] as [(Int?, Int?)] {
      let together = try packed.attend(.documents(offsets, left: left, right: right), context)
      for (index, one) in all.enumerated() {
        try expectSame(
          together, sample: 0, offsets[index]..<offsets[index + 1],
          try one.attend(.window(left: left, right: right), context),
          "\(Element.self) \(context.path) left \(left ?? -1) right \(right ?? -1), length \(Self.lengths[index])")
      }
    }
  }

  // MARK: Caches

  @Test("prompts and tokens in a cache", arguments: paths)
  func caches(context: AttentionContext) throws {
    for kind in [CacheKind.growing, .window(64, 4), .paged(48), .window(64, 4, pageLength: 48)] {
      try cache(kind, Float.self, context)
    }
    for kind in [CacheKind.growing, .window(64, 0), .paged(48)] {
      try cache(kind, Double.self, context)
    }
    try cache(.growing, BFloat16.self, context)
  }

  private func cache<Stored: AttentionStorage>(
    _ kind: CacheKind, _: Stored.Type, _ context: AttentionContext
  ) throws {
    typealias Element = Stored.Arithmetic
    func make(_ batchCount: Int) throws -> KeyValueCache<Stored> {
      try kind.cache(Stored.self, batchCount: batchCount, headCount: 2, headDimension: 20)
    }
    let together = try make(Self.lengths.count)
    let each = try Self.lengths.map { _ in try make(1) }
    // Three steps: the prompts; one token for each sequence; up to three tokens, of which some sequences get fewer or
    // none.
    let steps = [Self.lengths, [1, 1, 1, 1, 1, 1, 1], [3, 1, 0, 2, 3, 1, 2]]
    for (step, counts) in steps.enumerated() {
      let longest = counts.max()!
      let all = try counts.enumerated().map {
        try Tokens<Element>.random(queries: $1, keys: $1, seed: UInt64(300 + 40 * step + 3 * $0))
      }
      let batch = try Tokens.batch(all, queries: longest, keys: longest)
      func attend(
        _ tokens: Tokens<Element>, _ cache: KeyValueCache<Stored>, _ counts: [Int]?
      ) throws -> (output: Tensor<Element>, logSumExp: Tensor<Element>) {
        try cache.append(key: tokens.key, value: tokens.value, counts: counts)
        let result = try scaledDotProductAttention(
          query: tokens.query, cache: cache, returning: .logSumExp, context: context)
        return try (result.output, result.logSumExp.reshaped(result.logSumExp.shape + [1]))
      }
      let result = try attend(batch, together, counts)
      for (index, one) in all.enumerated() where counts[index] > 0 {
        try expectSame(
          result, sample: index, 0..<counts[index], try attend(one, each[index], nil),
          "\(Stored.self) \(context.path) \(kind), step \(step), \(counts[index]) of \(each[index].lengths) tokens")
      }
    }
  }
}
