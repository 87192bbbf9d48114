import Attention
import AttentionBLAS
import AttentionProblems
import AttentionTestSupport
import CLibrary
import Testing

@Suite("Multi-head attention with the options of decoders")
struct LayerOptionTests {
  typealias Layer = MultiHeadAttention<Float>

  static let configurations: [Layer.Configuration] = {
    let rotary = try! RotaryEmbedding(dimension: 8, base: 500)
    let interleaved = try! RotaryEmbedding(dimension: 4, base: 500, pairing: .interleaved)
    return [
      Layer.Configuration(
        embeddingDimension: 24, headCount: 4, keyValueHeadCount: 2, hasBias: false, headDimension: 8, rotary: rotary),
      Layer.Configuration(
        embeddingDimension: 32, headCount: 4, keyValueHeadCount: 1, rotary: interleaved, normEpsilon: 1e-3),
      Layer.Configuration(embeddingDimension: 32, headCount: 4, softcap: 0.7, window: 5, hasSinks: true),
      Layer.Configuration(
        embeddingDimension: 20, headCount: 6, keyValueHeadCount: 3, headDimension: 8, scale: 0.3, softcap: 2, window: 9,
        rotary: rotary, normEpsilon: 1e-6, hasSinks: true),
    ]
  }()

  /// A Float layer whose norms, sinks and biases are random instead of their initial values.
  private func layer(_ configuration: Layer.Configuration) throws -> Layer { try layer(configuration, Float.self) }

  /// The same layer with any element type. Float cannot hold the numbers of a Double layer exactly.
  private func layer<Element: AttentionElement>(
    _ configuration: Layer.Configuration, _: Element.Type
  ) throws -> MultiHeadAttention<Element> {
    var state = try Layer(configuration: configuration, seed: 7).stateDictionary(naming: .perProjection)
    func randomise(_ name: String, _ range: Range<Double>, _ seed: UInt64) throws {
      if let old = state[name] { state[name] = try Tensor(uniform: range, shape: old.shape, seed: seed) }
    }
    try randomise("query_norm.weight", 0.5..<1.5, 1)
    try randomise("key_norm.weight", 0.5..<1.5, 2)
    try randomise("sinks", -1..<2, 3)
    for name in state.keys.sorted() where name.hasSuffix("bias") { try randomise(name, -0.5..<0.5, 4) }
    let fine = try state.mapValues { tensor in
      try Tensor(tensor.array.map { Element(Double($0) * (1 + 1e-9)) }, shape: tensor.shape)
    }
    return try self.layer(fine, configuration)
  }

  private func layer<Element: AttentionElement>(
    _ state: [String: Tensor<Element>], prefix: String = "", _ configuration: Layer.Configuration
  ) throws -> MultiHeadAttention<Element> {
    try MultiHeadAttention(stateDictionary: state, prefix: prefix, headCount: configuration.headCount) {
      $0.scale = configuration.scale
      $0.softcap = configuration.softcap
      $0.window = configuration.window
      $0.rotary = configuration.rotary
      if $0.normEpsilon != nil { $0.normEpsilon = configuration.normEpsilon }
    }
  }

