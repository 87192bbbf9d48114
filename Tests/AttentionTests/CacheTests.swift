import Attention
import AttentionFiles
import AttentionProblems
import AttentionTestSupport
import Testing

@Suite("Key/value caches")
struct CacheTests {
  static let kinds: [CacheKind] = [
    .growing, .paged(1), .paged(16), .paged(256), .window(7, 0), .window(20, 3), .window(1000, 2),
    .window(7, 0, pageLength: 4), .window(20, 3, pageLength: 1), .window(20, 3, pageLength: 16),
    .window(9, 2, pageLength: 256),
  ]

  private struct Tokens<Element: AttentionStorage> {
    let query: Tensor<Element.Arithmetic>
    let key: Tensor<Element>
    let value: Tensor<Element>

    init(batchCount: Int = 1, count: Int) throws {
      func tensor(_ heads: Int, _ width: Int, _ seed: UInt64) throws -> Tensor<Element.Arithmetic> {
        try Tensor(uniform: -1..<1, shape: [batchCount, heads, count, width], seed: seed)
      }
      query = try tensor(4, 16, 1)
      key = try Tensor(converting: tensor(2, 16, 2))
      value = try Tensor(converting: tensor(2, 9, 3))
    }

    func slice(_ tokens: Range<Int>) throws -> Tokens {
      Tokens(
        query: try query.slice(tokens, axis: 2), key: try key.slice(tokens, axis: 2),
        value: try value.slice(tokens, axis: 2))
    }

    private init(query: Tensor<Element.Arithmetic>, key: Tensor<Element>, value: Tensor<Element>) {
      (self.query, self.key, self.value) = (query, key, value)
    }
  }

  private func cache<Element: AttentionStorage>(
    _ kind: CacheKind, batchCount: Int = 1, _: Element.Type = Element.self
  ) throws -> KeyValueCache<Element> {
    try kind.cache(batchCount: batchCount, headCount: 2, headDimension: 16, valueDimension: 9)
  }

  @Test("decoding a few tokens at a time through a cache agrees with one prefill", arguments: kinds, [1, 2, 3])
  func decoding(kind: CacheKind, seed: Int) throws {
    try decode(kind, seed, Float.self)
    try decode(kind, seed, Double.self)
    try decode(kind, seed, BFloat16.self)
    #if !(os(macOS) && arch(x86_64))
      try decode(kind, seed, Float16.self)
    #endif
  }

  private func decode<Element: AttentionStorage>(_ kind: CacheKind, _ seed: Int, _: Element.Type) throws {
    var generator = TestGenerator(seed: UInt64(seed))
    let tokens = try Tokens<Element>(count: 150)
    for context in AttentionContext.everyPath {
      let expected = try scaledDotProductAttention(
        query: tokens.query, key: tokens.key, value: tokens.value, mask: kind.mask, context: context)
      let cache = try cache(kind, Element.self)
      var token = 0
      while token < 150 {
        // Seed 1 appends token by token. Other seeds append a prompt first, then up to 5 tokens at once.
        let count = seed == 1 ? 1 : min(150 - token, token == 0 ? 40 : Int.random(in: 1...5, using: &generator))
        let new = try tokens.slice(token..<token + count)
        try cache.append(key: new.key, value: new.value)
        let output = try scaledDotProductAttention(query: new.query, cache: cache, context: context)
        let part = try expected.slice(token..<token + count, axis: 2)
        let difference = mismatch(
          output.array.map(\._double), part.array.map(\._double),
          tolerance: tolerance(ofFloat: 2e-6, as: Element.Arithmetic.self),
          "\(Element.self) \(kind) token \(token), \(context.path)")
        #expect(difference == nil)
        token += count
      }
      #expect(cache.lengths == [150])
    }
  }

  @Test("each sample of a batch of several lengths gives the same as in a cache of its own", arguments: kinds)
  func ragged(kind: CacheKind) throws {
    for context in AttentionContext.everyPath { try ragged(kind, context) }
  }

