import Attention
import AttentionFiles
import AttentionTestSupport
import AttentionTraining
import Foundation
import Testing

@Suite("Training beside PyTorch")
struct TrainingRunTests {
  /// The model of Tests/Fixtures/training/make.py.
  private struct Model: TrainableLayer {
    var embedding: Embedding<Float>
    var layers: [TransformerBlock<Float>]
    var norm: LayerNorm<Float>
    var head: Linear<Float>

    init(_ tensors: [String: Tensor<Float>]) throws {
      embedding = try Embedding(weight: tensors["embedding.weight"]!)
      layers = [
        try TransformerBlock(
          stateDictionary: tensors, prefix: "layers.0.", headCount: 4, activation: .relu, normPlacement: .after),
        try TransformerBlock(
          stateDictionary: tensors, prefix: "layers.1.", headCount: 4, activation: .gelu, normPlacement: .before),
      ]
      norm = try LayerNorm(weight: tensors["norm.weight"]!, bias: tensors["norm.bias"])
      head = try Linear(weight: tensors["head.weight"]!, bias: tensors["head.bias"])
    }

    mutating func forEachParameter(prefix: String, _ body: (String, inout Tensor<Float>) throws -> Void) throws {
      try embedding.forEachParameter(prefix: prefix + "embedding.", body)
      for index in layers.indices { try layers[index].forEachParameter(prefix: prefix + "layers.\(index).", body) }
      try norm.forEachParameter(prefix: prefix + "norm.", body)
      try head.forEachParameter(prefix: prefix + "head.", body)
    }

    func valueWithPullback(
      _ tokens: Tensor<Int32>, recomputes: Bool, _ context: AttentionContext
    ) throws -> (value: Tensor<Float>, pullback: Pullback<Float, Void>) {
      let (embedded, embeddingPullback) = try embedding.valueWithPullback(tokens, context: context)
      var x = embedded
      var pullbacks: [Pullback<Float, Tensor<Float>>] = []
      for layer in layers {
        let call = try layer.valueWithPullback(x, mask: .causal, recomputes: recomputes, context: context)
        x = call.value
        pullbacks.append(call.pullback)
      }
      let (normalized, normPullback) = try norm.valueWithPullback(x, context: context)
      let (value, headPullback) = try head.valueWithPullback(normalized, context: context)
      let pullback = Pullback<Float, Void>(outputShape: value.shape) {
        [pullbacks] outputGradient, gradients, prefix in
        var gradient = try headPullback(outputGradient, adding: &gradients, prefix: prefix + "head.")
        gradient = try normPullback(gradient, adding: &gradients, prefix: prefix + "norm.")
        for (index, pullback) in pullbacks.enumerated().reversed() {
          gradient = try pullback(gradient, adding: &gradients, prefix: prefix + "layers.\(index).")
        }
        try embeddingPullback(gradient, adding: &gradients, prefix: prefix + "embedding.")
      }
      return (value, pullback)
    }
  }

  private struct Fixture {
    let weights: [String: Tensor<Float>]
    let tokens: Tensor<Int32>
    let losses: (adamW: [Double], sgd: [Double])

    init() throws {
      let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      let file = try SafeTensorsFile(contentsOf: folder.path + "/Fixtures/training/run.safetensors")
      weights = Dictionary(
        uniqueKeysWithValues: try file.entries.filter { $0.dataType == .float32 }.map {
          ($0.name, try file.tensor($0.name, as: Float.self))
        })
      tokens = try file.tensor("tokens", as: Int32.self)
      losses = (
        try file.tensor("losses.adamw", as: Double.self).array, try file.tensor("losses.sgd", as: Double.self).array
      )
    }
  }