  /// The formula of the layer, computed in Double: causal self-attention of `x`, which is `[B, L, d]`.
  private func reference<Element: AttentionElement>(
    _ layer: MultiHeadAttention<Element>, _ x: Tensor<Element>
  ) throws -> [Double] {
    let c = layer.configuration
    let state = try layer.stateDictionary(naming: .perProjection)
    let (B, L, E) = (x.shape[0], x.shape[1], c.headDimension)
    func project(_ rows: [Double], _ name: String, _ width: Int) -> [Double] {
      let weight = state["\(name)_projection.weight"]!
      return (0..<B * L).flatMap { row in
        (0..<weight.shape[0]).map { o in
          (0..<width).reduce(Double(state["\(name)_projection.bias"]?[o] ?? 0)) {
            $0 + rows[row * width + $1] * Double(weight[o, $1])
          }
        }
      }
    }
    // Reorders [B·L, heads·E] to [B, heads, L, E]. If `norm` is given, rows are also normalised and turned, as far as
    // the layer does so.
    func heads(_ rows: [Double], _ count: Int, norm: String?) -> [Double] {
      let angles = c.rotary?.angles(length: L) ?? []
      var result: [Double] = []
      for b in 0..<B {
        for h in 0..<count {
          for i in 0..<L {
            let start = ((b * L + i) * count + h) * E
            var row = Array(rows[start..<start + E])
            if let norm, let weight = state[norm], let epsilon = c.normEpsilon {
              let mean = row.reduce(0) { $0 + $1 * $1 } / Double(E)
              row = row.indices.map { row[$0] / (mean + epsilon).squareRoot() * Double(weight[$0]) }
            }
            if let rotary = c.rotary, norm != nil {
              let old = row
              for (pair, angle) in angles.enumerated() {
                let (a, b) =
                  rotary.pairing == .halves ? (pair, pair + rotary.dimension / 2) : (2 * pair, 2 * pair + 1)
                let turn = Double(i) * angle
                row[a] = old[a] * cos(turn) - old[b] * sin(turn)
                row[b] = old[b] * cos(turn) + old[a] * sin(turn)
              }
            }
            result += row
          }
        }
      }
      return result
    }
    let input = x.array.map { Double($0) }
    var problem = ReferenceAttention()
    (problem.B, problem.H, problem.Hk, problem.L, problem.S, problem.E, problem.Ev) = (
      B, c.headCount, c.keyValueHeadCount, L, L, E, E
    )
    problem.query = heads(project(input, "query", c.embeddingDimension), c.headCount, norm: "query_norm.weight")
    problem.key = heads(project(input, "key", c.embeddingDimension), c.keyValueHeadCount, norm: "key_norm.weight")
    problem.value = heads(project(input, "value", c.embeddingDimension), c.keyValueHeadCount, norm: nil)
    problem.scale = c.scale
    problem.softcap = c.softcap
    problem.sinks = state["sinks"]?.array.map { Double($0) }
    problem.attends = { _, _, i, j in j <= i && j > i - (c.window ?? 1 << 30) }
    let output = problem.answer().output
    var rows = [Double](repeating: 0, count: B * L * c.headCount * E)
    for b in 0..<B {
      for h in 0..<c.headCount {
        for i in 0..<L {
          for e in 0..<E {
            rows[((b * L + i) * c.headCount + h) * E + e] = output[((b * c.headCount + h) * L + i) * E + e]
          }
        }
      }
    }
    return project(rows, "output", c.headCount * E)
  }

  @Test("the layer agrees with its formula", arguments: configurations)
  func writtenOut(configuration: Layer.Configuration) throws {
    #expect(try layer(configuration).configuration == configuration)
    try writtenOut(configuration, Float.self)
    try writtenOut(configuration, Double.self)
  }

  private func writtenOut<Element: AttentionElement>(_ configuration: Layer.Configuration, _: Element.Type) throws {
    let layer = try layer(configuration, Element.self)
    let x = try Tensor<Element>(uniform: -1..<1, shape: [2, 23, configuration.embeddingDimension], seed: 5)
    let expected = try reference(layer, x)
    // If key and value are not the same tensor as the query, the layer computes other products with the same result.
    let other = try x.copied()
    for context in AttentionContext.everyPath {
      for y in [
        try layer(x, mask: .causal, context: context),
        try layer(query: x, key: other, value: other, mask: .causal, context: context),
      ] {
        let difference = mismatch(
          y.array, expected, tolerance: tolerance(ofFloat: 5e-6, as: Element.self), "\(Element.self) \(context.path)")
        #expect(difference == nil)
      }
    }
  }

  @Test("decoding through a cache agrees with one causal pass", arguments: configurations)
  func decoding(configuration: Layer.Configuration) throws {
    for context in AttentionContext.everyPath {
      try decoding(configuration, Float.self, context)
      try decoding(configuration, Double.self, context)
    }
  }

