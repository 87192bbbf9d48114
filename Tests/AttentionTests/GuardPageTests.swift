#if os(Linux)
  import Attention
  import AttentionBLAS
  import AttentionProblems
  import AttentionTestSupport
  import Glibc
  import Testing

  /// Each test runs in its own process, because touching a protected page ends the process. The last line that the
  /// process prints names the call that touched the page.
  @Suite("Memory that calls must not touch")
  struct GuardPageTests {
    @Test("no memory beyond the ends of operands and results is touched, on any path")
    func ends() async {
      await #expect(processExitsWith: .success) {
        for side in GuardedMemory.Side.allCases {
          try checkEnds(Float.self, side)
          try checkEnds(Double.self, side)
          try checkEnds(BFloat16.self, side)
          try checkProducts(Float.self, side)
          try checkProducts(Double.self, side)
        }
      }
    }

    @Test("keys and values that no query of a tile attends to, and their biases, are not touched")
    func hidden() async {
      await #expect(processExitsWith: .success) {
        try checkHidden(Float.self)
        try checkHidden(Double.self)
        try checkHidden(BFloat16.self)
      }
    }
  }

  private func announce(_ what: @autoclosure () -> String) {
    print(what())
    fflush(nil)
  }

  private func random<Stored: AttentionStorage>(_ shape: [Int], _ seed: UInt64) throws -> Tensor<Stored> {
    try Tensor(converting: Tensor<Float>(uniform: -1..<1, shape: shape, seed: seed))
  }

  private func checkEnds<Stored: AttentionStorage>(_: Stored.Type, _ side: GuardedMemory.Side) throws {
    let shapes: [(L: Int, S: Int, E: Int)] = [
      (1, 1, 1), (1, 37, 3), (2, 700, 20), (3, 1030, 64), (17, 33, 7), (40, 65, 64), (70, 300, 33), (200, 131, 16),
    ]
    for (L, S, E) in shapes {
      let query: Tensor<Stored> = try random([1, 4, L, E], 1).guarded(side)
      let key: Tensor<Stored> = try random([1, 2, S, E], 2).guarded(side)
      let value: Tensor<Stored> = try random([1, 2, S, E], 3).guarded(side)
      var generator = TestGenerator(seed: 4)
      let flags = try Tensor<Bool>(generator.flags(L * S, trueShare: 0.7), shape: [L, S]).guarded(side)
      let bias: Tensor<Stored.Arithmetic> = try random([4, L, S], 5).guarded(side)
      let masks: [(String, AttentionMask)] = [
        ("none", .none), ("causal", .causal), ("boolean", .attending(flags)), ("bias", .bias(bias)),
        ("bias of keys", .bias(try random([S], 6).guarded(side) as Tensor<Stored.Arithmetic>)),
        ("lengths", .keyLengths([S / 2])),
      ]
      for (name, mask) in masks {
        for context in AttentionContext.everyPath {
          announce("\(Stored.self) L\(L) S\(S) E\(E) \(name) \(side) \(context.path)")
          let memory = GuardedMemory(byteCount: 4 * L * E * MemoryLayout<Stored>.stride, guarding: side)
          var output = MutableTensorView<Stored>(
            base: memory.base.bindMemory(to: Stored.self, capacity: 4 * L * E), shape: [1, 4, L, E],
            strides: [4 * L * E, L * E, E, 1])
          try scaledDotProductAttention(
            query: query, key: key, value: value, mask: mask, into: &output, context: context)
          precondition((0..<4 * L * E).allSatisfy { !output.base[$0]._double.isNaN })
          // With heads side by side, the last row of the last head ends where the memory ends.
          let wide = try random([1, L, 4, E], 1).guarded(side) as Tensor<Stored>
          let keys = try random([1, S, 2, E], 2).guarded(side) as Tensor<Stored>
          _ = try scaledDotProductAttention(
            query: wide, key: keys, value: keys, mask: mask, options: AttentionOptions(layout: .lengthFirst),
            returning: .weights,
            context: context)
        }
      }
    }
  }

  private func checkProducts<Element: AttentionElement>(_: Element.Type, _ side: GuardedMemory.Side) throws {
    for (m, n, k) in [(1, 1, 1), (1, 50, 33), (7, 17, 5), (33, 49, 70), (70, 100, 530)] {
      let a: Tensor<Element> = try random([m, k], 1).guarded(side)
      let b: Tensor<Element> = try random([k, n], 2).guarded(side)
      let (turnedA, turnedB) = (
        try a.transposed().contiguous().guarded(side).transposed(),
        try b.transposed().contiguous().guarded(side).transposed()
      )
      let bias: Tensor<Element> = try random([n], 3).guarded(side)
      for context in AttentionContext.everyPath {
        announce("\(Element.self) product \(m) \(n) \(k) \(side) \(context.path)")
        for (a, b) in [(a, b), (turnedA, b), (a, turnedB), (turnedA, turnedB)] {
          _ = try matmul(a, b, context: context)
        }
        let layer = try Linear(weight: turnedB.transposed(), bias: bias, activation: .gelu)
        _ = try layer(a, context: context)
        _ = try softmax(a, context: context)
        _ = try logSumExp(turnedA, context: context)
      }
    }
  }

  private func checkHidden<Stored: AttentionStorage>(_: Stored.Type) throws {
    typealias Element = Stored.Arithmetic
    // A page of 4 KiB holds 16 rows of 64 Floats.
    let (S, E) = (3000, 64)
    for L in [1, 3, 40, 200] {
      let hides: [(String, AttentionMask, [Range<Int>])] = [
        ("key lengths", .keyLengths([1300]), [1300..<S]),
        ("left padding", .leftPadding([1300]), [0..<1300]),
        ("window", .window(left: 100, right: 0), [0..<S - L - 100]),
        ("causal from the top left", .causal(.topLeft), [L..<S]),
        ("chunks", .chunks(length: 500), [0..<2500 - (L > 1 ? 500 : 0)]),
        ("documents", .documents([0, L], keyOffsets: [0, 1000]), [1000..<S]),
        (
          "empty blocks",
          .attending(try BlockMask(queryCount: L, keyCount: S, blockLength: 128) { $0.key / 128 % 8 == 1 }),
          [0..<128, 256..<128 * 9, 128 * 10..<128 * 17]
        ),
      ]
      for (name, mask, hidden) in hides {
        // Without a bias, with a bias for each key, and with a bias for each query and key. The biases of hidden keys
        // are hidden, too.
        for biasShape in [nil, [S], [L, S]] as [[Int]?] {
          var pageCount = 0
          let rows = hidden.map { $0.lowerBound * E..<$0.upperBound * E }
          let query: Tensor<Stored> = try random([1, 2, L, E], 1)
          let key: Tensor<Stored> = try random([1, 1, S, E], 2).guarded(
            .front, hiding: rows, hiddenPageCount: &pageCount)
          let value: Tensor<Stored> = try random([1, 1, S, E], 3).guarded(
            .front, hiding: rows, hiddenPageCount: &pageCount)
          precondition(pageCount > 0, "nothing is hidden")
          var mask = mask
          if let biasShape {
            let bias: Tensor<Element> = try random(biasShape, 4)
            let places = (0..<bias.count / S).flatMap { row in
              hidden.map { row * S + $0.lowerBound..<row * S + $0.upperBound }
            }
            mask = mask.combined(with: .bias(try bias.guarded(.front, hiding: places, hiddenPageCount: &pageCount)))
          }
          for context in AttentionContext.everyPath {
            announce("\(Stored.self) L\(L) \(name) bias \(biasShape ?? []) \(context.path)")
            let result = try scaledDotProductAttention(
              query: query, key: key, value: value, mask: mask, returning: [.logSumExp, .weights], context: context)
            precondition(result.output.array.allSatisfy { !$0._double.isNaN })
          }
        }
      }
    }
  }
#endif