  private func ragged(_ kind: CacheKind, _ context: AttentionContext) throws {
    var generator = TestGenerator(seed: 5)
    let tokens = try Tokens<Float>(batchCount: 3, count: 60)
    let batched = try cache(kind, batchCount: 3, Float.self)
    let alone = try (0..<3).map { _ in try cache(kind, Float.self) }
    for _ in 0..<25 {
      let lengths = batched.lengths
      let width = Int.random(in: 1...4, using: &generator)
      let counts = lengths.map { min(60 - $0, Int.random(in: 0...width, using: &generator)) }
      func rows(_ x: Tensor<Float>) throws -> Tensor<Float> {
        var result = try Tensor<Float>(repeating: .nan, shape: [3, x.shape[1], width, x.shape[3]])
        for (sample, count) in counts.enumerated() {
          let own = try x.slice(sample..<sample + 1, axis: 0).slice(lengths[sample]..<lengths[sample] + count, axis: 2)
          try result.withMutableView { view in
            try view.withSlice(sample..<sample + 1, axis: 0) {
              try $0.withSlice(0..<count, axis: 2) { try $0.copy(from: own) }
            }
          }
        }
        return result
      }
      try batched.append(key: rows(tokens.key), value: rows(tokens.value), counts: counts)
      let query = try rows(tokens.query)
      let output = try scaledDotProductAttention(query: query, cache: batched, context: context)
      for (sample, count) in counts.enumerated() {
        let own = try tokens.slice(lengths[sample]..<lengths[sample] + count)
        func one(_ x: Tensor<Float>) throws -> Tensor<Float> { try x.slice(sample..<sample + 1, axis: 0) }
        try alone[sample].append(key: one(own.key), value: one(own.value))
        let expected = try scaledDotProductAttention(query: one(own.query), cache: alone[sample], context: context)
        let got = try one(output)
        let difference = mismatch(
          try got.slice(0..<count, axis: 2).array, expected.array.map(Double.init), tolerance: 2e-6,
          "\(kind), \(context.path)")
        #expect(difference == nil)
        #expect(try got.slice(count..<width, axis: 2).array.allSatisfy { $0 == 0 })
      }
    }
  }

  @Test("a fork and its origin do not change each other", arguments: kinds)
  func forks(kind: CacheKind) throws {
    for context in AttentionContext.everyPath { try forks(kind, context) }
  }

  private func forks(_ kind: CacheKind, _ context: AttentionContext) throws {
    let tokens = try Tokens<Float>(count: 60)
    func append(_ cache: KeyValueCache<Float>, _ range: Range<Int>) throws -> [Float] {
      let new = try tokens.slice(range)
      try cache.append(key: new.key, value: new.value)
      return try scaledDotProductAttention(query: new.query, cache: cache, context: context).array
    }
    let (origin, lone) = (try cache(kind, Float.self), try cache(kind, Float.self))
    _ = try append(origin, 0..<21)
    _ = try append(lone, 0..<21)
    let fork = try origin.fork()
    // The fork gets other tokens. The origin must give the same as a cache without forks.
    _ = try append(fork, 40..<45)
    #expect(sameBits(try append(origin, 21..<25), try append(lone, 21..<25)))
    let other = try cache(kind, Float.self)
    _ = try append(other, 0..<21)
    _ = try append(other, 40..<45)
    #expect(sameBits(try append(fork, 45..<50), try append(other, 45..<50)))
    #expect(fork.lengths == [31] && origin.lengths == [25])
  }

