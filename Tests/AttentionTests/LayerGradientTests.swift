import Attention
import AttentionProblems
import AttentionTensors
import AttentionTestSupport
import Testing

@Suite("Gradients of layers")
struct LayerGradientTests {
  private func inputs<Element: AttentionElement>(
    _ scenario: LayerScenario, _: Element.Type
  ) throws -> [Tensor<Element>] {
    try scenario.inputShapes.enumerated().map {
      try Tensor(converting: Tensor<Float>(uniform: -1..<1, shape: $1, seed: UInt64(100 + $0)))
    }
  }

  /// The gradient of the loss with respect to the output. The loss is the sum of the output's elements, each multiplied
  /// by an element of this tensor.
  private func outputGradient<Element: AttentionElement>(_ value: Tensor<Element>) throws -> Tensor<Element> {
    try Tensor(converting: Tensor<Float>(uniform: -1..<1, shape: value.shape, seed: 99))
  }

  /// The loss in Double, from a call without a backward pass.
  private func loss(
    _ scenario: LayerScenario, _ layer: any TrainableLayer<Double>, _ inputs: [Tensor<Double>]
  ) throws -> Double {
    let value = try scenario.value(layer, inputs, AttentionContext(threadCount: 1))
    return zip(value.array, try outputGradient(value).array).reduce(0) { $0 + $1.0 * $1.1 }
  }

  /// The central difference (loss(step) − loss(−step)) / (2 · step). Its error is some 1e-9 for the layers here.
  private func centralDifference(_ loss: (Double) throws -> Double) rethrows -> Double {
    let step = 1e-5
    return try (loss(step) - loss(-step)) / (2 * step)
  }

  private func adding(_ step: Double, to index: Int, of tensor: Tensor<Double>) throws -> Tensor<Double> {
    var elements = tensor.array
    elements[index] += step
    return try Tensor(elements, shape: tensor.shape)
  }

  @Test(
    "gradients of inputs and parameters agree with central differences in Double",
    arguments: LayerScenario.everyScenario)
  func centralDifferences(scenario: LayerScenario) throws {
    let layer = try scenario.layer(Double.self)
    let inputs = try inputs(scenario, Double.self)
    var gradients = ParameterGradients<Double>()
    let inputGradients = try scenario.gradients(
      layer, inputs, AttentionContext(), adding: &gradients, prefix: "a.", outputGradient)
    func loss(_ layer: any TrainableLayer<Double>, _ inputs: [Tensor<Double>]) throws -> Double {
      try self.loss(scenario, layer, inputs)
    }
    var generator = TestGenerator(seed: 7)
    func check(_ name: String, _ gradient: Tensor<Double>, _ loss: (_ index: Int, _ step: Double) throws -> Double)
      throws
    {
      let values = gradient.array
      for _ in 0..<min(12, values.count) {
        let index = Int.random(in: 0..<values.count, using: &generator)
        let expected = try centralDifference { try loss(index, $0) }
        let error = abs(values[index] - expected)
        #expect(error <= 2e-7 * max(1, abs(expected)), "\(name)[\(index)]: expected \(expected), got \(values[index])")
      }
    }
    for (number, gradient) in inputGradients.enumerated() {
      #expect(gradient.shape == scenario.inputShapes[number])
      try check("input \(number)", gradient) { index, step in
        var changed = inputs
        changed[number] = try adding(step, to: index, of: inputs[number])
        return try loss(layer, changed)
      }
    }
    let parameters = try layer.parameters(prefix: "a.")
    #expect(Set(parameters.map(\.name)) == Set(gradients.names))
    for (name, value) in parameters {
      let gradient = try #require(gradients[name])
      #expect(gradient.shape == value.shape, "\(name)")
      try check(name, gradient) { index, step in
        var changed = layer
        try changed.forEachParameter(prefix: "a.") {
          if $0 == name { $1 = try adding(step, to: index, of: $1) }
        }
        return try loss(changed, inputs)
      }
    }
  }