  private func decoding<Element: AttentionElement>(
    _ configuration: Layer.Configuration, _: Element.Type, _ context: AttentionContext
  ) throws {
    let layer = try layer(configuration, Element.self)
    let x = try Tensor<Element>(uniform: -1..<1, shape: [2, 40, configuration.embeddingDimension], seed: 6)
    let expected = try layer.forward(
      query: x, key: x, value: x, mask: .causal, weights: .averaged, context: context)
    var kinds: [CacheKind] = [.growing, .paged(8)]
    // A cache whose window is wider than the layer's gives the same results.
    if let window = configuration.window {
      kinds += [.window(window, 0), .window(window + 6, 0), .window(window, 0, pageLength: 8)]
    }
    for kind in kinds {
      let cache = try kind.cache(
        Element.self, batchCount: 2, headCount: configuration.keyValueHeadCount,
        headDimension: configuration.headDimension)
      var token = 0
      for count in [17, 1, 1, 3, 1, 5, 1, 11] {
        let new = try x.slice(token..<token + count, axis: 1)
        let output = try layer.forward(new, cache: cache, context: context).output
        let part = try expected.output.slice(token..<token + count, axis: 1)
        let difference = mismatch(
          output.array, part.array.map { Double($0) }, tolerance: tolerance(ofFloat: 5e-6, as: Element.self),
          "\(Element.self) \(kind) \(token) \(context.path)")
        #expect(difference == nil)
        token += count
      }
    }
  }

  @Test("each sample of a batch may be at a different position")
  func raggedCache() throws {
    let layer = try layer(Self.configurations[0])
    let x = try Tensor<Float>(uniform: -1..<1, shape: [2, 12, 24], seed: 6)
    let cache = try KeyValueCache<Float>(batchCount: 2, headCount: 2, headDimension: 8)
    _ = try layer.forward(x.slice(0..<7, axis: 1), cache: cache, counts: [7, 4])
    var next = try Tensor<Float>(repeating: 0, shape: [2, 1, 24])
    try next.withMutableView { view in
      try view.withSlice(0..<1, axis: 0) { try $0.copy(from: x.slice(0..<1, axis: 0).slice(7..<8, axis: 1)) }
      try view.withSlice(1..<2, axis: 0) { try $0.copy(from: x.slice(1..<2, axis: 0).slice(4..<5, axis: 1)) }
    }
    let output = try layer.forward(next, cache: cache).output
    let whole = try layer(x, mask: .causal)
    for (sample, token) in [(0, 7), (1, 4)] {
      let got = try output.select(sample, axis: 0).array
      let expected = try whole.select(sample, axis: 0).select(token, axis: 0).array
      #expect(mismatch(got, expected.map(Double.init), tolerance: 5e-6) == nil)
    }
  }

  @Test("state dictionaries round-trip under every naming", arguments: configurations)
  func namings(configuration: Layer.Configuration) throws {
    let layer = try layer(configuration)
    let x = try Tensor<Float>(uniform: -1..<1, shape: [1, 9, configuration.embeddingDimension], seed: 5)
    let expected = try layer(x, mask: .causal)
    for naming in [Layer.Naming.pyTorch, .perProjection, .huggingFace, .bert, .keras] {
      let state = try layer.stateDictionary(naming: naming, prefix: "a.")
      let copy = try self.layer(state, prefix: "a.", configuration)
      #expect(copy.configuration == configuration)
      #expect(sameBits(try copy(x, mask: .causal).array, expected.array), "\(naming)")
    }
    let keras = try layer.stateDictionary(naming: .keras)
    let (d, H, E) = (configuration.embeddingDimension, configuration.headCount, configuration.headDimension)
    #expect(keras["query/kernel"]!.shape == [d, H, E])
    #expect(keras["key/kernel"]!.shape == [d, configuration.keyValueHeadCount, E])
    #expect(keras["attention_output/kernel"]!.shape == [H, E, d])
    let own = try layer.stateDictionary(naming: .huggingFace)
    #expect(keras["query/kernel"]![1, 2, 3] == own["q_proj.weight"]![2 * E + 3, 1])
    #expect(keras["attention_output/kernel"]![1, 2, 3] == own["o_proj.weight"]![3, E + 2])
  }

