import Attention
import AttentionProblems
import AttentionTestSupport
import Testing

@Suite("Multi-head attention")
struct MultiHeadTests {
  typealias Layer = MultiHeadAttention<Float>

  /// The formula of the layer, computed in Double: projections with loops, then attention by the plain formula, then
  /// the output projection.
  private func reference<Element: AttentionElement>(
    _ layer: MultiHeadAttention<Element>, _ query: Tensor<Element>, _ key: Tensor<Element>, _ value: Tensor<Element>,
    attends: @escaping (Int, Int, Int, Int) -> Bool = { _, _, _, _ in true }
  ) throws -> (output: [Double], weights: [Double]) {
    let c = layer.configuration
    let state = try layer.stateDictionary(naming: .perProjection)
    let (B, L, S) = (query.shape[0], query.shape[1], key.shape[1])
    let added = (c.addsBiasKeyValue ? 1 : 0) + (c.addsZeroAttention ? 1 : 0)
    func project(_ x: Tensor<Element>, _ name: String, extra: String?) -> [[[Double]]] {
      let weight = state["\(name)_projection.weight"]!
      let bias = state["\(name)_projection.bias"]
      return (0..<B).map { b in
        var rows = (0..<x.shape[1]).map { i in
          (0..<weight.shape[0]).map { o -> Double in
            var sum = Double(bias?[o] ?? 0)
            for e in 0..<weight.shape[1] { sum += Double(x[b, i, e]) * Double(weight[o, e]) }
            return sum
          }
        }
        if let extra, let tensor = state[extra] { rows.append(tensor.array.map { Double($0) }) }
        if extra != nil && c.addsZeroAttention { rows.append([Double](repeating: 0, count: weight.shape[0])) }
        return rows
      }
    }
    let (q, k, v) = (
      project(query, "query", extra: nil), project(key, "key", extra: "bias_k"),
      project(value, "value", extra: "bias_v")
    )
    var problem = ReferenceAttention()
    let E = c.embeddingDimension / c.headCount
    (problem.B, problem.H, problem.Hk, problem.L, problem.S, problem.E, problem.Ev) = (
      B, c.headCount, c.keyValueHeadCount, L, S + added, E, E
    )
    func heads(_ x: [[[Double]]], _ count: Int) -> [Double] {
      x.flatMap { rows in (0..<count).flatMap { h in rows.flatMap { $0[h * E..<(h + 1) * E] } } }
    }
    problem.query = heads(q, c.headCount)
    problem.key = heads(k, c.keyValueHeadCount)
    problem.value = heads(v, c.keyValueHeadCount)
    problem.attends = { b, h, i, j in j >= S || attends(b, h, i, j) }
    let answer = problem.answer()
    let weight = state["output_projection.weight"]!
    let bias = state["output_projection.bias"]
    var output: [Double] = []
    for b in 0..<B {
      for i in 0..<L {
        var row: [Double] = []
        for h in 0..<c.headCount {
          let start = ((b * c.headCount + h) * L + i) * E
          row += answer.output[start..<start + E]
        }
        for o in 0..<c.embeddingDimension {
          var sum = Double(bias?[o] ?? 0)
          for e in row.indices { sum += row[e] * Double(weight[o, e]) }
          output.append(sum)
        }
      }
    }
    return (output, answer.weights)
  }

  static let configurations: [Layer.Configuration] = [
    .init(embeddingDimension: 12, headCount: 3),
    .init(embeddingDimension: 12, headCount: 1),
    .init(embeddingDimension: 16, headCount: 4, keyValueHeadCount: 2),
    .init(embeddingDimension: 16, headCount: 4, keyValueHeadCount: 1, hasBias: false),
    .init(embeddingDimension: 12, headCount: 3, keyInputDimension: 5, valueInputDimension: 7),
    .init(embeddingDimension: 12, headCount: 3, keyInputDimension: 5, valueInputDimension: 5, hasBias: false),
    .init(embeddingDimension: 12, headCount: 3, addsBiasKeyValue: true),
    .init(embeddingDimension: 12, headCount: 3, addsZeroAttention: true),
    .init(embeddingDimension: 16, headCount: 4, keyValueHeadCount: 2, addsBiasKeyValue: true, addsZeroAttention: true),
    .init(
      embeddingDimension: 12, headCount: 3, keyInputDimension: 4, valueInputDimension: 9, addsBiasKeyValue: true,
      addsZeroAttention: true),
  ]

