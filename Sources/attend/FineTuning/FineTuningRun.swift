import Attention
import AttentionBLAS
import AttentionFiles
import AttentionModels
import AttentionTraining
import Foundation

/// The fine-tuning of a sentence model on pairs: the model, the optimizer's state, and how far the run is.
struct FineTuningRun {
  let settings: FineTuningSettings
  let pairs: [TrainingPair]
  private(set) var encoder: SentenceEncoder
  private(set) var optimizer: AdamW<Float>
  /// The loss of each step so far.
  private(set) var losses: [Double] = []
  private var gradients = ParameterGradients<Float>()
  private let recomputes: Bool
  private let context: AttentionContext

  /// A run before its first step.
  init(
    _ settings: FineTuningSettings, _ pairs: [TrainingPair], encoder: SentenceEncoder, recomputes: Bool,
    context: AttentionContext
  ) throws {
    self.settings = settings
    self.pairs = pairs
    self.encoder = encoder
    self.recomputes = recomputes
    self.context = context
    optimizer = try AdamW(weightDecay: settings.weightDecay, decays: WeightDecay.exceptBiasesAndNorms)
  }

  var stepCount: Int { settings.stepCount(pairCount: pairs.count) }
  var isDone: Bool { losses.count >= stepCount }

  /// The pairs of a step. The order of the pairs in an epoch follows from the seed and the epoch; without shuffling, it
  /// is the order of the file.
  private func batch(_ step: Int) -> [TrainingPair] {
    let perEpoch = settings.stepsPerEpoch(pairCount: pairs.count)
    let (epoch, place) = step.quotientAndRemainder(dividingBy: perEpoch)
    var order = Array(pairs.indices)
    if settings.isShuffled {
      var generator = SeededGenerator(seed: settings.seed &+ UInt64(epoch) &* 0x9e37_79b9_7f4a_7c15)
      order.shuffle(using: &generator)
    }
    let first = place * settings.batchLength
    return order[first..<min(first + settings.batchLength, pairs.count)].map { pairs[$0] }
  }

  /// Takes one step. Returns the number of tokens in it.
  mutating func step() throws -> Int {
    let batch = batch(losses.count)
    let texts = batch.map(\.query) + batch.map(\.positive) + batch.flatMap(\.negatives)
    gradients.reset()
    do {
      // The pullback is released at the end of this `do`. It shares the parameters, so if it still existed when the
      // optimizer changes them, each one would be copied first.
      let (vectors, pullback) = try encoder.valueWithPullback(texts, recomputes: recomputes, context: context)
      let loss = try multipleNegativesRankingLoss(
        queries: vectors.slice(0..<batch.count, axis: 0), candidates: vectors.slice(batch.count..<texts.count, axis: 0),
        scale: settings.scale, context: context)
      losses.append(loss.value)
      var gradient = try Tensor<Float>(repeating: 0, shape: vectors.shape)
      try gradient.withMutableView { view in
        try view.withSlice(0..<batch.count, axis: 0) { try $0.copy(from: loss.queryGradient) }
        try view.withSlice(batch.count..<texts.count, axis: 0) { try $0.copy(from: loss.candidateGradient) }
      }
      try pullback(gradient, adding: &gradients)
    } catch let error as AttentionError where error.code == .notFinite {
      throw AttentionError(
        .notFinite, "step \(losses.count + 1)",
        "\(error.description); a smaller --learning-rate, --weight-decay or --scale may help")
    }
    try gradients.clip(toNorm: settings.maximumNorm, context: context)
    optimizer.learningRate = settings.rates(pairCount: pairs.count)(losses.count - 1)
    try optimizer.step(&encoder, gradients, context: context)
    try checkWeights()
    return texts.reduce(0) { $0 + encoder.tokens($1).count }
  }

  /// Throws if a weight is not finite, so that such a model is never written.
  private func checkWeights() throws {
    let kernels = try context.kernels(for: Float.self)
    for (name, value) in try encoder.parameters() {
      let isFinite = try value.withUnsafeBufferPointer { kernels.isFinite($0.count, $0.baseAddress!) }
      if !isFinite {
        throw AttentionError(
          .notFinite, "step \(losses.count)",
          "finite weights expected; \(name) is not; a smaller --learning-rate may help")
      }
    }
  }

  // MARK: Checkpoints

  private static let modelPrefix = "model."
  private static let optimizerPrefix = "optimizer."

  /// Writes everything that the rest of the run needs. At any time, the path holds either the old checkpoint or the
  /// whole new one.
  func writeCheckpoint(to path: String) throws {
    var writer = SafeTensorsWriter()
    let json = JSONEncoder()
    json.outputFormatting = .sortedKeys
    writer.metadata["settings"] = String(decoding: try json.encode(settings), as: UTF8.self)
    writer.metadata["kernels"] = try kernels()
    // Swift writes the shortest decimal that reads back to the same bits.
    writer.metadata["losses"] = losses.map { "\($0)" }.joined(separator: " ")
    for (name, value) in try encoder.parameters(prefix: Self.modelPrefix) { try writer.add(name, value) }
    for (name, value) in optimizer.stateDictionary.sorted(by: { $0.key < $1.key }) {
      try writer.add(Self.optimizerPrefix + name, value)
    }
    try writer.write(to: path)
  }

