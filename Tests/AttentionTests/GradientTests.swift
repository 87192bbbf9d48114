import Attention
import AttentionProblems
import AttentionTestSupport
import Testing

@Suite("Gradients of attention")
struct GradientTests {
  @Test("agree with the plain formula in Double for every mask on every path", arguments: Scenario.Mask.allCases)
  func masks(mask: Scenario.Mask) throws {
    for (L, S) in [(20, 90), (70, 70), (9, 4), (1, 40)] {
      try Scenario(B: 2, H: 4, Hk: 2, L: L, S: S, E: 16, Ev: 16, mask: mask).checkGradients()
    }
  }

  @Test(
    "agree with softcap, sinks and a mask", arguments: [nil, 0.7, 20] as [Double?],
    [Scenario.Mask.none, .everything, .everythingElse])
  func softcapAndSinks(softcap: Double?, mask: Scenario.Mask) throws {
    try Scenario(B: 1, H: 4, Hk: 2, L: 33, S: 50, E: 8, Ev: 8, mask: mask, softcap: softcap, hasSinks: true)
      .checkGradients()
  }

  @Test("agree for odd sizes, whose tiles and vectors are not full", arguments: [1, 5, 31, 80], [1, 33, 64])
  func sizes(E: Int, Ev: Int) throws {
    try Scenario(B: 1, H: 2, Hk: 1, L: 53, S: 41, E: E, Ev: Ev, mask: .causal).checkGradients()
  }

  @Test(
    "agree for several tiles and regions",
    arguments: [Scenario.Mask.none, .causal, .window, .documents, .keepingFirst, .bias, .blocks])
  func tiles(mask: Scenario.Mask) throws {
    try Scenario(B: 1, H: 2, Hk: 1, L: 420, S: 600, E: 8, Ev: 8, mask: mask).checkGradients()
    try Scenario(B: 2, H: 1, Hk: 1, L: 193, S: 257, E: 4, Ev: 4, mask: mask).checkGradients()
  }

  @Test("agree for a scale that is negative, tiny or 0", arguments: [-0.5, 1e-6, 0, 3])
  func scales(scale: Double) throws {
    try Scenario(L: 20, S: 30, mask: .causal, scale: scale).checkGradients()
  }

  // MARK: The same bits

  @Test(
    "have the same bits with any number of threads",
    arguments: [Scenario.Mask.none, .causal, .bias, .biasPerQuery, .everything, .documents, .keepingFirst])
  func threads(mask: Scenario.Mask) throws {
    // The backward pass divides its work by units: the key/value heads of all elements of the batch. The cases have 1
    // and 4 units, fewer than the 16 threads below, and for `bias` also 24, which is more.
    for (B, H, Hk) in [(1, 1, 1), (2, 4, 2)] + (mask == .bias ? [(3, 8, 8)] : []) {
      var scenario = Scenario(B: B, H: H, Hk: Hk, L: 210, S: 530, E: 24, Ev: 16, mask: mask)
      scenario.hasSinks = true
      var generator = TestGenerator(seed: 5)
      let outputGradient = generator.numbers(B * H * scenario.L * scenario.Ev)
      let inputs = try Inputs<Float>(scenario.reference())
      for path in AttentionContext.everyPath {
        func numbers(_ threadCount: Int) throws -> [Double] {
          var context = path
          context.threadCount = threadCount
          let own = try scenario.gradients(inputs, outputGradient, context)
          let all =
            try [own.query, own.key, own.value, own.sinks] + own.biases + own.alibiSlopes + [own.scoreParameters]
          return all.flatMap { $0.array.map(Double.init) }
        }
        let one = try numbers(1)
        for threadCount in [2, 16] {
          let isSame = try sameBits(one, numbers(threadCount))
          #expect(isSame, "\(scenario), \(threadCount) threads, \(path.path)")
        }
      }
    }
  }

  /// The number of tokens of each sequence of a batch.
  private static let lengths = [1, 300, 37, 3, 530, 129, 16]

