import Attention
import AttentionProblems
import AttentionTestSupport
import Testing

@Suite("Layouts, strides and given outputs")
struct LayoutTests {
  private let scenario = Scenario(B: 2, H: 4, Hk: 2, L: 21, S: 34, E: 8, Ev: 12, mask: .causal)

  private func expected(_ context: AttentionContext = .default) throws -> (Inputs<Float>, Tensor<Float>) {
    let inputs = try Inputs<Float>(scenario.reference())
    return (
      inputs,
      try scaledDotProductAttention(
        query: inputs.query, key: inputs.key, value: inputs.value, mask: .causal, context: context)
    )
  }

  /// The same tensor, with its axes in another order in memory: its strides are not those of a contiguous tensor,
  /// unless `order` is the usual order.
  private func rearranged(_ x: Tensor<Float>, _ order: [Int]) throws -> Tensor<Float> {
    let inverse = order.indices.map { order.firstIndex(of: $0)! }
    return try x.permuted(order).copied().permuted(inverse)
  }

  @Test("any strides give the same result", arguments: [[0, 2, 1, 3], [0, 1, 3, 2], [3, 2, 1, 0], [2, 0, 3, 1]])
  func anyStrides(order: [Int]) throws {
    for context in AttentionContext.everyPath {
      let (inputs, expected) = try expected(context)
      let output = try scaledDotProductAttention(
        query: rearranged(inputs.query, order), key: rearranged(inputs.key, order),
        value: rearranged(inputs.value, order), mask: .causal, context: context)
      #expect(output.isContiguous)
      #expect(mismatch(output.array, expected.array.map(Double.init), tolerance: 1e-6, context.path) == nil)
    }
  }

  @Test("inputs that are every second element of a wider tensor, or one sample that is broadcast to a batch")
  func hostileStrides() throws {
    let (inputs, _) = try expected()
    func widened(_ x: Tensor<Float>) throws -> Tensor<Float> {
      var wide = try Tensor<Float>(repeating: .nan, shape: x.shape + [2])
      try wide.withMutableView { view in
        try view.withSlice(1..<2, axis: 4) { try $0.copy(from: x.reshaped(x.shape + [1])) }
      }
      return try wide.select(1, axis: 4)
    }
    func oneBatch(_ x: Tensor<Float>) throws -> Tensor<Float> { try x.slice(0..<1, axis: 0).broadcast(to: x.shape) }
    for context in AttentionContext.everyPath {
      let plain = try scaledDotProductAttention(
        query: oneBatch(inputs.query).contiguous(), key: oneBatch(inputs.key).contiguous(),
        value: oneBatch(inputs.value).contiguous(), mask: .causal, context: context)
      let strided = try scaledDotProductAttention(
        query: widened(oneBatch(inputs.query)), key: oneBatch(widened(inputs.key)),
        value: oneBatch(widened(inputs.value)), mask: .causal, context: context)
      #expect(mismatch(strided.array, plain.array.map(Double.init), tolerance: 1e-6, context.path) == nil)
    }
  }