  @Test("samples of a fork share their pages until they write")
  func sharedPages() throws {
    let tokens = try Tokens<Float>(count: 100)
    let prompt = try cache(.paged(16), Float.self)
    let first = try tokens.slice(0..<40)
    try prompt.append(key: first.key, value: first.value)
    let beams = try prompt.fork(samples: [0, 0, 0, 0])
    #expect(beams.pageCount == 3 && beams.batchCount == 4)
    let next = try tokens.slice(40..<41)
    func four(_ x: Tensor<Float>) throws -> Tensor<Float> { try x.broadcast(to: [4] + x.shape.dropFirst()) }
    try beams.append(key: four(next.key), value: four(next.value))
    // The two full pages stay shared; each sample has its own third page.
    #expect(beams.pageCount == 2 + 4)
    let output = try scaledDotProductAttention(query: four(next.query), cache: beams)
    try prompt.append(key: next.key, value: next.value)
    let expected = try scaledDotProductAttention(query: next.query, cache: prompt)
    for beam in 0..<4 { #expect(sameBits(try output.slice(beam..<beam + 1, axis: 0).array, expected.array)) }
    #expect(try prompt.fork(samples: []).batchCount == 0)
  }

  @Test("truncated tokens do not change later outputs, as in speculative decoding", arguments: kinds)
  func truncation(kind: CacheKind) throws {
    for context in AttentionContext.everyPath { try truncation(kind, context) }
  }

  private func truncation(_ kind: CacheKind, _ context: AttentionContext) throws {
    let tokens = try Tokens<Float>(count: 90)
    let (cache, straight) = (try cache(kind, Float.self), try cache(kind, Float.self))
    func append(_ cache: KeyValueCache<Float>, _ range: Range<Int>) throws -> [Float] {
      let new = try tokens.slice(range)
      try cache.append(key: new.key, value: new.value)
      return try scaledDotProductAttention(query: new.query, cache: cache, context: context).array
    }
    let shared = try append(cache, 0..<50)
    #expect(sameBits(shared, try append(straight, 0..<50)))
    let fork = try cache.fork()
    // Truncate into the tokens that the fork shares, and append other tokens there. The fork must keep its own tokens.
    let stored = try fork.tensors()
    try cache.truncate(to: 48)
    _ = try append(cache, 84..<86)
    #expect(try sameBits(fork.tensors().key.array, stored.key.array))
    #expect(try sameBits(fork.tensors().value.array, stored.value.array))
    try cache.truncate(to: 48)
    _ = try append(cache, 48..<50)
    for start in stride(from: 50, to: 80, by: 3) {
      // Five tokens are guessed, and three of the guesses are right.
      _ = try append(cache, start..<start + 5)
      try cache.truncate(to: start + 3)
      _ = try append(straight, start..<start + 3)
    }
    let difference = mismatch(
      try append(cache, 80..<84), try append(straight, 80..<84).map(Double.init), tolerance: 2e-6, "\(kind)")
    #expect(difference == nil)
    #expect(fork.lengths == [50])
    if case .window(7, _) = kind.retention {
      #expect(throws: AttentionError.self) { try cache.truncate(to: 3) }
    } else if kind == .growing {
      try cache.truncate(to: 0)
      #expect(cache.lengths == [0])
    }
    #expect(throws: AttentionError.self) { try cache.truncate(to: 1000) }
    #expect(throws: AttentionError.self) { try cache.truncate(to: [-1]) }
  }

  @Test("a cache with a window stores a bounded number of tokens, however many are appended")
  func windowIsBounded() throws {
    let cache = try cache(.window(20, 3), Float.self)
    let tokens = try Tokens<Float>(count: 1)
    for _ in 0..<1000 { try cache.append(key: tokens.key, value: tokens.value) }
    #expect(cache.lengths == [1000])
    #expect(cache.storedCounts[0] <= 3 + 2 * 20)
  }

  @Test("a cache that was written to a file and read back continues where it was", arguments: kinds)
  func files(kind: CacheKind) throws {
    let folder = try TemporaryFolder()
    let tokens = try Tokens<BFloat16>(batchCount: 2, count: 120)
    let cache = try cache(kind, batchCount: 2, BFloat16.self)
    func append(_ cache: KeyValueCache<BFloat16>, _ range: Range<Int>, _ counts: [Int]?) throws -> [Float] {
      let new = try tokens.slice(range)
      try cache.append(key: new.key, value: new.value, counts: counts)
      return try scaledDotProductAttention(query: new.query, cache: cache).array
    }
    for start in stride(from: 0, to: 100, by: 10) { _ = try append(cache, start..<start + 10, [10, 7]) }
    try cache.write(to: folder("cache.safetensors"))
    let loaded = try KeyValueCache<BFloat16>(contentsOf: folder("cache.safetensors"))
    #expect(
      loaded.retention == cache.retention && loaded.placement == cache.placement && loaded.lengths == [100, 70]
        && loaded.storedCounts == cache.storedCounts)
    // `whole` gets its 30 tokens in one call, and `again` is read from the file of `whole`. `again` has had no
    // `append`, so its 30 queries must stand at its last 30 tokens, as those of `whole` do.
    if kind == .growing {
      let whole = try KeyValueCache<BFloat16>(batchCount: 2, headCount: 2, headDimension: 16, valueDimension: 9)
      let first = try tokens.slice(0..<30)
      try whole.append(key: first.key, value: first.value)
      try whole.write(to: folder("whole.safetensors"))
      let again = try KeyValueCache<BFloat16>(contentsOf: folder("whole.safetensors"))
      let expected = try scaledDotProductAttention(query: first.query, cache: whole).array
      #expect(sameBits(try scaledDotProductAttention(query: first.query, cache: again).array, expected))
    }
    #expect(sameBits(try append(loaded, 100..<104, nil), try append(cache, 100..<104, nil)))
    #expect(throws: AttentionError.self) { try KeyValueCache<Float>(contentsOf: folder("cache.safetensors")) }
  }