  @Test("with more queries than keys, both are rotated by one length's angles, and the last query is at the last key")
  func moreQueriesThanKeys() throws {
    let rotary = try RotaryEmbedding(dimension: 8, scaling: .dynamicNTK(factor: 8, trainedLength: 4))
    let layer = try Layer(
      configuration: Layer.Configuration(embeddingDimension: 16, headCount: 2, window: 3, rotary: rotary), seed: 1)
    let x = try Tensor<Float>(uniform: -1..<1, shape: [1, 12, 16], seed: 2)
    let keys = try x.slice(8..<12, axis: 1)
    let cross = try layer.forward(query: x, key: keys, value: keys, mask: .causal, weights: .perHead)
    let own = try layer.forward(query: x, key: x, value: x, mask: .causal, weights: .perHead)
    // The last query attends to the last three keys, which are the same in both calls.
    for head in 0..<2 {
      for key in 0..<4 { #expect(try abs(cross.weights[0, head, 11, key] - own.weights[0, head, 11, 8 + key]) < 1e-6) }
    }
    #expect(try (0..<8).allSatisfy { i in try (0..<4).allSatisfy { try cross.weights[0, 0, i, $0] == 0 } })
  }

  @Test("a wrong mask throws and leaves the cache unchanged")
  func wrongMask() throws {
    let layer = try layer(Self.configurations[0])
    let x = try Tensor<Float>(uniform: -1..<1, shape: [1, 4, 24], seed: 2)
    let cache = try KeyValueCache<Float>(batchCount: 1, headCount: 2, headDimension: 8)
    #expect(throws: AttentionError.self) { try layer.forward(x, cache: cache, mask: .keyLengths([1, 2])) }
    #expect(cache.lengths == [0])
    #expect(try layer.forward(x, cache: cache, counts: [2]).output.shape == [1, 4, 24])
    #expect(cache.lengths == [2])
  }

  @Test("settings, states and caches that do not fit throw")
  func errors() throws {
    func make(_ change: (inout Layer.Configuration) -> Void) throws -> Layer {
      var configuration = Layer.Configuration(embeddingDimension: 24, headCount: 4, headDimension: 8)
      change(&configuration)
      return try Layer(configuration: configuration, seed: 1)
    }
    #expect(try make { _ in }.configuration.projectedQueryDimension == 32)
    let rotary = try RotaryEmbedding(dimension: 10)
    #expect(throws: AttentionError.self) { try make { $0.rotary = rotary } }
    #expect(throws: AttentionError.self) { try make { $0.window = 0 } }
    #expect(throws: AttentionError.self) { try make { $0.normEpsilon = -1 } }
    #expect(throws: AttentionError.self) { try make { $0.headDimension = 0 } }
    #expect(throws: AttentionError.self) { try make { $0.headDimension = .max } }
    #expect(throws: AttentionError.self) { try make { ($0.window, $0.addsZeroAttention) = (3, true) } }
    let state = try make { $0.hasSinks = true }.stateDictionary(naming: .huggingFace)
    #expect(throws: AttentionError.self) {
      try Layer(stateDictionary: state, headCount: 4) { $0.hasSinks = false }
    }
    var wrong = state
    wrong["sinks"] = try Tensor(repeating: 0, shape: [3])
    #expect(throws: AttentionError.self) { try Layer(stateDictionary: wrong, headCount: 4) }
    wrong = state
    wrong["q_norm.weight"] = try Tensor(repeating: 1, shape: [8])
    #expect(throws: AttentionError.self) { try Layer(stateDictionary: wrong, headCount: 4) }
    let keras = try make { _ in }.stateDictionary(naming: .keras)
    #expect(throws: AttentionError.self) { try Layer(stateDictionary: keras, headCount: 2) }
    for (name, shape) in [("query/bias", [32]), ("query/bias", [8, 4]), ("attention_output/bias", [1, 24])] {
      var wrong = keras
      wrong[name] = try Tensor(repeating: 0, shape: shape)
      #expect(throws: AttentionError.self, "\(name) \(shape)") { try Layer(stateDictionary: wrong, headCount: 4) }
    }
    // Caches with another number of heads, another head dimension, and another batch.
    let layer = try make { _ in }
    let x = try Tensor<Float>(repeating: 0, shape: [1, 2, 24])
    for cache in [
      try KeyValueCache<Float>(batchCount: 1, headCount: 2, headDimension: 8),
      try KeyValueCache<Float>(batchCount: 1, headCount: 4, headDimension: 6),
      try KeyValueCache<Float>(batchCount: 2, headCount: 4, headDimension: 8),
    ] {
      #expect(throws: AttentionError.self) { try layer.forward(x, cache: cache) }
      #expect(cache.lengths.allSatisfy { $0 == 0 })
    }
  }
}