  @Test("layout [B, L, H, E], and tensors without a batch or without heads", arguments: AttentionContext.everyPath)
  func layouts(context: AttentionContext) throws {
    let (inputs, expected) = try expected(context)
    func swapped(_ x: Tensor<Float>) throws -> Tensor<Float> { try x.permuted([0, 2, 1, 3]).copied() }
    let result = try scaledDotProductAttention(
      query: swapped(inputs.query), key: swapped(inputs.key), value: swapped(inputs.value), mask: .causal,
      options: AttentionOptions(layout: .lengthFirst), returning: [.logSumExp, .weights], context: context)
    #expect(result.output.shape == [2, 21, 4, 12])
    #expect(try result.logSumExp.shape == [2, 4, 21])
    #expect(try result.weights.shape == [2, 4, 21, 34])
    #expect(mismatch(try swapped(result.output).array, expected.array.map(Double.init), tolerance: 1e-6) == nil)

    func one(_ x: Tensor<Float>) throws -> Tensor<Float> { try x.select(1, axis: 0) }
    let third = try scaledDotProductAttention(
      query: one(inputs.query), key: one(inputs.key), value: one(inputs.value), mask: .causal,
      returning: [.logSumExp, .weights], context: context)
    #expect(third.output.shape == [4, 21, 12])
    #expect(try third.logSumExp.shape == [4, 21])
    #expect(try third.weights.shape == [4, 21, 34])
    #expect(mismatch(third.output.array, try one(expected).array.map(Double.init), tolerance: 1e-6) == nil)
    let thirdSwapped = try scaledDotProductAttention(
      query: one(swapped(inputs.query)), key: one(swapped(inputs.key)), value: one(swapped(inputs.value)),
      mask: .causal, options: AttentionOptions(layout: .lengthFirst), context: context)
    #expect(thirdSwapped.shape == [21, 4, 12])

    func single(_ x: Tensor<Float>) throws -> Tensor<Float> { try x.select(1, axis: 0).select(0, axis: 0) }
    for layout in [AttentionLayout.headsFirst, .lengthFirst] {
      let second = try scaledDotProductAttention(
        query: single(inputs.query), key: single(inputs.key), value: single(inputs.value), mask: .causal,
        options: AttentionOptions(layout: layout),
        returning: .logSumExp, context: context)
      #expect(second.output.shape == [21, 12])
      #expect(try second.logSumExp.shape == [21])
      #expect(mismatch(second.output.array, try single(expected).array.map(Double.init), tolerance: 1e-6) == nil)
    }
  }

  @Test(
    "keys and values that are copied because their rows lie far apart give the same bits",
    arguments: InstructionSet.present)
  func farRows(isa: InstructionSet) throws {
    let (inputs, _) = try expected()
    var context = AttentionContext(instructionSet: isa, algorithm: .packed)
    context.tuning.farRowByteCount = .max
    let near = try scaledDotProductAttention(
      query: inputs.query, key: inputs.key, value: inputs.value, mask: .causal, returning: .weights, context: context)
    context.tuning.farRowByteCount = 1
    context.tuning.leastPackedRowCount = 1
    for order in [[0, 1, 2, 3], [0, 2, 1, 3], [0, 1, 3, 2]] {
      let far = try scaledDotProductAttention(
        query: inputs.query, key: rearranged(inputs.key, order), value: rearranged(inputs.value, order), mask: .causal,
        returning: .weights, context: context)
      #expect(sameBits(far.output.array, near.output.array))
      #expect(try sameBits(far.weights.array, near.weights.array))
    }
  }

  @Test("into: writes to the given tensor, and does not read its old content", arguments: AttentionContext.everyPath)
  func into(context: AttentionContext) throws {
    let (inputs, expected) = try expected(context)
    var output = try Tensor<Float>(repeating: .nan, shape: expected.shape)
    func address(_ x: borrowing Tensor<Float>) -> Int { Int(bitPattern: x.base) }
    let before = address(output)
    try scaledDotProductAttention(
      query: inputs.query, key: inputs.key, value: inputs.value, mask: .causal, into: &output, context: context)
    #expect(address(output) == before)
    #expect(sameBits(output.array, expected.array))

    var wide = try Tensor<Float>(repeating: .nan, shape: [2, 21, 4, 14])
    try wide.withMutableView { view in
      try view.withSlice(1..<13, axis: 3) { part in
        try part.withPermutation([0, 2, 1, 3]) {
          try scaledDotProductAttention(
            query: inputs.query, key: inputs.key, value: inputs.value, mask: .causal, into: &$0, context: context)
        }
      }
    }
    #expect(sameBits(try wide.slice(1..<13, axis: 3).permuted([0, 2, 1, 3]).array, expected.array))
    #expect(wide.array.filter { $0.isNaN }.count == 2 * 21 * 4 * 2)

    // The last axis of this output is strided, so the result is written element by element.
    var turned = try Tensor<Float>(repeating: .nan, shape: [2, 4, 12, 21])
    try turned.withMutableView { view in
      try view.withPermutation([0, 1, 3, 2]) {
        try scaledDotProductAttention(
          query: inputs.query, key: inputs.key, value: inputs.value, mask: .causal, into: &$0, context: context)
      }
    }
    #expect(sameBits(try turned.transposed().array, expected.array))

    var wrong = try Tensor<Float>(repeating: 1, shape: [2, 4, 21, 8])
    let error = #expect(throws: AttentionError.self) {
      try scaledDotProductAttention(query: inputs.query, key: inputs.key, value: inputs.value, into: &wrong)
    }
    #expect(
      error?.description == "scaledDotProductAttention: an output of shape [2, 4, 21, 12] expected; got [2, 4, 21, 8]")
    #expect(wrong.array.allSatisfy { $0 == 1 })
  }
}