  @Test(
    "the value is that of the usual call, and every path gives the same gradients within rounding, in either type",
    arguments: LayerScenario.everyScenario)
  func everyPath(scenario: LayerScenario) throws {
    let inputs = try inputs(scenario, Double.self)
    var layer = try scenario.layer(Double.self)
    // Numbers that Float represents exactly.
    try layer.forEachParameter(prefix: "") { $1 = try Tensor(converting: Tensor<Float>(converting: $1)) }
    var exact = ParameterGradients<Double>()
    let exactInputs = try scenario.gradients(layer, inputs, AttentionContext(), adding: &exact, outputGradient)
    func check<Element: AttentionElement>(_: Element.Type) throws {
      var own = try scenario.layer(Element.self)
      try own.load(
        Dictionary(uniqueKeysWithValues: layer.parameters().map { ($0.name, try Tensor(converting: $0.value)) }))
      let ownInputs = try inputs.map { try Tensor<Element>(converting: $0) }
      for context in AttentionContext.everyPath {
        var gradients = ParameterGradients<Element>()
        let inputGradients = try scenario.gradients(own, ownInputs, context, adding: &gradients) { value in
          let usual = try scenario.value(own, ownInputs, context)
          let bound = 64 * Double(Element.ulpOfOne) * (usual.array.map { abs(Double($0)) }.max() ?? 0)
          #expect(mismatch(value.array, usual.array.map { Double($0) }, tolerance: bound, context.path) == nil)
          return try outputGradient(value)
        }
        func compare(_ name: String, _ got: Tensor<Element>, _ expected: Tensor<Double>) {
          let size = expected.array.map(abs).max() ?? 0
          let bound = 600 * Double(Element.ulpOfOne) * max(size, 1)
          #expect(
            mismatch(got.array, expected.array, tolerance: bound, "\(name) \(Element.self) \(context.path)") == nil)
        }
        for (number, pair) in zip(inputGradients, exactInputs).enumerated() {
          compare("input \(number)", pair.0, pair.1)
        }
        #expect(gradients.names == exact.names)
        for name in exact.names { compare(name, gradients[name]!, exact[name]!) }
      }
    }
    try check(Float.self)
    try check(Double.self)
  }

  @Test("any number of threads gives the same bits", arguments: LayerScenario.everyScenario)
  func threads(scenario: LayerScenario) throws {
    let layer = try scenario.layer(Float.self)
    let inputs = try inputs(scenario, Float.self)
    var results: [[String: [Float]]] = []
    for threadCount in [1, 2, 16] {
      var gradients = ParameterGradients<Float>()
      let inputGradients = try scenario.gradients(
        layer, inputs, AttentionContext(threadCount: threadCount), adding: &gradients, outputGradient)
      var result = gradients.tensors.mapValues(\.array)
      for (number, gradient) in inputGradients.enumerated() { result["input \(number)"] = gradient.array }
      results.append(result)
    }
    for result in results.dropFirst() {
      for (name, values) in results[0] { #expect(sameBits(values, result[name]!), "\(name)") }
    }
  }

  @Test("gradients of the parts of a batch add up, and reset forgets them")
  func accumulation() throws {
    let layer = try Linear(
      weight: Tensor<Float>(uniform: -1..<1, shape: [5, 4], seed: 1), bias: Tensor(repeating: 0, shape: [5]))
    let parts = try (0..<3).map { try Tensor<Float>(uniform: -1..<1, shape: [6, 4], seed: 10 + $0) }
    let ones = try Tensor<Float>(repeating: 1, shape: [6, 5])
    var gradients = ParameterGradients<Float>()
    for _ in 0..<2 {
      gradients.reset()
      #expect(gradients.names.isEmpty && gradients["weight"] == nil && gradients.tensors.isEmpty)
      for part in parts { try layer.valueWithPullback(part).pullback(ones, adding: &gradients) }
      #expect(gradients["bias"]!.array == [Float](repeating: 18, count: 5))
      let expected = (0..<4).map { column in
        parts.reduce(0.0) { sum, part in (0..<6).reduce(sum) { $0 + Double(part[$1, column]) } }
      }
      let weight = gradients["weight"]!
      for row in 0..<5 {
        #expect(mismatch((0..<4).map { weight[row, $0] }, expected, tolerance: 1e-5) == nil)
      }
    }
    try gradients.scale(by: 0.5)
    #expect(gradients["bias"]!.array == [Float](repeating: 9, count: 5))
    let squares = gradients.tensors.values.flatMap(\.array).reduce(0.0) { $0 + Double($1) * Double($1) }
    #expect(abs(try gradients.norm() - squares.squareRoot()) <= 1e-12 * squares.squareRoot())
  }

  @Test("gradients that are not wanted are left out")
  func wanted() throws {
    let scenario = LayerScenario.encoderBlock(.after, isRootMeanSquare: false, recomputes: false)
    var gradients = ParameterGradients<Double> { $0.hasSuffix("norm1.weight") }
    _ = try scenario.gradients(
      scenario.layer(Double.self), inputs(scenario, Double.self), AttentionContext(), adding: &gradients, outputGradient
    )
    #expect(gradients.names == ["norm1.weight"])
  }

  @Test("packing a block packs the weights that its calls read, and no others")
  func packing() throws {
    let scenario = LayerScenario.decoderBlock(.after)
    let inputs = try inputs(scenario, Float.self)
    for context in AttentionContext.everyPath where context.resolvedAlgorithm != .openBLAS {
      let block = try scenario.layer(Float.self) as! TransformerBlock<Float>
      let instructionSet = try context.resolvedInstructionSet()
      func counts() -> [Int] {
        [block.selfAttention, block.crossAttention!].map { $0.packedCount(for: instructionSet) }
      }
      try block.pack(context: context)
      // Self-attention has one product for its inputs, cross-attention two, and both one for the output.
      #expect(counts() == [2, 3], "\(context.path)")
      _ = try block(inputs[0], memory: inputs[1], context: context)
      #expect(counts() == [2, 3], "\(context.path)")
    }
  }

  @Test("changed parameters take effect, though weights were packed before")
  func repacking() throws {
    for scenario in LayerScenario.everyScenario {
      var layer = try scenario.layer(Float.self)
      let inputs = try inputs(scenario, Float.self)
      let before = try scenario.value(layer, inputs, AttentionContext())
      let other = layer
      try layer.forEachParameter(prefix: "") { _, value in
        try value.withMutableView { view in
          let zeros = try Tensor<Float>(repeating: 0, shape: view.shape)
          try view.copy(from: zeros)
        }
      }
      let after = try scenario.value(layer, inputs, AttentionContext())
      #expect(after != before, "\(scenario.testDescription)")
      #expect(
        try scenario.value(other, inputs, AttentionContext()) == before, "\(scenario.testDescription): a copy changed")
    }
  }

  @Test("an embedding adds up the gradients of equal tokens")
  func embedding() throws {
    let table = try Embedding(weight: Tensor<Double>(uniform: -1..<1, shape: [7, 130], seed: 1))
    let tokens: Tensor<Int32> = [[2, 0, 2], [6, 2, 0]]
    let (value, pullback) = try table.valueWithPullback(tokens)
    #expect(value.shape == [2, 3, 130] && value[1, 0, 5] == table.weight[6, 5])
    #expect(try table(tokens) == value)
    let outputGradient = try Tensor<Double>(uniform: -1..<1, shape: [2, 3, 130], seed: 2)
    var gradients = ParameterGradients<Double>()
    for factor in 1...2 {
      try pullback(outputGradient, adding: &gradients)
      let gradient = gradients["weight"]!
      for row in 0..<7 {
        for column in 0..<130 {
          let places = (0..<6).filter { tokens[$0 / 3, $0 % 3] == Int32(row) }
          let sum = places.reduce(0) { $0 + outputGradient[$1 / 3, $1 % 3, column] }
          #expect(abs(gradient[row, column] - Double(factor) * sum) < 1e-12)
        }
      }
    }
    let refusal = #expect(throws: AttentionError.self) { try table([[7]]) }
    #expect(refusal?.description.contains("tokens from 0 to 6 expected; got 7") == true)
    #expect(throws: AttentionError.self) { try table([[-1]]) }
  }

  @Test("gradients and parameters of a wrong shape are refused, and the message names both shapes")
  func refusals() throws {
    let scenario = LayerScenario.decoderBlock(.after)
    let block = try scenario.layer(Float.self) as! TransformerBlock<Float>
    let inputs = try inputs(scenario, Float.self)
    func expectRefusal(_ text: String, _ body: () throws -> Void) {
      let error = #expect(throws: AttentionError.self) { try body() }
      #expect(error?.description.contains(text) == true, "\(error?.description ?? "none")")
    }
    var gradients = ParameterGradients<Float>()
    let (value, pullback) = try block.valueWithPullback(inputs[0], memory: inputs[1])
    expectRefusal("a gradient of the output's shape [2, 5, 12] expected; got [2, 12, 5]") {
      _ = try pullback(value.transposed(), adding: &gradients)
    }
    expectRefusal("no memory expected") {
      _ = try LayerScenario.encoderBlock(.after, isRootMeanSquare: false, recomputes: false).layer(Float.self).asBlock(
        inputs[0], memory: inputs[1])
    }
    expectRefusal("a memory for cross-attention expected") { _ = try block(inputs[0]) }
    expectRefusal("a memory for cross-attention expected") { _ = try block.valueWithPullback(inputs[0]) }
    try gradients.add(Tensor(repeating: 1, shape: [3]), to: "x")
    expectRefusal("a gradient x of shape [3] expected; got [4]") {
      try gradients.add(Tensor(repeating: 1, shape: [4]), to: "x")
    }
    var changed = block
    expectRefusal("norm2.weight of shape [12] expected after the change; got [11]") {
      try changed.forEachParameter(prefix: "") {
        if $0 == "norm2.weight" { $1 = try Tensor(repeating: 1, shape: [11]) }
      }
    }
    // The layer can still be called: the parameter has its shape again, and is NaN.
    #expect(try changed(inputs[0], memory: inputs[1]).array.allSatisfy(\.isNaN))
    expectRefusal("no tensor \"a.self_attn.in_proj_weight\"") { try changed.load([:], prefix: "a.") }
    let layer = try MultiHeadAttention<Float>(
      configuration: .init(embeddingDimension: 12, headCount: 3, addsBiasKeyValue: true), seed: 1)
    expectRefusal("no keys of the layer's own expected") {
      _ = try layer.valueWithPullback(query: inputs[0], key: inputs[0], value: inputs[0], returning: .biases)
    }
  }

  @Test("a block with PyTorch's names reads the parameters that another block gives")
  func stateDictionary() throws {
    let scenario = LayerScenario.decoderBlock(.before)
    let block = try scenario.layer(Double.self)
    let inputs = try inputs(scenario, Double.self)
    let tensors = Dictionary(uniqueKeysWithValues: try block.parameters(prefix: "decoder.").map { ($0.name, $0.value) })
    let read = try TransformerBlock(
      stateDictionary: tensors, prefix: "decoder.", headCount: 3, activation: .gelu, normPlacement: .before,
      normEpsilon: 1e-3)
    #expect(try scenario.value(read, inputs, AttentionContext()) == scenario.value(block, inputs, AttentionContext()))
  }

  @Test("packed sequences have the outputs that they have alone", arguments: [true, false])
  func packedBlock(isCausal: Bool) throws {
    let scenario = LayerScenario.encoderBlock(.after, isRootMeanSquare: false, recomputes: false)
    let block = try scenario.layer(Float.self) as! TransformerBlock<Float>
    let lengths = [3, 5, 5, 1]
    let x = try Tensor<Float>(uniform: -1..<1, shape: [14, 12], seed: 3)
    let context = AttentionContext(algorithm: .packed)
    let y = try block.forward(packed: x, lengths: lengths, isCausal: isCausal, context: context)
    var row = 0
    for length in lengths {
      let own = try block(x.slice(row..<row + length, axis: 0), mask: isCausal ? .causal : .none, context: context)
      #expect(try y.slice(row..<row + length, axis: 0) == own)
      row += length
    }
  }

  @Test("the gradients of a mask's bias and slopes come with those of the inputs")
  func maskGradients() throws {
    let layer = try MultiHeadAttention<Double>(embeddingDimension: 12, headCount: 3, seed: 1)
    let x = try Tensor<Double>(uniform: -1..<1, shape: [2, 5, 12], seed: 2)
    let bias = try Tensor<Double>(uniform: -1..<1, shape: [3, 5, 5], seed: 3)
    func mask(_ bias: Tensor<Double>) throws -> AttentionMask {
      .alibi(headCount: 3).combined(with: .bias(bias))
    }
    let (value, pullback) = try layer.valueWithPullback(
      query: x, key: x, value: x, mask: mask(bias), returning: [.biases, .alibiSlopes])
    let outputGradient = try self.outputGradient(value)
    var gradients = ParameterGradients<Double>()
    let inputs = try pullback(outputGradient, adding: &gradients)
    #expect(try inputs.alibiSlopes.map(\.shape) == [[3]])
    let gradient = try inputs.biases[0].array
    for index in stride(from: 0, to: 75, by: 7) {
      let expected = try centralDifference { step in
        let value = try layer(x, mask: mask(adding(step, to: index, of: bias)))
        return zip(value.array, outputGradient.array).reduce(0) { $0 + $1.0 * $1.1 }
      }
      #expect(abs(gradient[index] - expected) < 1e-7)
    }
  }

  @Test("dropout is the same in the forward and in the backward pass")
  func dropout() throws {
    let block =
      try LayerScenario.encoderBlock(.after, isRootMeanSquare: false, recomputes: true).layer(Double.self)
      as! TransformerBlock<Double>
    let x = try Tensor<Double>(uniform: -1..<1, shape: [2, 9, 12], seed: 2)
    let dropout = AttentionDropout(probability: 0.4, seed: 11)
    func loss(_ x: Tensor<Double>) throws -> (loss: Double, pullback: Pullback<Double, Tensor<Double>>, Tensor<Double>)
    {
      let (value, pullback) = try block.valueWithPullback(x, dropout: dropout, recomputes: true)
      let outputGradient = try self.outputGradient(value)
      return (zip(value.array, outputGradient.array).reduce(0) { $0 + $1.0 * $1.1 }, pullback, outputGradient)
    }
    let (_, pullback, outputGradient) = try loss(x)
    var gradients = ParameterGradients<Double>()
    let gradient = try pullback(outputGradient, adding: &gradients).array
    for index in stride(from: 0, to: x.count, by: 19) {
      let expected = try centralDifference { try loss(adding($0, to: index, of: x)).loss }
      #expect(abs(gradient[index] - expected) < 2e-7)
    }
  }
}

extension TrainableLayer<Float> {
  fileprivate func asBlock(_ x: Tensor<Float>, memory: Tensor<Float>) throws -> Tensor<Float> {
    try (self as! TransformerBlock<Float>)(x, memory: memory)
  }
}