  /// The algorithm and the instruction set of this run. With other ones, the last bits of results differ.
  private func kernels() throws -> String {
    "\(context.resolvedAlgorithm.rawValue) \(try context.resolvedInstructionSet().rawValue)"
  }

  /// Goes on from a checkpoint. If the run began with other kernels, a note on standard error says that the last bits
  /// of the model will differ from those of a run that was not stopped.
  /// - Throws: `AttentionError` if the file is no checkpoint, or one of a run with other settings.
  mutating func resume(from path: String) throws {
    let file = try SafeTensorsFile(contentsOf: path)
    guard let text = file.metadata["settings"],
      let stored = try? JSONDecoder().decode(FineTuningSettings.self, from: Data(text.utf8)),
      let losses = file.metadata["losses"]?.split(separator: " ").map({ Double($0) ?? .nan }),
      losses.allSatisfy(\.isFinite)
    else { throw AttentionError(.invalidFile, path, "a checkpoint of attend finetune expected") }
    let differences = settings.differences(from: stored)
    guard differences.isEmpty else {
      throw AttentionError(
        .invalidArgument, path,
        "the settings and pairs of the run that is resumed expected; these differ: \(differences.joined(separator: ", "))"
      )
    }
    if let other = file.metadata["kernels"], other != (try kernels()) {
      Terminal.tell(
        "Note: the run began with the kernels \(other) and goes on with \(try kernels()), so the last bits of the model will "
          + "differ from those of a run that was not stopped.\n")
    }
    let tensors = try file.tensors(as: Float.self)
    let optimizerCount = tensors.keys.count { $0.hasPrefix(Self.optimizerPrefix) }
    let parameterCount = tensors.keys.count { $0.hasPrefix(Self.modelPrefix) }
    guard losses.count <= stepCount, optimizerCount == (losses.isEmpty ? 0 : 3 * parameterCount) else {
      throw AttentionError(
        .invalidFile, path,
        "at most \(stepCount) losses and 3 tensors of the optimizer for each weight expected; got "
          + "\(losses.count), and \(optimizerCount) for \(parameterCount)")
    }
    try encoder.load(tensors, prefix: Self.modelPrefix)
    try optimizer.load(
      Dictionary(
        uniqueKeysWithValues: tensors.filter { $0.key.hasPrefix(Self.optimizerPrefix) }.map {
          (String($0.key.dropFirst(Self.optimizerPrefix.count)), $0.value)
        }))
    self.losses = losses
  }
}

/// How well a model finds the text that belongs to a query among all texts of the held-out pairs.
struct RetrievalFigures: Codable {
  /// The share of queries whose own text is the most similar one.
  let accuracy: Double
  /// The mean of 1 / rank over all queries, where rank is that of the query's own text.
  let meanReciprocalRank: Double

  init(_ encoder: SentenceEncoder, _ pairs: [TrainingPair], context: AttentionContext) throws {
    let queries = try encoder.embed(pairs.map(\.query), prompt: .automatic, context: context)
    let texts = try encoder.embed(pairs.map(\.positive), prompt: .automatic, context: context)
    guard (queries.array + texts.array).allSatisfy(\.isFinite) else {
      throw AttentionError(
        .notFinite, "the model", "finite vectors expected after the training; a smaller --learning-rate may help")
    }
    let ranks = try ranks(queries, texts, pairs)
    accuracy = Double(ranks.count { $0 == 1 }) / Double(pairs.count)
    meanReciprocalRank = ranks.reduce(0) { $0 + 1 / Double($1) } / Double(pairs.count)
  }
}

/// For each query i, the rank of text i among all texts, from 1. Texts are ranked by their cosine with the query. Other
/// texts with the same cosine as text i come before it; texts that equal text i are not counted.
private func ranks(_ queries: Tensor<Float>, _ texts: Tensor<Float>, _ pairs: [TrainingPair]) throws -> [Int] {
  let lengths = try (0..<texts.shape[0]).map { row in
    let square = try texts.select(row, axis: 0).array.reduce(0.0) { $0 + Double($1) * Double($1) }
    return Float(max(square.squareRoot(), 1e-12))
  }
  return try (0..<queries.shape[0]).map { index in
    let products = try matmul(queries.slice(index..<index + 1, axis: 0), texts.transposed()).array
    let cosines = zip(products, lengths).map { $0 / $1 }
    return 1
      + cosines.indices.count {
        $0 != index && cosines[$0] >= cosines[index] && pairs[$0].positive != pairs[index].positive
      }
  }
}
