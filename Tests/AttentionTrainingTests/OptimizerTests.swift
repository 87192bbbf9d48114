import Attention
import AttentionTestSupport
import AttentionTraining
import Testing

@Suite("Optimizers")
struct OptimizerTests {
  private func layer(seed: UInt64) throws -> Linear<Float> {
    try Linear(
      weight: Tensor(uniform: -1..<1, shape: [5, 3], seed: seed),
      bias: Tensor(uniform: -1..<1, shape: [5], seed: seed + 1))
  }

  private func gradients(step: Int) throws -> ParameterGradients<Float> {
    var gradients = ParameterGradients<Float>()
    try gradients.add(Tensor(uniform: -1..<1, shape: [5, 3], seed: UInt64(100 + step)), to: "weight")
    try gradients.add(Tensor(uniform: -1..<1, shape: [5], seed: UInt64(200 + step)), to: "bias")
    return gradients
  }

  @Test("AdamW agrees with its formulas in Double, with decay of weights only")
  func adamW() throws {
    var layer = try layer(seed: 1)
    var optimizer = try AdamW<Float>(
      learningRate: 0.02, betas: (0.8, 0.95), epsilon: 1e-6, weightDecay: 0.3, decays: WeightDecay.exceptBiasesAndNorms)
    for (name, decay) in [("weight", 0.3), ("bias", 0.0)] {
      var layer = layer
      var p = try #require(try layer.parameters().first { $0.name == name }).value.array.map { Double($0) }
      var (m, v) = ([Double](repeating: 0, count: p.count), [Double](repeating: 0, count: p.count))
      var optimizer = optimizer
      for step in 0..<6 {
        let gradients = try gradients(step: step)
        optimizer.learningRate = 0.02 + 0.01 * Double(step)
        try optimizer.step(&layer, gradients)
        let (t, rate) = (Double(step + 1), optimizer.learningRate)
        for (i, g) in gradients[name]!.array.map({ Double($0) }).enumerated() {
          p[i] *= 1 - rate * decay
          m[i] = 0.8 * m[i] + 0.2 * g
          v[i] = 0.95 * v[i] + 0.05 * g * g
          let (first, second) = (1 - 0.8.power(t), 1 - 0.95.power(t))
          p[i] -= rate / first * m[i] / (v[i].squareRoot() / second.squareRoot() + 1e-6)
        }
        let got = try #require(try layer.parameters().first { $0.name == name }).value.array
        #expect(mismatch(got, p, tolerance: 2e-6, "\(name), step \(step)") == nil)
      }
    }
    _ = try optimizer.step(&layer, gradients(step: 0))
  }