@Suite("Errors name what was expected and what was given")
struct AttentionErrorTests {
  private func tensor(_ shape: [Int]) throws -> Tensor<Float> { try Tensor(repeating: 1, shape: shape) }

  @Test("shapes that disagree")
  func shapes() throws {
    let good = try tensor([2, 4, 8, 16])
    let cases: [([Int], [Int], [Int], String)] = [
      ([2, 4, 8, 16], [2, 4, 128, 16], [2, 4, 127, 16], "key and value need the same length"),
      ([2, 4, 8, 16], [3, 4, 8, 16], [3, 4, 8, 16], "query, key and value need the same batch"),
      ([2, 4, 8, 16], [2, 2, 8, 16], [2, 4, 8, 16], "key and value need the same heads"),
      ([2, 4, 8, 16], [2, 3, 8, 16], [2, 3, 8, 16], "the query's heads must be a multiple of the key's and value's"),
      ([2, 4, 8, 16], [2, 4, 8, 15], [2, 4, 8, 16], "query and key need the same head dimension"),
      ([2, 4, 8, 16], [2, 8, 16], [2, 8, 16], "query, key and value need one rank of 2, 3 or 4"),
      ([4], [4], [4], "query, key and value need one rank of 2, 3 or 4"),
      ([1, 2, 4, 8, 16], [1, 2, 4, 8, 16], [1, 2, 4, 8, 16], "query, key and value need one rank of 2, 3 or 4"),
    ]
    for (query, key, value, message) in cases {
      let error = #expect(throws: AttentionError.self) {
        try scaledDotProductAttention(query: tensor(query), key: tensor(key), value: tensor(value))
      }
      #expect(error?.code == .shapeMismatch)
      #expect(error?.description.hasPrefix("scaledDotProductAttention: \(message); got query \(query)") == true)
    }
    _ = try scaledDotProductAttention(query: good, key: good, value: good)
  }

  @Test("masks that do not fit")
  func masks() throws {
    let x = try tensor([2, 4, 8, 16])
    let masks: [AttentionMask] = [
      .keyLengths([1]), .keyLengths([1, 9]), .keyLengths([-1, 3]), .leftPadding([1, 2, 3]),
      .window(left: -1, right: nil),
      .attending(try Tensor(repeating: true, shape: [7, 8])),
      .attending(try Tensor(repeating: true, shape: [1, 2, 4, 8, 8])),
      .bias(try tensor([3, 1, 8, 8])), .bias(try Tensor<Double>(repeating: 0, shape: [8, 8])),
    ]
    for mask in masks {
      #expect(throws: AttentionError.self) { try scaledDotProductAttention(query: x, key: x, value: x, mask: mask) }
    }
    #expect(throws: AttentionError.self) {
      try scaledDotProductAttention(query: x, key: x, value: x, options: AttentionOptions(scale: .nan))
    }
  }

  @Test("window bounds of Int.max do not overflow")
  func hugeBounds() throws {
    let x = try tensor([1, 1, 5, 4])
    let plain = try scaledDotProductAttention(query: x, key: x, value: x)
    for mask in [AttentionMask.window(left: .max, right: .max), .window(left: .max, right: .max, alignment: .topLeft)] {
      #expect(try scaledDotProductAttention(query: x, key: x, value: x, mask: mask) == plain)
    }
  }

  @Test("an instruction set that this machine does not have is an error")
  func instructionSets() throws {
    let x = try tensor([1, 1, 2, 4])
    for isa in InstructionSet.allCases where !InstructionSet.present.contains(isa) {
      let error = #expect(throws: AttentionError.self) {
        try scaledDotProductAttention(query: x, key: x, value: x, context: AttentionContext(instructionSet: isa))
      }
      #expect(error?.code == .unsupported)
      #expect(error?.message.contains("portable") == true)
    }
  }
}