  /// The losses of 50 steps. If `isSplit` is true, each batch is computed in two parts, and their gradients are
  /// averaged.
  private func train<Choice: Optimizer<Float>>(
    _ fixture: Fixture, _ model: inout Model, _ optimizer: Choice, isSplit: Bool = false, recomputes: Bool = false,
    context: AttentionContext = .default, rate: (Int) -> Double
  ) throws -> [Double] {
    var optimizer = optimizer
    var gradients = ParameterGradients<Float>()
    return try (0..<50).map { step in
      gradients.reset()
      let batch = try fixture.tokens.select(step, axis: 0)
      var loss = 0.0
      let parts = isSplit ? [0..<2, 2..<4] : [0..<4]
      for part in parts {
        let own = try batch.slice(part, axis: 0)
        let inputs = try own.slice(0..<12, axis: 1)
        var targets = try own.slice(1..<13, axis: 1).contiguous()
        for row in 0..<part.count { targets[row, 0] = -100 }
        let (logits, pullback) = try model.valueWithPullback(inputs, recomputes: recomputes, context)
        let result = try crossEntropy(logits, targets: targets, context: context)
        loss += result.value / Double(parts.count)
        try pullback(result.gradient, adding: &gradients)
      }
      if isSplit { try gradients.scale(by: 0.5) }
      try gradients.clip(toNorm: 0.5, context: context)
      optimizer.learningRate = rate(step)
      try optimizer.step(&model, gradients, context: context)
      return loss
    }
  }

  private func check(_ losses: [Double], _ expected: [Double]) {
    let worst = zip(losses, expected).map { abs($0 - $1) / $1 }.max()!
    #expect(losses.count == 50 && worst <= 1e-4, "largest relative difference: \(worst)")
    #expect(expected.last! < 0.8 * expected[0])
  }

  private let schedule = LearningRateSchedule(peak: 1e-2, stepCount: 50, warmUpStepCount: 5, shape: .cosine)

  @Test(
    "50 steps have PyTorch's losses within 1e-4, also in parts of batches and with recomputation",
    arguments: [(false, false), (true, false), (false, true)])
  func adamW(isSplit: Bool, recomputes: Bool) throws {
    let fixture = try Fixture()
    var model = try Model(fixture.weights)
    let losses = try train(
      fixture, &model, AdamW<Float>(weightDecay: 0.1), isSplit: isSplit, recomputes: recomputes, rate: { schedule($0) })
    check(losses, fixture.losses.adamW)
    for (name, value) in try model.parameters() {
      let expected = fixture.weights["trained." + name]!.array.map { Double($0) }
      // The biases of keys, elements 16 to 31 of in_proj_bias, are left out. Their gradient is 0, because a softmax
      // does not change when all scores of a query change by the same number. Adam divides a gradient by the root of
      // its mean square, so it makes steps of full size from the rounding errors there.
      let indices = value.array.indices.filter { !(name.hasSuffix("in_proj_bias") && (16..<32).contains($0)) }
      let difference = mismatch(indices.map { value.array[$0] }, indices.map { expected[$0] }, tolerance: 2e-3, name)
      #expect(difference == nil)
    }
  }

  @Test("50 steps of SGD with Nesterov's momentum have PyTorch's losses within 1e-4")
  func sgd() throws {
    let fixture = try Fixture()
    var model = try Model(fixture.weights)
    let optimizer = try SGD<Float>(learningRate: 0.1, momentum: 0.9, isNesterov: true, weightDecay: 1e-3)
    check(try train(fixture, &model, optimizer, rate: { _ in 0.1 }), fixture.losses.sgd)
  }

  @Test("a whole run has the same bits with any number of threads, and with recomputation")
  func threadsAndRecomputation() throws {
    let fixture = try Fixture()
    var runs: [[Double]] = []
    for (threadCount, recomputes) in [(1, false), (2, false), (16, false), (2, true)] {
      var model = try Model(fixture.weights)
      runs.append(
        try train(
          fixture, &model, AdamW<Float>(), recomputes: recomputes, context: AttentionContext(threadCount: threadCount),
          rate: { schedule($0) }))
    }
    for run in runs.dropFirst() { #expect(sameBits(run, runs[0])) }
  }
}