  @Test("writing into a tensor or a part of it gives the same bits as returning a new tensor", arguments: kinds)
  func into(kind: CacheKind) throws {
    let tokens = try Tokens<Float>(batchCount: 2, count: 30)
    for context in AttentionContext.everyPath {
      let cache = try cache(kind, batchCount: 2, Float.self)
      try cache.append(key: tokens.key, value: tokens.value)
      let expected = try scaledDotProductAttention(query: tokens.query, cache: cache, context: context)
      var output = try Tensor<Float>(repeating: .nan, shape: expected.shape)
      try scaledDotProductAttention(query: tokens.query, cache: cache, into: &output, context: context)
      #expect(sameBits(output.array, expected.array))
      var wide = try Tensor<Float>(repeating: .nan, shape: [2, 4, 30, 11])
      try wide.withMutableView { view in
        try view.withSlice(1..<10, axis: 3) {
          try scaledDotProductAttention(query: tokens.query, cache: cache, into: &$0, context: context)
        }
      }
      #expect(sameBits(try wide.slice(1..<10, axis: 3).array, expected.array))
      #expect(wide.array.count { $0.isNaN } == 2 * 4 * 30 * 2)
      var wrong = try Tensor<Float>(repeating: 1, shape: [2, 4, 30, 8])
      #expect(throws: AttentionError.self) {
        try scaledDotProductAttention(query: tokens.query, cache: cache, into: &wrong, context: context)
      }
    }
  }

  @Test("files that are not caches or contradict themselves throw")
  func wrongFiles() throws {
    let folder = try TemporaryFolder()
    func load(_ change: (inout SafeTensorsWriter) throws -> Void) throws -> KeyValueCache<Float> {
      var writer = SafeTensorsWriter()
      writer.metadata = [
        "format": "swift-attention key-value cache, version 2", "window": "4", "keeping_first": "1",
      ]
      try change(&writer)
      try writer.write(to: folder("x.safetensors"))
      return try KeyValueCache<Float>(contentsOf: folder("x.safetensors"))
    }
    func add(_ writer: inout SafeTensorsWriter, lengths: [Int64] = [9], stored: [Int64] = [5], valueRows: Int = 5)
      throws
    {
      try writer.add("key", Tensor<Float>(repeating: 1, shape: [1, 2, 5, 3]))
      try writer.add("value", Tensor<Float>(repeating: 1, shape: [1, 2, valueRows, 4]))
      try writer.add("lengths", Tensor(lengths, shape: [lengths.count]))
      try writer.add("stored", Tensor(stored, shape: [stored.count]))
    }
    #expect(try load { try add(&$0) }.lengths == [9])
    let changes: [(inout SafeTensorsWriter) throws -> Void] = [
      { _ in },
      {
        try add(&$0); $0.metadata["format"] = "pt"
      },
      {
        try add(&$0); $0.metadata["page_length"] = "many"
      },
      {
        try add(&$0); $0.metadata["window"] = "many"
      },
      {
        try add(&$0); $0.metadata["window"] = "0"
      },
      { try add(&$0, lengths: [4]) },
      { try add(&$0, stored: [6]) },
      { try add(&$0, stored: [-1]) },
      { try add(&$0, stored: [2]) },
      {
        try add(&$0); $0.metadata["keeping_first"] = "2"
      },
      {
        try add(&$0); $0.metadata["window"] = "\(Int.max)"
      },
      {
        try add(&$0, lengths: [5]); $0.metadata["window"] = "\(Int.max)"
      },
      { try add(&$0, lengths: [.max]) },
      { try add(&$0, lengths: [9, 9]) },
      { try add(&$0, valueRows: 4) },
      {
        try add(&$0); $0.metadata["window"] = nil
      },
      {
        try add(&$0); $0.metadata["page_length"] = "0"
      },
    ]
    // Rows without elements take no space, so a small file can claim billions of rows. Such a file must be refused.
    for count in [1 << 30, 1 << 33] {
      #expect(throws: AttentionError.self) {
        try load { writer in
          writer.metadata["window"] = nil
          try writer.add("key", Tensor<Float>([] as [Float], shape: [1, 1, count, 0]))
          try writer.add("value", Tensor<Float>([] as [Float], shape: [1, 1, count, 0]))
          try writer.add("lengths", Tensor<Int64>([Int64(count)], shape: [1]))
          try writer.add("stored", Tensor<Int64>([Int64(count)], shape: [1]))
        }
      }
    }
    for change in changes { #expect(throws: AttentionError.self) { try load(change) } }
  }

  @Test("append can turn keys by a rotary table, and converts Float keys and values to a two-byte type")
  func rotaryAppend() throws {
    let x = try Tensor<Float>(uniform: -1..<1, shape: [1, 2, 6, 16], seed: 1)
    let v = try Tensor<Float>(uniform: -1..<1, shape: [1, 2, 6, 9], seed: 2)
    let table: RotaryTable<Float> = try RotaryEmbedding(dimension: 16).table(.startingAt(0), count: 6)
    let cache = try cache(.growing, BFloat16.self)
    try cache.append(
      key: x.permuted([0, 2, 1, 3]), value: v.permuted([0, 2, 1, 3]), rotary: table, layout: .lengthFirst)
    let stored = try cache.tensors()
    #expect(stored.key.array == (try Tensor<BFloat16>(converting: table.rotated(x))).array)
    #expect(stored.value.array == (try Tensor<BFloat16>(converting: v)).array)
  }

  @Test("if every sample takes fewer tokens than there are rows, the other rows' queries give 0", arguments: kinds)
  func fewerThanRows(kind: CacheKind) throws {
    let tokens = try Tokens<Float>(count: 14)
    let (cache, alone) = (try cache(kind, Float.self), try cache(kind, Float.self))
    for one in [cache, alone] { try one.append(key: tokens.slice(0..<10).key, value: tokens.slice(0..<10).value) }
    let rows = try tokens.slice(10..<14)
    try cache.append(key: rows.key, value: rows.value, counts: [2])
    let output = try scaledDotProductAttention(query: rows.query, cache: cache)
    let taken = try tokens.slice(10..<12)
    try alone.append(key: taken.key, value: taken.value)
    let expected = try scaledDotProductAttention(query: taken.query, cache: alone)
    #expect(mismatch(try output.slice(0..<2, axis: 2).array, expected.array.map(Double.init), tolerance: 2e-6) == nil)
    #expect(try output.slice(2..<4, axis: 2).array.allSatisfy { $0 == 0 })
  }

  @Test("a windowed cache refuses queries and masks that need forgotten tokens or their positions")
  func windowLimits() throws {
    let tokens = try Tokens<Float>(count: 40)
    let query = try tokens.slice(37..<40).query
    func filled(_ kind: CacheKind) throws -> KeyValueCache<Float> {
      let cache = try cache(kind, Float.self)
      for token in 0..<40 {
        let new = try tokens.slice(token..<token + 1)
        try cache.append(key: new.key, value: new.value)
      }
      return cache
    }
    // The result must be right, or the call must be refused because the queries' windows are no longer stored.
    for length in 3...9 {
      let cache = try filled(.window(length, 0))
      let expected = try scaledDotProductAttention(
        query: query, key: tokens.key, value: tokens.value, mask: .window(left: length - 1, right: 0))
      if let output = try? scaledDotProductAttention(query: query, cache: cache) {
        #expect(mismatch(output.array, expected.array.map(Double.init), tolerance: 2e-6) == nil)
      } else {
        #expect(cache.storedCounts[0] - 3 < length - 1)
      }
    }
    let one = try tokens.slice(39..<40).query
    func attend(_ kind: CacheKind, _ mask: AttentionMask) throws -> [Float] {
      try scaledDotProductAttention(query: one, cache: filled(kind), mask: mask).array
    }
    for mask in [AttentionMask.prefix([2]), .chunks(length: 4), .documents([0, 1], keyOffsets: [0, 3])] {
      #expect(throws: AttentionError.self) { try attend(.window(7, 0), mask) }
    }
    for mask in [AttentionMask.alibi(headCount: 4), .window(left: 5, right: 0)] {
      #expect(throws: AttentionError.self) { try attend(.window(7, 2), mask) }
      let whole = try scaledDotProductAttention(
        query: one, key: tokens.key, value: tokens.value, mask: mask.combined(with: .window(left: 6, right: 0)))
      #expect(mismatch(try attend(.window(7, 0), mask), whole.array.map(Double.init), tolerance: 2e-6) == nil)
    }
    for count in [Int.min, -1] { _ = try filled(.window(7, 0)).mask(queryCount: count) }
  }

  @Test(
    "left padding and key lengths count from the first token, also where a window has forgotten it",
    arguments: [0, 1, 3])
  func positionsBesideWindows(keepingFirst first: Int) throws {
    let tokens = try Tokens<Float>(batchCount: 2, count: 60)
    for length in [1, 4, 7] {
      let cache = try cache(.window(length, first), batchCount: 2, Float.self)
      var token = 0
      while token < 60 {
        let count = min(token % 3 + 1, 60 - token)
        let new = try tokens.slice(token..<token + count)
        try cache.append(key: new.key, value: new.value)
        token += count
        let seen = try tokens.slice(0..<token)
        // Paddings that end within the first tokens, before the window, within the window, or at its end.
        for padding in [[0, 2], [1, 30], [min(5, token), max(0, token - 2)], [token, max(0, token - 1)]] {
          let mask = AttentionMask.leftPadding(padding.map { min($0, token) })
            .combined(with: .keyLengths([token, max(0, token - 1)]))
          let output = try scaledDotProductAttention(query: new.query, cache: cache, mask: mask)
          let expected = try scaledDotProductAttention(
            query: new.query, key: seen.key, value: seen.value,
            mask: .window(left: length - 1, keepingFirst: first).combined(with: mask))
          let difference = mismatch(
            output.array, expected.array.map(Double.init), tolerance: 2e-6,
            "window \(length) keeping \(first), token \(token), padding \(padding)")
          #expect(difference == nil)
        }
      }
      #expect(throws: AttentionError.self) {
        try scaledDotProductAttention(query: tokens.slice(59..<60).query, cache: cache, mask: .leftPadding([61, 0]))
      }
      #expect(throws: AttentionError.self) {
        try scaledDotProductAttention(query: tokens.slice(59..<60).query, cache: cache, mask: .leftPadding([1]))
      }
      // An explicit alignment counts all tokens, but the cache has forgotten some of them, so the call is refused.
      for alignment in [AttentionMask.Alignment.topLeft, .offsets([59, 59])] {
        #expect(throws: AttentionError.self) {
          try scaledDotProductAttention(
            query: tokens.slice(59..<60).query, cache: cache, mask: .causal(alignment))
        }
      }
    }
  }

  @Test("with left padding, a window of one token gives each token's own value, and a layer agrees with one pass")
  func windowOfOne() throws {
    let cache = try KeyValueCache<Float>(batchCount: 1, headCount: 1, headDimension: 1, retention: .window(length: 1))
    for t in 0..<6 {
      let x = try Tensor<Float>([Float(t)], shape: [1, 1, 1, 1])
      try cache.append(key: x, value: x)
      let output = try scaledDotProductAttention(query: x, cache: cache, mask: .leftPadding([min(2, t + 1)]))
      #expect(output.array == [t < 2 ? 0 : Float(t)])
    }
    let layer = try MultiHeadAttention<Float>(
      configuration: .init(embeddingDimension: 8, headCount: 2, window: 3), seed: 1)
    let x = try Tensor<Float>(uniform: -1..<1, shape: [2, 20, 8], seed: 2)
    let mask = AttentionMask.leftPadding([3, 0])
    let whole = try layer(x, mask: .causal.combined(with: mask))
    let own = try KeyValueCache<Float>(batchCount: 2, headCount: 2, headDimension: 4, retention: .window(length: 3))
    for t in 0..<20 {
      let output = try layer.forward(
        x.slice(t..<t + 1, axis: 1), cache: own, mask: .leftPadding([min(3, t + 1), 0])
      ).output
      let expected = try whole.slice(t..<t + 1, axis: 1).array
      let difference = mismatch(output.array, expected.map(Double.init), tolerance: 2e-6, "token \(t)")
      #expect(difference == nil)
    }
  }

  @Test("with samples of several lengths, the default alignment follows each sample's length", arguments: kinds)
  func raggedAlignment(kind: CacheKind) throws {
    let tokens = try Tokens<Float>(batchCount: 2, count: 12)
    let batched = try cache(kind, batchCount: 2, Float.self)
    let counts = [9, 6]
    var rest = try tokens.slice(0..<9)
    try batched.append(key: rest.key, value: rest.value, counts: counts)
    var masks: [AttentionMask] = [.window(left: 1, right: 0), .alibi(headCount: 4), .causal]
    if case .window = kind.retention {
      if case .window(_, let first) = kind.retention, first > 0 { masks = [.causal] }
    } else {
      masks += [.chunks(length: 4), .window(left: 1, keepingFirst: 1)]
    }
    if case .window = kind.retention {
      // The first keys of the mask are those of the sequence, which the cache may have forgotten.
      for mask in [AttentionMask.chunks(length: 4), .window(left: 1, keepingFirst: 1)] {
        let error = #expect(throws: AttentionError.self) {
          try scaledDotProductAttention(query: rest.query, cache: batched, mask: mask)
        }
        #expect(error?.description.contains("a windowed cache") == true)
      }
    }
    for mask in masks {
      let output = try scaledDotProductAttention(query: rest.query, cache: batched, mask: mask)
      for (sample, count) in counts.enumerated() {
        func one(_ x: Tensor<Float>) throws -> Tensor<Float> {
          try x.slice(sample..<sample + 1, axis: 0).slice(0..<count, axis: 2)
        }
        let alone = try cache(kind, Float.self)
        try alone.append(key: one(rest.key), value: one(rest.value))
        let expected = try scaledDotProductAttention(query: one(rest.query), cache: alone, mask: mask)
        let difference = mismatch(
          try one(output).array, expected.array.map(Double.init), tolerance: 2e-6, "\(kind) \(sample)")
        #expect(difference == nil)
      }
    }
    rest = try tokens.slice(9..<10)
    try batched.append(key: rest.key, value: rest.value)
    if kind == .growing {
      let output = try scaledDotProductAttention(query: rest.query, cache: batched, mask: .window(left: 1, right: 0))
      #expect(try output.slice(1..<2, axis: 0).array.contains { $0 != 0 })
    }
  }

  @Test("documents combined with a cache: each query attends to its own document, up to its own token")
  func documents() throws {
    let tokens = try Tokens<Float>(count: 10)
    let cache = try cache(.growing, Float.self)
    for part in [0..<6, 6..<10] {
      let new = try tokens.slice(part)
      try cache.append(key: new.key, value: new.value)
    }
    // The cache stays causal: no query attends to a token after its own, not even to a token of its document.
    for keyOffsets in [[0, 8, 10], [0, 7, 10], [0, 9, 10]] {
      let output = try scaledDotProductAttention(
        query: tokens.slice(6..<10).query, cache: cache, mask: .documents([0, 2, 4], keyOffsets: keyOffsets))
      var flags = try Tensor<Bool>(repeating: false, shape: [4, 10])
      for i in 0..<4 {
        for j in 0..<10 { flags[i, j] = j <= 6 + i && (j < keyOffsets[1]) == (i < 2) }
      }
      let expected = try scaledDotProductAttention(
        query: tokens.slice(6..<10).query, key: tokens.key, value: tokens.value, mask: .attending(flags))
      let difference = mismatch(output.array, expected.array.map(Double.init), tolerance: 2e-6, "\(keyOffsets)")
      #expect(difference == nil)
    }
  }

  @Test("arguments that do not fit throw and leave the cache unchanged")
  func errors() throws {
    func make(_ kind: CacheKind, _ batchCount: Int = 1, _ headDimension: Int = 4) throws -> KeyValueCache<Float> {
      try kind.cache(batchCount: batchCount, headCount: 2, headDimension: headDimension)
    }
    #expect(throws: AttentionError.self) { try make(.window(0, 0)) }
    #expect(throws: AttentionError.self) { try make(.window(1, -1)) }
    #expect(throws: AttentionError.self) { try make(.paged(0)) }
    #expect(throws: AttentionError.self) { try make(.growing, -1) }
    #expect(throws: AttentionError.self) { try make(.growing, 1, .max) }
    #expect(throws: AttentionError.self) { try make(.growing, Int(Int32.max)) }
    let cache = try make(.growing, 2)
    func zeros(_ shape: [Int]) throws -> Tensor<Float> { try Tensor(repeating: 0, shape: shape) }
    let good = try zeros([2, 2, 3, 4])
    try cache.append(key: good, value: good)
    for (key, value, counts) in [
      (try zeros([1, 2, 3, 4]), good, nil), (good, try zeros([2, 2, 2, 4]), nil), (try zeros([2, 3, 3, 4]), good, nil),
      (good, try zeros([2, 2, 3, 5]), nil), (try zeros([4]), good, nil), (good, good, [1]), (good, good, [1, 4]),
      (good, good, [-1, 1]),
    ] as [(Tensor<Float>, Tensor<Float>, [Int]?)] {
      #expect(throws: AttentionError.self) { try cache.append(key: key, value: value, counts: counts) }
    }
    #expect(cache.lengths == [3, 3])
    #expect(throws: AttentionError.self) { try scaledDotProductAttention(query: zeros([2, 4, 4, 4]), cache: cache) }
    #expect(throws: AttentionError.self) { try scaledDotProductAttention(query: zeros([1, 4, 1, 4]), cache: cache) }
    #expect(throws: AttentionError.self) { try scaledDotProductAttention(query: zeros([2, 4, 1, 5]), cache: cache) }
    #expect(throws: AttentionError.self) { try cache.fork(samples: [2]) }
    let empty = try make(.paged(256), 2)
    #expect(try scaledDotProductAttention(query: zeros([2, 4, 0, 4]), cache: empty).shape == [2, 4, 0, 4])
  }
}