  @Test("SGD agrees with its formulas in Double", arguments: [(0.0, false), (0.9, false), (0.9, true)])
  func sgd(momentum: Double, isNesterov: Bool) throws {
    var layer = try layer(seed: 1)
    var optimizer = try SGD<Float>(learningRate: 0.1, momentum: momentum, isNesterov: isNesterov, weightDecay: 0.2)
    var p = layer.weight.array.map { Double($0) }
    var v = [Double](repeating: 0, count: p.count)
    for step in 0..<5 {
      let gradients = try gradients(step: step)
      try optimizer.step(&layer, gradients)
      for (i, own) in gradients["weight"]!.array.enumerated() {
        let g = Double(own) + 0.2 * p[i]
        v[i] = momentum * v[i] + g
        p[i] -= 0.1 * (isNesterov ? g + momentum * v[i] : v[i])
      }
      #expect(mismatch(layer.weight.array, p, tolerance: 1e-6) == nil)
    }
    #expect(
      optimizer.stateDictionary.keys.sorted()
        == (momentum == 0 ? [] : ["momentum_buffer.bias", "momentum_buffer.weight"]))
  }

  @Test("an optimizer that goes on with a stored state computes the same bits")
  func resumed() throws {
    func run<Choice: Optimizer<Float>>(_ make: () throws -> Choice) throws {
      var (whole, layer) = (try make(), try layer(seed: 1))
      for step in 0..<8 { try whole.step(&layer, gradients(step: step)) }
      var (first, second, stopped) = (try make(), try make(), try self.layer(seed: 1))
      for step in 0..<3 { try first.step(&stopped, gradients(step: step)) }
      try second.load(first.stateDictionary)
      for step in 3..<8 { try second.step(&stopped, gradients(step: step)) }
      for (a, b) in zip(try layer.parameters(), try stopped.parameters()) {
        #expect(sameBits(a.value.array, b.value.array))
      }
    }
    try run { try AdamW<Float>(learningRate: 0.01) }
    try run { try SGD<Float>(learningRate: 0.01, momentum: 0.9) }
  }

  @Test("any number of threads gives the same bits")
  func threads() throws {
    func trained(_ threadCount: Int) throws -> [Float] {
      var layer = try Linear<Float>(weight: Tensor(uniform: -1..<1, shape: [300, 700], seed: 1))
      var optimizer = try AdamW<Float>()
      var gradients = ParameterGradients<Float>()
      try gradients.add(Tensor(uniform: -1..<1, shape: [300, 700], seed: 2), to: "weight")
      let context = AttentionContext(threadCount: threadCount)
      for _ in 0..<3 {
        try gradients.clip(toNorm: 1, context: context)
        try optimizer.step(&layer, gradients, context: context)
      }
      return layer.weight.array
    }
    let expected = try trained(1)
    for threadCount in [2, 16] { #expect(sameBits(try trained(threadCount), expected)) }
  }

  @Test("names, shapes and states that do not fit are refused, and nothing changes")
  func refusals() throws {
    func expectRefusal(_ text: String, _ body: () throws -> Void) {
      let error = #expect(throws: AttentionError.self) { try body() }
      #expect(error?.description.contains(text) == true, "\(error?.description ?? "none")")
    }
    var layer = try layer(seed: 1)
    let before = layer.weight
    var optimizer = try AdamW<Float>()
    var strange = try gradients(step: 0)
    try strange.add(Tensor(repeating: 1, shape: [2]), to: "wieght")
    expectRefusal("no parameter \"wieght\"") { try optimizer.step(&layer, strange) }
    var wrong = ParameterGradients<Float>()
    try wrong.add(Tensor(repeating: 1, shape: [3, 5]), to: "weight")
    expectRefusal("a gradient of weight of shape [5, 3] expected; got [3, 5]") { try optimizer.step(&layer, wrong) }
    #expect(layer.weight == before)
    expectRefusal("step.weight") { try optimizer.load(["step.weight": Tensor(repeating: 1, shape: [])]) }
    expectRefusal("exp_avg") { try optimizer.load(["weight": Tensor(repeating: 1, shape: [])]) }
    var stateful = try SGD<Float>(learningRate: 1, momentum: 0.5)
    expectRefusal("momentum_buffer.NAME expected; got weight") {
      try stateful.load(["weight": Tensor(repeating: 1, shape: [])])
    }
    try stateful.load(["momentum_buffer.weight": Tensor(repeating: 1, shape: [2])])
    expectRefusal("a state of weight of shape [5, 3] expected; got [2]") {
      try stateful.step(&layer, gradients(step: 0))
    }
    expectRefusal("betas from 0 to less than 1") { _ = try AdamW<Float>(betas: (1, 0.5)) }
    expectRefusal("a momentum from 0 to less than 1") { _ = try SGD<Float>(learningRate: 1, momentum: -1) }
  }

  @Test("gradients are clipped to a norm, and gradients that are not finite are refused")
  func clipping() throws {
    var gradients = ParameterGradients<Float>()
    try gradients.add([3, 0], to: "a")
    try gradients.add([[4]], to: "b")
    #expect(try gradients.clip(toNorm: 10) == 5)
    #expect(gradients["a"]!.array == [3, 0])
    #expect(try gradients.clip(toNorm: 1) == 5)
    #expect(mismatch(gradients["a"]!.array + gradients["b"]!.array, [0.6, 0, 0.8], tolerance: 1e-6) == nil)
    try gradients.add(Tensor(repeating: .nan, shape: [1, 1]), to: "b")
    let error = #expect(throws: AttentionError.self) { try gradients.clip(toNorm: 1) }
    #expect(error?.code == .notFinite && error?.description.contains("that of b is not") == true)
    #expect(throws: AttentionError.self) { try gradients.clip(toNorm: 0) }
  }

  @Test("a schedule grows, falls, and ends at 0")
  func schedule() {
    func rates(_ shape: LearningRateSchedule.Shape) -> [Double] {
      let schedule = LearningRateSchedule(peak: 2, stepCount: 10, warmUpStepCount: 4, shape: shape)
      return (0...11).map { schedule($0) }
    }
    let rise = [0, 0.5, 1, 1.5]
    #expect(rates(.constant) == rise + [Double](repeating: 2, count: 8))
    #expect(
      mismatch(rates(.linear), rise + [2, 10 / 6.0, 8 / 6.0, 1, 4 / 6.0, 2 / 6.0, 0, 0], tolerance: 1e-12) == nil)
    let half = 3.0.squareRoot() / 2
    #expect(mismatch(rates(.cosine), rise + [2, 1 + half, 1.5, 1, 0.5, 1 - half, 0, 0], tolerance: 1e-12) == nil)
    #expect(LearningRateSchedule(peak: 1, stepCount: 0)(0) == 1)
  }
}
