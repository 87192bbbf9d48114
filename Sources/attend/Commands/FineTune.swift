import ArgumentParser
import AttentionDrawing
import AttentionModels
import AttentionRuntime
import AttentionTraining
import Foundation

struct FineTune: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "finetune",
    abstract: "Train a sentence model further, on pairs of texts.",
    discussion: """
      PAIRS holds a pair a line: a query and the text that belongs to it, separated by a tab, perhaps followed by texts \
      that do not belong to it; or JSON objects, {"query":"…","positive":"…","negatives":["…"]}. The other texts of a batch \
      are negatives too (the loss is InfoNCE, MultipleNegativesRankingLoss of sentence-transformers). A part of the pairs is \
      held out: on it the model is measured before and after. OUT becomes a folder that sentence-transformers and \
      `attend embed --model OUT` load, with the loss curve loss.svg and the figures training.json.

      Checkpoints go to OUT.checkpoint. A run that was stopped goes on with --resume and gives the same bits as one that was \
      not; the checkpoint is removed at the end.
      """)

  @Argument(
    help: ArgumentHelp(
      "The pairs: tab-separated texts, or JSON objects, one pair a line; - for standard input.", valueName: "pairs"))
  var pairsArgument: TextArgument

  @Option(
    name: [.short, .customLong("output")],
    help: ArgumentHelp("The folder to write; it must not exist.", valueName: "out"))
  var output: String

  @OptionGroup var model: ModelOptions

  @Option(help: ArgumentHelp("How often all pairs are used.", valueName: "count"))
  var epochs = 1

  @Option(help: ArgumentHelp("Stop after so many steps (default: after all epochs).", valueName: "count"))
  var steps: Int?

  @Option(help: ArgumentHelp("Pairs in a step. More pairs are more negatives for each other.", valueName: "count"))
  var batch = 32

  @Option(help: ArgumentHelp("The greatest learning rate.", valueName: "rate"))
  var learningRate = 2e-5

  @Option(help: ArgumentHelp("The share of the steps in which the rate grows from 0.", valueName: "share"))
  var warmUp = 0.1

  @Option(help: ArgumentHelp("How the rate falls afterwards: linear, cosine or constant.", valueName: "name"))
  var schedule = LearningRateSchedule.Shape.linear.rawValue

  @Option(help: ArgumentHelp("AdamW's weight decay, except for biases and norms.", valueName: "rate"))
  var weightDecay = 0.01

  @Option(help: ArgumentHelp("Gradients with a greater norm are scaled down to it.", valueName: "norm"))
  var clip = 1.0

  @Option(help: ArgumentHelp("The factor of the cosines in the loss.", valueName: "factor"))
  var scale = 20.0

  @Option(help: ArgumentHelp("The share of the pairs that is held out: the last ones of the file.", valueName: "share"))
  var heldOut = 0.1

  @Option(help: ArgumentHelp("Pairs to measure the model on, instead of held-out ones.", valueName: "path"))
  var evaluation: String?

  @Option(help: ArgumentHelp("Determines the order of the pairs.", valueName: "seed"))
  var seed: UInt64 = 1

  @Flag(help: "Take the pairs in the order of the file.")
  var inOrder = false

  @Flag(help: "Save memory: compute the inside of each layer once more in the backward pass.")
  var recompute = false

  @Option(help: ArgumentHelp("Write a checkpoint after so many steps; 0: never.", valueName: "count"))
  var checkpointEvery = 100

  @Flag(help: "Go on from the checkpoint of a run that was stopped.")
  var resume = false

  @Flag(help: "Print the figures as one JSON object at the end.")
  var json = false

  @OptionGroup var options: ContextOptions

  private var pairsPath: String { pairsArgument.text }
  /// The most memory that is kept from one step for the next.
  private static let keptByteCount = 8 << 30
  private var checkpoint: String { output + ".checkpoint" }

  func validate() throws {
    func require(_ name: String, _ condition: Bool, _ expected: String, _ value: some Any) throws {
      if !condition { throw ValidationError("--\(name): \(expected) expected; got \(value)") }
    }
    try require("epochs", epochs >= 1, "a number from 1", epochs)
    if let steps { try require("steps", steps >= 1, "a number from 1", steps) }
    try require("batch", batch >= 2, "a number from 2", batch)
    try require("learning-rate", learningRate > 0 && learningRate.isFinite, "a number above 0", learningRate)
    try require("warm-up", (0...1).contains(warmUp), "a share from 0 to 1", warmUp)
    try require(
      "schedule", LearningRateSchedule.Shape(rawValue: schedule) != nil, "linear, cosine or constant", "\"\(schedule)\""
    )
    try require("weight-decay", weightDecay >= 0 && weightDecay.isFinite, "a number from 0", weightDecay)
    try require("clip", clip > 0, "a number above 0", clip)
    try require("scale", scale > 0 && scale.isFinite, "a number above 0", scale)
    try require("held-out", (0..<1).contains(heldOut), "a share from 0 to less than 1", heldOut)
    try require("checkpoint-every", checkpointEvery >= 0, "a number from 0", checkpointEvery)
    try require("output", !output.isEmpty, "a path", "nothing")
  }

  /// The figures of a run, for machines.
  private struct Figures: Encodable {
    let settings: FineTuningSettings
    let model: String
    let pairCount: Int
    let heldOutCount: Int
    let stepCount: Int
    let losses: [Double]
    let before: RetrievalFigures?
    let after: RetrievalFigures?
    let tokensPerSecond: Double
    let seconds: Double
  }

  func run() throws {
    let context = try options.context()
    let (training, heldOut) = try readPairs()
    let settings = FineTuningSettings(
      pairs: FineTuningSettings.checksum(training), batchLength: batch, epochCount: epochs, stepLimit: steps,
      learningRate: learningRate, warmUpShare: warmUp, schedule: schedule, weightDecay: weightDecay, maximumNorm: clip,
      scale: scale, seed: seed, isShuffled: !inOrder)
    try requirePlaces()
    let source = try InstalledModel.resolve(model.model)
    let original = try SentenceEncoder(directory: source)
    var run = try FineTuningRun(settings, training, encoder: original, recomputes: recompute, context: context)
    if resume { try run.resume(from: checkpoint) }

    let before = heldOut.isEmpty ? nil : try RetrievalFigures(original, heldOut, context: context)
    if !json {
      print(
        "\(training.count) pairs, \(run.stepCount) steps of \(min(batch, training.count)) pairs; \(heldOut.count) held out"
      )
      if resume { print("goes on after step \(run.losses.count)") }
    }
    let start = ContinuousClock.now
    let tokenCount = try withKeptMemory(byteCount: Self.keptByteCount) { try train(&run) }
    let seconds = max((ContinuousClock.now - start) / .seconds(1), 1e-9)
    let after = heldOut.isEmpty ? nil : try RetrievalFigures(run.encoder, heldOut, context: context)

    let figures = Figures(
      settings: settings, model: model.model, pairCount: training.count, heldOutCount: heldOut.count,
      stepCount: run.losses.count, losses: run.losses, before: before, after: after,
      tokensPerSecond: Double(tokenCount) / seconds, seconds: seconds)
    try write(run, figures, source: source)
    if json { try printJSONLine(figures) } else { show(figures) }
  }

  /// The pairs for training, and those to measure on.
  private func readPairs() throws -> (training: [TrainingPair], heldOut: [TrainingPair]) {
    var pairs = try TrainingPair.read(pairsPath)
    var held: [TrainingPair] = []
    if let evaluation {
      held = try TrainingPair.read(evaluation)
    } else {
      let count = Int(Double(pairs.count) * heldOut)
      held = pairs.suffix(count)
      pairs.removeLast(count)
    }
    guard pairs.count >= 2 else {
      throw AttentionError(.invalidFile, pairsPath, "at least 2 pairs to train on expected; got \(pairs.count)")
    }
    return (pairs, held)
  }

  /// Checks the places of the output before the work begins.
  private func requirePlaces() throws {
    let files = FileManager.default
    guard !files.fileExists(atPath: output) else {
      throw ValidationError("--output: the path of a new folder expected; there is something at \"\(output)\"")
    }
    let folder = URL(fileURLWithPath: output).deletingLastPathComponent().path
    guard files.isWritableFile(atPath: folder) else {
      throw ValidationError("--output: a folder that can be written expected in \"\(folder)\"")
    }
    let hasCheckpoint = files.fileExists(atPath: checkpoint)
    if resume && !hasCheckpoint { throw ValidationError("--resume: there is no checkpoint \"\(checkpoint)\"") }
    if !resume && hasCheckpoint {
      throw ValidationError(
        "there is a checkpoint \"\(checkpoint)\" of a run that was stopped: --resume goes on with it; remove it to begin anew"
      )
    }
  }

  /// Takes all steps that are left. Returns the number of tokens in them.
  private func train(_ run: inout FineTuningRun) throws -> Int {
    let progress = ProgressLine("steps")
    var tokenCount = 0
    while !run.isDone {
      tokenCount += try run.step()
      let count = run.losses.count
      progress.report(count, of: run.stepCount, note: String(format: "loss %.4f", run.losses[count - 1]))
      if checkpointEvery > 0 && count % checkpointEvery == 0 && !run.isDone {
        try run.writeCheckpoint(to: checkpoint)
      }
    }
    return tokenCount
  }

  private func write(_ run: FineTuningRun, _ figures: Figures, source: String) throws {
    let json = JSONEncoder()
    json.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    let subtitle =
      "\(figures.pairCount) pairs, \(batch) a step, AdamW at \(learningRate) (\(schedule)); thick: the mean of 9 steps"
    try run.encoder.write(
      to: output, settingsFrom: source,
      adding: [
        "training.json": String(decoding: try json.encode(figures), as: UTF8.self) + "\n",
        "loss.svg": LineChart(
          title: "Loss of \(model.model)", subtitle: subtitle, axisLabel: "step", values: run.losses
        ).svg,
      ])
    try? FileManager.default.removeItem(atPath: checkpoint)
  }

  private func show(_ figures: Figures) {
    let ends = (figures.losses.prefix(10), figures.losses.suffix(10))
    func mean(_ losses: ArraySlice<Double>) -> Double { losses.reduce(0, +) / Double(max(losses.count, 1)) }
    print(
      String(format: "loss           %.4f → %.4f (means of the first and last 10 steps)", mean(ends.0), mean(ends.1)))
    if let before = figures.before, let after = figures.after {
      print(
        String(
          format: "held out       right text first: %.1f %% → %.1f %%, mean reciprocal rank: %.3f → %.3f",
          100 * before.accuracy, 100 * after.accuracy, before.meanReciprocalRank, after.meanReciprocalRank))
    }
    print(String(format: "time           %.1f s, %.0f tokens/s", figures.seconds, figures.tokensPerSecond))
    print("written to     \(output)")
  }
}