  private struct Sequence {
    var query: Tensor<Float>
    var key: Tensor<Float>
    var value: Tensor<Float>
    var outputGradient: Tensor<Float>

    /// Makes random tensors `[1, H, before + count + after, 20]`. The `before` rows before the tokens and the `after`
    /// rows after them are NaN.
    init(_ count: Int, seed: UInt64, before: Int = 0, after: Int = 0) throws {
      func tensor(_ heads: Int, _ seed: UInt64, padding: Float) throws -> Tensor<Float> {
        let own = try Tensor<Float>(uniform: -2..<2, shape: [1, heads, count, 20], seed: seed)
        var result = try Tensor<Float>(repeating: padding, shape: [1, heads, before + count + after, 20])
        try result.withMutableView { view in
          try view.withSlice(before..<before + count, axis: 2) { try $0.copy(from: own) }
        }
        return result
      }
      query = try tensor(4, seed, padding: .nan)
      key = try tensor(2, seed + 1, padding: .nan)
      value = try tensor(2, seed + 2, padding: .nan)
      outputGradient = try tensor(4, seed + 3, padding: .nan)
    }

    init(joining all: [Sequence], axis: Int) throws {
      query = try joined(all.map(\.query), axis: axis)
      key = try joined(all.map(\.key), axis: axis)
      value = try joined(all.map(\.value), axis: axis)
      outputGradient = try joined(all.map(\.outputGradient), axis: axis)
    }

    func gradients(_ mask: AttentionMask, _ context: AttentionContext) throws -> [Tensor<Float>] {
      let result = try scaledDotProductAttention(
        query: query, key: key, value: value, mask: mask, returning: .logSumExp, context: context)
      let own = try scaledDotProductAttentionGradients(
        query: query, key: key, value: value, mask: mask, result: result, outputGradient: outputGradient,
        context: context)
      return [own.query, own.key, own.value]
    }
  }

