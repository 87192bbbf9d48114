// Trains a small language model, from random weights, to predict each character of the first chapters of a novel, and
// lets the model write text.
//
//     swift run -c release CharacterModel [STEPS]
//
// The model is a decoder like GPT: embeddings of characters and of their positions, blocks of causal attention with
// norms before their sublayers, a norm, and a linear layer whose outputs are the logits of the next character.

import Attention
import AttentionTraining
import Foundation

/// A text in which each character is replaced by its number.
struct Corpus {
  let characters: [Character]
  let training: [Int32]
  let heldOut: [Int32]

  init(path: String) throws {
    let text = try String(contentsOfFile: path, encoding: .utf8)
    characters = Set(text).sorted()
    let numbers = Dictionary(uniqueKeysWithValues: characters.enumerated().map { ($1, Int32($0)) })
    let all = text.map { numbers[$0]! }
    let end = all.count * 9 / 10
    training = Array(all[..<end])
    heldOut = Array(all[end...])
  }

  /// The loss of a bigram model on the held-out text. Such a model knows only how often each character follows each
  /// other.
  var bigramLoss: Double {
    let count = characters.count
    // Each pair counts once more than it occurs, so that no pair is impossible.
    var pairs = [Double](repeating: 1, count: count * count)
    for (a, b) in zip(training, training.dropFirst()) { pairs[Int(a) * count + Int(b)] += 1 }
    let losses = zip(heldOut, heldOut.dropFirst()).map { a, b in
      let row = pairs[Int(a) * count..<(Int(a) + 1) * count]
      return log(row.reduce(0, +) / row[row.startIndex + Int(b)])
    }
    return losses.reduce(0, +) / Double(losses.count)
  }
}

/// The model.
struct CharacterModel: TrainableLayer {
  let length: Int
  var characters: Embedding<Float>
  var places: Embedding<Float>
  var embeddingNorm: LayerNorm<Float>
  var blocks: [TransformerBlock<Float>]
  var norm: LayerNorm<Float>
  var head: Linear<Float>

  init(characterCount: Int, length: Int, dimension d: Int, blockCount: Int, seed: UInt64) throws {
    var seeds = SeededGenerator(seed: seed)
    func random(_ shape: [Int], _ deviation: Double = 0.02) throws -> Tensor<Float> {
      try Tensor(normalWithDeviation: deviation, shape: shape, seed: seeds.next())
    }
    func constant(_ value: Float, _ count: Int) throws -> Tensor<Float> { try Tensor(repeating: value, shape: [count]) }
    func norm() throws -> LayerNorm<Float> { try LayerNorm(weight: constant(1, d), bias: constant(0, d)) }
    self.length = length
    characters = try Embedding(weight: random([characterCount, d]))
    places = try Embedding(weight: random([length, d]))
    embeddingNorm = try norm()
    blocks = try (0..<blockCount).map { _ in
      try TransformerBlock(
        selfAttention: MultiHeadAttention(embeddingDimension: d, headCount: 4, seed: seeds.next()),
        feedForward: FeedForward(
          up: Linear(weight: random([4 * d, d]), bias: constant(0, 4 * d), activation: .gelu),
          down: Linear(weight: random([d, 4 * d]), bias: constant(0, d))),
        norms: [.layer(norm()), .layer(norm())], normPlacement: .before)
    }
    self.norm = try norm()
    head = try Linear(weight: random([characterCount, d]), bias: constant(0, characterCount))
  }

  mutating func forEachParameter(prefix: String, _ body: (String, inout Tensor<Float>) throws -> Void) throws {
    try characters.forEachParameter(prefix: prefix + "characters.", body)
    try places.forEachParameter(prefix: prefix + "places.", body)
    try embeddingNorm.forEachParameter(prefix: prefix + "embedding_norm.", body)
    for index in blocks.indices { try blocks[index].forEachParameter(prefix: prefix + "blocks.\(index).", body) }
    try norm.forEachParameter(prefix: prefix + "norm.", body)
    try head.forEachParameter(prefix: prefix + "head.", body)
  }