  private func input<Element: AttentionElement>(_ shape: [Int], _ seed: UInt64) throws -> Tensor<Element> {
    try Tensor(uniform: -1..<1, shape: shape, seed: seed)
  }

  /// A layer whose biases are not zero.
  private func layer<Element: AttentionElement>(
    _ configuration: Layer.Configuration, _: Element.Type = Float.self
  ) throws -> MultiHeadAttention<Element> {
    var state = try Layer(configuration: configuration, seed: 1).stateDictionary().mapValues {
      try Tensor<Element>(converting: $0)
    }
    for (name, tensor) in state where name.hasSuffix("bias") { state[name] = try input(tensor.shape, 99) }
    return try MultiHeadAttention(
      stateDictionary: state, headCount: configuration.headCount, addsZeroAttention: configuration.addsZeroAttention)
  }

  @Test("cross-attention agrees with the formula of the layer", arguments: configurations)
  func crossAttention(configuration: Layer.Configuration) throws {
    #expect(try layer(configuration).configuration == configuration)
    try crossAttention(configuration, Float.self)
    try crossAttention(configuration, Double.self)
  }

  private func crossAttention<Element: AttentionElement>(
    _ configuration: Layer.Configuration, _: Element.Type
  ) throws {
    let layer = try layer(configuration, Element.self)
    let query: Tensor<Element> = try input([2, 5, configuration.embeddingDimension], 2)
    let key: Tensor<Element> = try input([2, 8, configuration.keyInputDimension], 3)
    let value: Tensor<Element> = try input([2, 8, configuration.valueInputDimension], 4)
    for (mask, attends) in Self.masks(L: 5, S: 8) {
      let expected = try reference(layer, query, key, value, attends: attends)
      for context in AttentionContext.everyPath {
        let result = try layer.forward(
          query: query, key: key, value: value, mask: mask, weights: .perHead, context: context)
        func compare(_ name: String, _ got: [Element], _ want: [Double]) {
          let difference = mismatch(
            got, want, tolerance: tolerance(ofFloat: 2e-6, as: Element.self), "\(name) \(Element.self) \(context.path)")
          #expect(difference == nil)
        }
        compare("output", result.output.array, expected.output)
        compare("weights", try result.weights.array, expected.weights)
        let output = try layer(query: query, key: key, value: value, mask: mask, context: context)
        #expect(sameBits(output.array, result.output.array))
      }
    }
  }

  static func masks(L: Int, S: Int) -> [(AttentionMask, (Int, Int, Int, Int) -> Bool)] {
    [
      (.none, { _, _, _, _ in true }),
      (.causal, { _, _, i, j in j <= i + S - L }),
      (.keyLengths([S - 2, 0]), { b, _, _, j in j < (b == 0 ? S - 2 : 0) }),
    ]
  }

  @Test(
    "self-attention agrees with the formula, whether query, key and value are the same tensor or copies",
    arguments: configurations.filter {
      $0.keyInputDimension == $0.embeddingDimension && $0.valueInputDimension == $0.embeddingDimension
    })
  func selfAttention(configuration: Layer.Configuration) throws {
    for context in AttentionContext.everyPath { try selfAttention(configuration, context) }
  }