  @Test(
    "of a sequence that is padded on either side or packed have the same bits as alone; padding has gradients of 0")
  func batches() throws {
    let most = Self.lengths.max()!
    for context in AttentionContext.everyPath where context.resolvedAlgorithm != .openBLAS {
      for isCausal in [false, true] {
        let rule: AttentionMask = isCausal ? .causal : .none
        let offsets = Self.lengths.reduce(into: [0]) { $0.append($0.last! + $1) }
        let all = Self.lengths.indices.map { UInt64(100 + 10 * $0) }
        let right = try Sequence(
          joining: zip(Self.lengths, all).map { try Sequence($0, seed: $1, after: most - $0) }, axis: 0
        ).gradients(
          (isCausal ? AttentionMask.causal(.topLeft) : .none)
            .combined(with: .keyLengths(Self.lengths)).combined(with: .queryLengths(Self.lengths)), context)
        let packed = try Sequence(joining: zip(Self.lengths, all).map { try Sequence($0, seed: $1) }, axis: 2)
          .gradients(.documents(offsets, right: isCausal ? 0 : nil), context)
        // Queries before the first token attend to nothing only if the mask is causal.
        let left =
          try isCausal
          ? Sequence(
            joining: zip(Self.lengths, all).map { try Sequence($0, seed: $1, before: most - $0) }, axis: 0
          ).gradients(rule.combined(with: .leftPadding(Self.lengths.map { most - $0 })), context) : nil
        for (index, count) in Self.lengths.enumerated() {
          let alone = try Sequence(count, seed: all[index]).gradients(rule, context)
          for operand in 0..<3 {
            let own = alone[operand].array
            func rows(_ x: Tensor<Float>, _ batch: Int, _ first: Int) throws -> [Float] {
              try x.slice(batch..<batch + 1, axis: 0).slice(first..<first + count, axis: 2).array
            }
            let what = "\(count) tokens, operand \(operand), causal \(isCausal), \(context.path)"
            #expect(try rows(right[operand], index, 0) == own, "padded at the end: \(what)")
            #expect(try rows(packed[operand], 0, offsets[index]) == own, "packed: \(what)")
            let padding = try right[operand].slice(index..<index + 1, axis: 0).slice(count..<most, axis: 2)
            #expect(padding.array.allSatisfy { $0 == 0 }, "padding: \(what)")
            if let left { #expect(try rows(left[operand], index, most - count) == own, "padded before: \(what)") }
          }
        }
      }
    }
  }

  // MARK: Numbers that are not finite

  @Test(
    "a NaN in a key, a value or a query does not reach the gradients of rows that the mask keeps apart from it",
    arguments: [Scenario.Mask.boolean, .keyLengths, .causal, .window, .blocks, .everything, .function])
  func maskedNaN(mask: Scenario.Mask) throws {
    let scenario = Scenario(B: 2, H: 2, Hk: 1, L: 70, S: 90, E: 8, Ev: 8, mask: mask)
    var problem = scenario.reference()
    var generator = TestGenerator(seed: 3)
    let outputGradient = generator.numbers(2 * 2 * 70 * 8)
    // The last key of the first element of the batch, the first value of the second element, and one query become NaN.
    for column in 0..<8 {
      problem.key[89 * 8 + column] = .nan
      problem.value[90 * 8 + column] = .nan
      problem.query[(70 + 20) * 8 + column] = .nan
    }
    let exact = problem.gradients(of: outputGradient)
    #expect(exact.query.contains(where: \.isNaN) && exact.query.contains(where: \.isFinite))
    let inputs = try Inputs<Float>(problem)
    for context in AttentionContext.everyPath {
      let own = try scenario.gradients(inputs, outputGradient, context)
      for (name, got, expected) in [
        ("query", own.query, exact.query), ("key", own.key, exact.key), ("value", own.value, exact.value),
      ] {
        let difference = mismatch(got.array, expected, tolerance: 1e-4, "\(name), \(mask), \(context.path)")
        #expect(difference == nil)
      }
    }
  }

  // MARK: Types, layouts and extents

  @Test(
    "of two-byte types are those of Float, rounded once", arguments: [Scenario.Mask.none, .causal, .everything],
    [(24, 17), (8, 40)])
  func halves(mask: Scenario.Mask, dimensions: (E: Int, Ev: Int)) throws {
    let (E, Ev) = dimensions
    func check<Stored: AttentionStorage>(_: Stored.Type) throws where Stored.Arithmetic == Float {
      let scenario = Scenario(B: 2, H: 4, Hk: 2, L: 70, S: 90, E: E, Ev: Ev, mask: mask)
      let inputs = try Inputs<Float>(scenario.reference())
      func stored(_ x: Tensor<Float>) throws -> Tensor<Stored> { try Tensor(converting: x) }
      func float(_ x: Tensor<Stored>) throws -> Tensor<Float> { try Tensor(converting: x) }
      let (query, key, value) = (try stored(inputs.query), try stored(inputs.key), try stored(inputs.value))
      let outputGradient = try stored(Tensor<Float>(uniform: -1..<1, shape: [2, 4, 70, Ev], seed: 9))
      let mask = try scenario.libraryMask(Float.self)
      for context in AttentionContext.everyPath {
        let result = try scaledDotProductAttention(
          query: query, key: key, value: value, mask: mask, returning: .logSumExp, context: context)
        let own = try scaledDotProductAttentionGradients(
          query: query, key: key, value: value, mask: mask, result: result, outputGradient: outputGradient,
          returning: .biases, context: context)
        let expected = try scaledDotProductAttentionGradients(
          query: float(query), key: float(key), value: float(value), mask: mask,
          result: AttentionResult(output: float(result.output), logSumExp: result.logSumExp),
          outputGradient: float(outputGradient), returning: .biases, context: context)
        for (got, wanted) in [
          (own.query, expected.query), (own.key, expected.key), (own.value, expected.value),
        ] {
          let isSame = try sameBits(float(got).array, float(stored(wanted)).array)
          #expect(isSame, "\(Stored.self), \(context.path)")
        }
        for (got, wanted) in zip(try own.biases, try expected.biases) { #expect(sameBits(got.array, wanted.array)) }
      }
    }
    try check(BFloat16.self)
    #if !(os(macOS) && arch(x86_64))
      try check(Float16.self)
    #endif
  }

  @Test("do not depend on layout, rank and strides")
  func layouts() throws {
    let scenario = Scenario(B: 1, H: 4, Hk: 2, L: 60, S: 75, E: 32, Ev: 16, mask: .causal)
    let inputs = try Inputs<Float>(scenario.reference())
    let outputGradient = try Tensor<Float>(uniform: -1..<1, shape: [1, 4, 60, 16], seed: 9)
    for context in AttentionContext.everyPath {
      func gradients(
        _ change: (Tensor<Float>) throws -> Tensor<Float>, _ back: (Tensor<Float>) throws -> Tensor<Float>,
        _ layout: AttentionLayout = .headsFirst
      ) throws -> [[Float]] {
        let (query, key, value) = (try change(inputs.query), try change(inputs.key), try change(inputs.value))
        let options = AttentionOptions<Float>(layout: layout)
        let result = try scaledDotProductAttention(
          query: query, key: key, value: value, mask: .causal, options: options, returning: .logSumExp,
          context: context)
        let own = try scaledDotProductAttentionGradients(
          query: query, key: key, value: value, mask: .causal, options: options, result: result,
          outputGradient: change(outputGradient), context: context)
        #expect(own.query.shape == query.shape && own.key.shape == key.shape && own.value.shape == value.shape)
        return try [own.query, own.key, own.value].map { try back($0).array }
      }
      let expected = try gradients({ $0 }, { $0 })
      func expectClose(_ got: [[Float]], _ what: String) {
        for (a, b) in zip(got, expected) {
          let difference = mismatch(a, b.map(Double.init), tolerance: 1e-5, "\(what), \(context.path)")
          #expect(difference == nil)
        }
      }
      try expectClose(
        gradients({ try $0.permuted([0, 2, 1, 3]).contiguous() }, { try $0.permuted([0, 2, 1, 3]) }, .lengthFirst),
        "length first")
      try expectClose(
        gradients({ try $0.permuted([0, 2, 1, 3]) }, { try $0.permuted([0, 2, 1, 3]) }, .lengthFirst), "strides")
      try expectClose(gradients({ try $0.select(0, axis: 0) }, { $0 }), "rank 3")
      try expectClose(
        gradients({ try $0.transposed().contiguous().transposed() }, { $0 }), "columns that lie apart")
    }
  }

  @Test("of a sink of +inf, which takes all the weight of its head, and of the operands of this head are 0")
  func infiniteSink() throws {
    let x = try Tensor<Float>(uniform: -1..<1, shape: [1, 2, 60, 8], seed: 1)
    let options = AttentionOptions<Float>(sinks: try Tensor([Float.infinity, -.infinity], shape: [2]))
    for context in AttentionContext.everyPath {
      let result = try scaledDotProductAttention(
        query: x, key: x, value: x, options: options, returning: .logSumExp, context: context)
      let own = try scaledDotProductAttentionGradients(
        query: x, key: x, value: x, options: options, result: result, outputGradient: x, returning: .sinks,
        context: context)
      #expect(try own.sinks.array == [0, 0], "\(context.path)")
      for gradient in [own.query, own.key, own.value] {
        #expect(try gradient.select(1, axis: 1).array.contains { $0 != 0 })
        #expect(try gradient.select(0, axis: 1).array.allSatisfy { $0 == 0 }, "\(context.path)")
      }
    }
  }

  @Test("without queries, keys or batch are 0 or empty")
  func emptyExtents() throws {
    for (B, L, S) in [(1, 0, 5), (1, 5, 0), (0, 5, 5)] {
      for context in AttentionContext.everyPath {
        let query = try Tensor<Float>(repeating: 1, shape: [B, 2, L, 8])
        let key = try Tensor<Float>(repeating: 1, shape: [B, 2, S, 8])
        let result = try scaledDotProductAttention(
          query: query, key: key, value: key, returning: .logSumExp, context: context)
        let own = try scaledDotProductAttentionGradients(
          query: query, key: key, value: key, result: result, outputGradient: query, context: context)
        #expect(own.query.shape == query.shape && own.key.shape == key.shape && own.value.shape == key.shape)
        for gradient in [own.query, own.key, own.value] { #expect(gradient.array.allSatisfy { $0 == 0 }) }
      }
    }
  }

  // MARK: Errors

  @Test("a wrong argument is an error that says what was expected and what came")
  func errors() throws {
    let x = try Tensor<Float>(uniform: -1..<1, shape: [1, 2, 6, 8], seed: 1)
    func message(
      _ mask: AttentionMask = .none, outputGradient: Tensor<Float>? = nil, output: Tensor<Float>? = nil,
      logSumExp: Tensor<Float>? = nil, layout: AttentionLayout = .headsFirst,
      returning extras: AttentionGradientExtras = [], hasLogSumExp: Bool = true
    ) throws -> String {
      var result = try scaledDotProductAttention(query: x, key: x, value: x, mask: mask, returning: .weights)
      if hasLogSumExp {
        result = AttentionResult(
          output: output ?? x, logSumExp: try logSumExp ?? Tensor(repeating: 1, shape: [1, 2, 6]), layout: layout)
      }
      let error = #expect(throws: AttentionError.self) {
        try scaledDotProductAttentionGradients(
          query: x, key: x, value: x, mask: mask, result: result, outputGradient: outputGradient ?? x,
          returning: extras)
      }
      return error?.description ?? ""
    }
    let wrong = try Tensor<Float>(repeating: 1, shape: [1, 2, 5, 8])
    let subject = "scaledDotProductAttentionGradients: "
    #expect(
      try message(outputGradient: wrong)
        == subject + "an output gradient of shape [1, 2, 6, 8] expected; got [1, 2, 5, 8]")
    #expect(
      try message(output: wrong)
        == subject + "a result with an output of shape [1, 2, 6, 8] expected; got [1, 2, 5, 8]")
    #expect(
      try message(logSumExp: Tensor(repeating: 1, shape: [2, 6]))
        == subject + "a log-sum-exp of shape [1, 2, 6] expected; got [2, 6]")
    #expect(
      try message(hasLogSumExp: false)
        == subject
        + "a result with its log-sum-exp expected: call scaledDotProductAttention with returning: .logSumExp")
    #expect(
      try message(layout: .lengthFirst)
        == subject + "a result in the layout of the operands expected; got lengthFirst and headsFirst")
    #expect(
      try message(returning: .sinks) == subject + "sinks expected, because their gradients are asked for; got none")
    let function = AttentionMask.scores(Float.self) { $0.update { score, _ in score } }
    #expect(
      try message(function)
        == subject + "a derivative expected for the function of scores: AttentionMask.scores(_:_:derivative:)")
    let own = try scaledDotProductAttentionGradients(
      query: x, key: x, value: x,
      result: scaledDotProductAttention(query: x, key: x, value: x, returning: .logSumExp), outputGradient: x)
    let error = #expect(throws: AttentionError.self) { try own.biases }
    #expect(
      error?.description
        == "AttentionGradients.biases: a call that returns biases expected; this one was not asked for them")
  }
}

/// Tensors one after another along an axis.
private func joined(_ tensors: [Tensor<Float>], axis: Int) throws -> Tensor<Float> {
  var shape = tensors[0].shape
  shape[axis] = tensors.reduce(0) { $0 + $1.shape[axis] }
  var result = try Tensor<Float>(repeating: .nan, shape: shape)
  try result.withMutableView { view in
    var first = 0
    for tensor in tensors {
      try view.withSlice(first..<first + tensor.shape[axis], axis: axis) { try $0.copy(from: tensor) }
      first += tensor.shape[axis]
    }
  }
  return result
}