  /// The logits of the next character after each of `[B, L]` characters, and the backward pass.
  func valueWithPullback(
    _ tokens: Tensor<Int32>
  ) throws -> (value: Tensor<Float>, pullback: Pullback<Float, Void>) {
    let (batch, length) = (tokens.shape[0], tokens.shape[1])
    let here = try Tensor((0..<batch).flatMap { _ in (0..<length).map { Int32($0) } }, shape: tokens.shape)
    let (character, charactersPullback) = try characters.valueWithPullback(tokens)
    let (place, placesPullback) = try places.valueWithPullback(here)
    // This norm is applied to the sum of both embeddings.
    let (embedded, embeddingPullback) = try embeddingNorm.valueWithPullback(character, adding: place)
    var x = embedded
    var blockPullbacks: [Pullback<Float, Tensor<Float>>] = []
    for block in blocks {
      let call = try block.valueWithPullback(x, mask: .causal)
      x = call.value
      blockPullbacks.append(call.pullback)
    }
    let (normalized, normPullback) = try norm.valueWithPullback(x)
    let (logits, headPullback) = try head.valueWithPullback(normalized)
    let pullback = Pullback<Float, Void>(outputShape: logits.shape) {
      [blockPullbacks] outputGradient, gradients, prefix in
      var gradient = try headPullback(outputGradient, adding: &gradients, prefix: prefix + "head.")
      gradient = try normPullback(gradient, adding: &gradients, prefix: prefix + "norm.")
      for (index, pullback) in blockPullbacks.enumerated().reversed() {
        gradient = try pullback(gradient, adding: &gradients, prefix: prefix + "blocks.\(index).")
      }
      gradient = try embeddingPullback(gradient, adding: &gradients, prefix: prefix + "embedding_norm.")
      try charactersPullback(gradient, adding: &gradients, prefix: prefix + "characters.")
      try placesPullback(gradient, adding: &gradients, prefix: prefix + "places.")
    }
    return (logits, pullback)
  }

  /// The mean loss on pieces of a text.
  func loss(on text: [Int32], pieceCount: Int) throws -> Double {
    let starts = (0..<pieceCount).map { $0 * (text.count - length - 1) / pieceCount }
    let losses = try starts.map { start in
      let logits = try valueWithPullback(Tensor(text[start..<start + length], shape: [1, length])).value
      return try crossEntropy(logits, targets: Tensor(text[start + 1...start + length], shape: [1, length])).value
    }
    return losses.reduce(0, +) / Double(losses.count)
  }

  /// Continues a text, one character after another. Each character is drawn at random from the model's probabilities,
  /// which are sharpened.
  func write(after start: [Int32], count: Int, seed: UInt64) throws -> [Int32] {
    var generator = SeededGenerator(seed: seed)
    var text = start
    for _ in 0..<count {
      let context = text.suffix(length)
      let logits = try valueWithPullback(Tensor(context, shape: [1, context.count])).value
      // The temperature 0.7 sharpens the probabilities: less likely characters are drawn even less often.
      let weights = (0..<head.outputDimension).map { exp(Double(logits[0, context.count - 1, $0]) / 0.7) }
      var rest = Double.random(in: 0..<weights.reduce(0, +), using: &generator)
      text.append(
        Int32(
          weights.firstIndex {
            rest -= $0; return rest < 0
          } ?? 0))
    }
    return text
  }
}

@main
struct Main {
  static func main() throws {
    let stepCount = CommandLine.arguments.dropFirst().first.flatMap(Int.init) ?? 400
    let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    let corpus = try Corpus(path: folder.deletingLastPathComponent().path + "/Data/sentences.txt")
    var model = try CharacterModel(
      characterCount: corpus.characters.count, length: 96, dimension: 96, blockCount: 3, seed: 1)
    let parameterCount = try model.parameters().reduce(0) { $0 + $1.value.count }
    print("\(corpus.training.count) characters, \(corpus.characters.count) different; \(parameterCount) parameters")

    var optimizer = try AdamW<Float>(weightDecay: 0.1, decays: WeightDecay.exceptBiasesAndNorms)
    let schedule = LearningRateSchedule(
      peak: 3e-3, stepCount: stepCount, warmUpStepCount: stepCount / 20, shape: .cosine)
    var gradients = ParameterGradients<Float>()
    var generator = SeededGenerator(seed: 2)
    let (batchLength, length) = (16, model.length)
    for step in 0..<stepCount {
      let starts = (0..<batchLength).map { _ in Int.random(in: 0..<corpus.training.count - length, using: &generator) }
      func batch(_ offset: Int) throws -> Tensor<Int32> {
        try Tensor(
          starts.flatMap { corpus.training[$0 + offset..<$0 + offset + length] }, shape: [batchLength, length])
      }
      gradients.reset()
      var loss = 0.0
      do {
        // The pullback lives only within this `do`, so that it is released before the parameters change.
        let (logits, pullback) = try model.valueWithPullback(batch(0))
        let result = try crossEntropy(logits, targets: batch(1))
        try pullback(result.gradient, adding: &gradients)
        loss = result.value
      }
      try gradients.clip(toNorm: 1)
      optimizer.learningRate = schedule(step)
      try optimizer.step(&model, gradients)
      if step % 50 == 0 || step == stepCount - 1 { print("step \(step + 1): loss \(String(format: "%.3f", loss))") }
    }

    let (own, bigram) = (try model.loss(on: corpus.heldOut, pieceCount: 40), corpus.bigramLoss)
    print(String(format: "held-out text: loss %.3f; a bigram model has %.3f", own, bigram))
    let text = try model.write(after: Array(corpus.training.prefix(20)), count: 200, seed: 3)
    print("\n" + String(text.map { corpus.characters[Int($0)] }))
    if stepCount >= 400 && own >= bigram { exit(1) }
  }
}