  private func selfAttention(_ configuration: Layer.Configuration, _ context: AttentionContext) throws {
    let layer = try layer(configuration)
    let x: Tensor<Float> = try input([2, 6, configuration.embeddingDimension], 5)
    let expected = try reference(layer, x, x, x)
    let shared = try layer(x, context: context)
    #expect(mismatch(shared.array, expected.output, tolerance: 1e-5) == nil)
    let apart = try layer(query: x, key: x.copied(), value: x.copied(), context: context)
    #expect(mismatch(apart.array, expected.output, tolerance: 1e-5) == nil)
    let y = try x.copied()
    #expect(
      mismatch(try layer(query: x, key: y, value: y, context: context).array, expected.output, tolerance: 1e-5) == nil)
    // One sentence without a batch axis.
    let single = try layer.forward(
      query: x.select(1, axis: 0), key: x.select(1, axis: 0), value: x.select(1, axis: 0), weights: .averaged,
      context: context)
    #expect(single.output.shape == [6, configuration.embeddingDimension])
    #expect(try single.weights.rank == 2)
    #expect(
      mismatch(
        single.output.array, Array(expected.output.suffix(6 * configuration.embeddingDimension)), tolerance: 1e-5)
        == nil)
  }

  @Test("added keys also count after 2500 other keys, which are split", arguments: AttentionContext.everyPath)
  func addedKeysAfterSplits(context: AttentionContext) throws {
    let layer = try layer(.init(embeddingDimension: 8, headCount: 2, addsBiasKeyValue: true, addsZeroAttention: true))
    let query: Tensor<Float> = try input([1, 1, 8], 2)
    let memory: Tensor<Float> = try input([1, 2500, 8], 3)
    for (mask, attends) in [
      (AttentionMask.none, { (_: Int, _: Int, _: Int, _: Int) in true }),
      (.keyLengths([1500]), { _, _, _, j in j < 1500 }), (.keyLengths([0]), { _, _, _, _ in false }),
      (.window(left: 1200, right: nil), { _, _, _, j in j >= 2499 - 1200 }),
    ] {
      let result = try layer.forward(
        query: query, key: memory, value: memory, mask: mask, weights: .perHead, context: context)
      let expected = try reference(layer, query, memory, memory, attends: attends)
      #expect(mismatch(result.output.array, expected.output, tolerance: 1e-5) == nil)
      #expect(try mismatch(result.weights.array, expected.weights, tolerance: 1e-6) == nil)
    }
  }

  @Test("averaged weights are the mean over heads")
  func averagedWeights() throws {
    let layer = try Layer(embeddingDimension: 12, headCount: 3, seed: 1)
    let x: Tensor<Float> = try input([2, 6, 12], 5)
    let each = try layer.forward(query: x, key: x, value: x, weights: .perHead).weights
    let mean = try layer.forward(query: x, key: x, value: x, weights: .averaged).weights
    #expect(mean.shape == [2, 6, 6])
    #expect(abs(mean[1, 2, 3] - (each[1, 0, 2, 3] + each[1, 1, 2, 3] + each[1, 2, 2, 3]) / 3) < 1e-6)
    let without = try layer.forward(query: x, key: x, value: x)
    #expect(throws: AttentionError.self) { try without.weights }
  }

  @Test("state dictionaries round-trip under PyTorch's and this library's names", arguments: configurations)
  func stateDictionaries(configuration: Layer.Configuration) throws {
    let layer = try layer(configuration)
    let query: Tensor<Float> = try input([1, 4, configuration.embeddingDimension], 2)
    let key: Tensor<Float> = try input([1, 7, configuration.keyInputDimension], 3)
    let value: Tensor<Float> = try input([1, 7, configuration.valueInputDimension], 4)
    let expected = try layer(query: query, key: key, value: value)
    for naming in [Layer.Naming.pyTorch, .perProjection] {
      let state = try layer.stateDictionary(naming: naming, prefix: "layer.0.")
      let copy = try Layer(
        stateDictionary: state, prefix: "layer.0.", headCount: configuration.headCount,
        addsZeroAttention: configuration.addsZeroAttention)
      #expect(copy.configuration == configuration)
      #expect(sameBits(try copy(query: query, key: key, value: value).array, expected.array))
    }
    let names = Set(try layer.stateDictionary().keys)
    let isStacked =
      configuration.keyInputDimension == configuration.embeddingDimension
      && configuration.valueInputDimension == configuration.embeddingDimension
    #expect(names.contains(isStacked ? "in_proj_weight" : "q_proj_weight"))
    #expect(names.contains("in_proj_bias") == configuration.hasBias)
    #expect(names.contains("bias_k") == configuration.addsBiasKeyValue)
  }

  @Test("the same seed gives the same layer, within Xavier's bounds")
  func initialisation() throws {
    let configuration = Layer.Configuration(embeddingDimension: 32, headCount: 4, addsBiasKeyValue: true)
    let a = try Layer(configuration: configuration, seed: 3).stateDictionary()
    let b = try Layer(configuration: configuration, seed: 3).stateDictionary()
    #expect(a.keys.sorted().allSatisfy { a[$0] == b[$0] })
    #expect(try Layer(configuration: configuration, seed: 4).stateDictionary()["in_proj_weight"] != a["in_proj_weight"])
    let weight = a["in_proj_weight"]!
    #expect(weight.shape == [96, 32])
    let bound = Float((6.0 / (32 + 96)).squareRoot())
    #expect(weight.array.allSatisfy { abs($0) <= bound })
    #expect(weight.array.map(abs).max()! > 0.98 * bound)
    #expect(a["in_proj_bias"]!.array.allSatisfy { $0 == 0 })
    #expect(a["bias_k"]!.array.contains { $0 != 0 })
  }

  @Test("wrong widths, heads and states throw")
  func errors() throws {
    #expect(throws: AttentionError.self) { try Layer(embeddingDimension: 10, headCount: 3, seed: 1) }
    #expect(throws: AttentionError.self) { try Layer(embeddingDimension: 10, headCount: 0, seed: 1) }
    #expect(throws: AttentionError.self) {
      try Layer(configuration: .init(embeddingDimension: 12, headCount: 4, keyValueHeadCount: 3), seed: 1)
    }
    let layer = try Layer(embeddingDimension: 12, headCount: 3, seed: 1)
    let error = #expect(throws: AttentionError.self) { try layer(Tensor(repeating: 1, shape: [2, 5, 11])) }
    #expect(error?.description.contains("query [B, L, 12]") == true)
    #expect(throws: AttentionError.self) { try layer(Tensor(repeating: 1, shape: [12])) }
    var state = try layer.stateDictionary()
    state["out_proj.weight"] = nil
    let missing = #expect(throws: AttentionError.self) { try Layer(stateDictionary: state, headCount: 3) }
    #expect(missing?.code == .notFound)
    #expect(missing?.message.contains("out_proj.weight") == true)
    state = try layer.stateDictionary()
    state["in_proj_bias"] = try Tensor(repeating: 0, shape: [35])
    #expect(throws: AttentionError.self) { try Layer(stateDictionary: state, headCount: 3) }
    #expect(throws: AttentionError.self) { try Layer(stateDictionary: layer.stateDictionary(), headCount: 5) }
    #expect(throws: AttentionError.self) { try Layer(stateDictionary: [:], headCount: 3) }
    func zeros(_ shape: [Int]) throws -> Tensor<Float> { try Tensor(repeating: 0, shape: shape) }
    for state in try [
      ["out_proj.weight": zeros([0, 0]), "in_proj_weight": zeros([2, 0])],
      [
        "out_proj.weight": zeros([6, 6]), "q_proj_weight": zeros([6, 6]), "k_proj_weight": zeros([1 << 62, 0]),
        "v_proj_weight": zeros([6, 6]),
      ],
    ] {
      #expect(throws: AttentionError.self) { try Layer(stateDictionary: state, headCount: 1) }
    }
    #expect(throws: AttentionError.self) { try Layer(embeddingDimension: .max, headCount: 1, seed: 1) }
    #expect(Layer.Configuration(embeddingDimension: 4, headCount: 0).headDimension == 0)
  }

  @Test("masks of PyTorch's modules, where true means ignore, can be converted")
  func pyTorchMasks() throws {
    let layer = try Layer(embeddingDimension: 8, headCount: 2, seed: 1)
    let x: Tensor<Float> = try input([2, 4, 8], 2)
    let padded: Tensor<Bool> = [[false, false, false, true], [false, false, true, true]]
    let byPadding = try layer(x, mask: .pyTorchKeyPadding(padded))
    #expect(
      sameBits(
        byPadding.array,
        try layer(
          x, mask: .attending(Tensor([true, true, true, false, true, true, false, false], shape: [2, 1, 1, 4]))
        ).array))
    var upper = try Tensor<Bool>(repeating: false, shape: [4, 4])
    for i in 0..<4 { for j in i + 1..<4 { upper[i, j] = true } }
    let causal = try layer(x, mask: .causal)
    #expect(
      mismatch(
        try layer(x, mask: .pyTorchAttention(upper, headCount: 2)).array, causal.array.map(Double.init), tolerance: 1e-6
      ) == nil)
    let each = try upper.reshaped([1, 4, 4]).broadcast(to: [4, 4, 4])
    #expect(
      mismatch(
        try layer(x, mask: .pyTorchAttention(each, headCount: 2)).array, causal.array.map(Double.init), tolerance: 1e-6)
        == nil)
    #expect(throws: AttentionError.self) { try AttentionMask.pyTorchAttention(each, headCount: 3) }
    #expect(throws: AttentionError.self) { try AttentionMask.pyTorchKeyPadding(each) }
  }
}
