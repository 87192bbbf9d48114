import Attention
import AttentionTestSupport
import AttentionTraining
import Testing

@Suite("Documentation: training")
struct TrainingArticleTests {
  private struct Model: TrainableLayer {
    var block: TransformerBlock<Float>
    var head: Linear<Float>

    mutating func forEachParameter(prefix: String, _ body: (String, inout Tensor<Float>) throws -> Void) throws {
      try block.forEachParameter(prefix: prefix + "block.", body)
      try head.forEachParameter(prefix: prefix + "head.", body)
    }
  }

  private func makeModel() throws -> Model {
    func ones(_ count: Int) throws -> Tensor<Float> { try Tensor(repeating: 1, shape: [count]) }
    func random(_ shape: [Int], _ seed: UInt64) throws -> Tensor<Float> {
      try Tensor(initializer: .xavierUniform(), shape: shape, seed: seed)
    }
    return Model(
      block: try TransformerBlock(
        selfAttention: MultiHeadAttention(embeddingDimension: 16, headCount: 2, seed: 1),
        feedForward: FeedForward(
          up: Linear(weight: random([64, 16], 2), activation: .gelu), down: Linear(weight: random([16, 64], 3))),
        norms: [.rootMeanSquare(RMSNorm(weight: ones(16))), .rootMeanSquare(RMSNorm(weight: ones(16)))],
        normPlacement: .before),
      head: try Linear(weight: random([5, 16], 4), bias: Tensor(repeating: 0, shape: [5])))
  }

  @Test("the steps of the article make the loss smaller")
  func article() throws {
    var model = try makeModel()
    var optimizer = try AdamW<Float>(learningRate: 1e-2)
    var gradients = ParameterGradients<Float>()
    let x = try Tensor<Float>(uniform: -1..<1, shape: [2, 7, 16], seed: 5)
    let targets: Tensor<Int32> = [[0, 1, 2, 3, 4, 0, 1], [4, 3, 2, 1, 0, 4, 3]]
    var losses: [Double] = []
    for _ in 0..<20 {
      let (block, head) = (model.block, model.head)
      // One step: forward, loss, backward, update.
      gradients.reset()
      let (hidden, blockPullback) = try block.valueWithPullback(x, mask: .causal)
      let (logits, headPullback) = try head.valueWithPullback(hidden)
      let loss = try crossEntropy(logits, targets: targets)
      let hiddenGradient = try headPullback(loss.gradient, adding: &gradients, prefix: "head.")
      try blockPullback(hiddenGradient, adding: &gradients, prefix: "block.")
      try gradients.clip(toNorm: 1)
      try optimizer.step(&model, gradients)
      losses.append(loss.value)
    }
    #expect(losses.last! < 0.5 * losses[0])
    #expect(
      gradients.names.contains("block.self_attn.in_proj_weight") && gradients.names.contains("block.linear1.weight"))

    // Only the head is trained; the products of the other gradients are left out.
    var headOnly = ParameterGradients<Float> { $0.hasPrefix("head.") }
    let block = model.block
    let (again, pullback) = try block.valueWithPullback(x, mask: .causal, recomputes: true)
    try pullback(again, adding: &headOnly, prefix: "block.")
    #expect(headOnly.names.isEmpty)

    let head = model.head
    let flat = try again.reshaped([14, 16])
    let parts = try [0..<7, 7..<14].map { rows in
      (x: try flat.slice(rows, axis: 0), targets: try targets.reshaped([14]).slice(rows, axis: 0))
    }
    gradients.reset()
    for part in parts {
      let (y, pullback) = try head.valueWithPullback(part.x)
      try pullback(crossEntropy(y, targets: part.targets).gradient, adding: &gradients, prefix: "head.")
    }
    try gradients.scale(by: 1 / Float(parts.count))
    let (whole, wholePullback) = try head.valueWithPullback(flat)
    try wholePullback(
      crossEntropy(whole, targets: targets.reshaped([14])).gradient, adding: &headOnly, prefix: "head.")
    #expect(
      mismatch(gradients["head.weight"]!.array, headOnly["head.weight"]!.array.map { Double($0) }, tolerance: 1e-6)
        == nil)

    let before = model.head.weight
    try model.forEachParameter(prefix: "") { name, value in
      guard let gradient = gradients[name] else { return }
      value = try Tensor(zip(value.array, gradient.array).map { $0 - 0.1 * $1 }, shape: value.shape)
    }
    #expect(model.head.weight != before)
  }
}
