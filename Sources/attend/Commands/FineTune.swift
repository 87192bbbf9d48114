public import ArgumentParser
import AttentionDrawing
import AttentionModels
import AttentionRuntime
public import AttentionTraining
import Foundation

struct FineTune: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "finetune",
    abstract: "Train a sentence model further, on pairs of texts.",
    discussion: """
      Each line of PAIRS is a query and the text that belongs to it, with a tab between them. More columns are texts that do \
      not belong to the query. A line may also be a JSON object, {"query":"…","positive":"…","negatives":["…"]}. The other texts of a batch \
      are negatives too (the loss is InfoNCE, MultipleNegativesRankingLoss of sentence-transformers). A part of the pairs is \
      held out: on it the model is measured before and after. OUT becomes a folder that sentence-transformers and \
      `attend embed --model OUT` load, with the loss curve loss.svg and the figures training.json.

      Until it is complete, the folder is OUT.unfinished, which also holds the checkpoint. A run that was stopped goes on with \
      --resume and gives the same bits as one that was not, on the same kernels.
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

  @Option(
    help: ArgumentHelp(
      "The share of the steps in which the rate grows; the first step has the rate 0 and changes nothing.",
      valueName: "share"))
  var warmUp = 0.1

  @Option(help: ArgumentHelp("How the rate falls afterwards.", valueName: "name"))
  var schedule = LearningRateSchedule.Shape.linear

  @Option(help: ArgumentHelp("AdamW's weight decay, except for biases and norms.", valueName: "rate"))
  var weightDecay = 0.01

  @Option(help: ArgumentHelp("Gradients with a greater norm are scaled down to it.", valueName: "norm"))
  var clip = 1.0

  @Option(help: ArgumentHelp("The factor of the cosines in the loss.", valueName: "factor"))
  var scale = 20.0

  @Option(
    help: ArgumentHelp(
      "The share of the pairs that is held out: the last ones of the file (default: 0.1).", valueName: "share"))
  var heldOut: Double?

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
  private var place: OutputFolder { OutputFolder(output) }
  /// The largest number of bytes of memory that are kept from one step for the next.
  private static let keptByteCount = 8 << 30

  func validate() throws {
    func require(_ name: String, _ condition: Bool, _ expected: String, _ value: some Any) throws {
      if !condition { throw ValidationError("--\(name): \(expected) expected; got \(value)") }
    }
    try require("epochs", (1...1_000_000).contains(epochs), "a number from 1 to 1000000", epochs)
    if let steps { try require("steps", steps >= 1, "a number from 1", steps) }
    try require("batch", (2...1_000_000).contains(batch), "a number from 2 to 1000000", batch)
    try require("learning-rate", learningRate > 0 && learningRate.isFinite, "a number above 0", learningRate)
    try require("warm-up", (0...1).contains(warmUp), "a share from 0 to 1", warmUp)
    try require("weight-decay", weightDecay >= 0 && weightDecay.isFinite, "a number from 0", weightDecay)
    try require("clip", clip > 0 && clip.isFinite, "a finite number above 0", clip)
    try require("scale", scale > 0 && scale.isFinite, "a number above 0", scale)
    if let heldOut { try require("held-out", (0..<1).contains(heldOut), "a share from 0 to less than 1", heldOut) }
    if heldOut != nil && evaluation != nil {
      throw ValidationError("one of --held-out and --evaluation expected; got both")
    }
    if pairsPath == "-" && evaluation == "-" {
      throw ValidationError("--evaluation: a file expected, because standard input holds the pairs")
    }
    try require("checkpoint-every", checkpointEvery >= 0, "a number from 0", checkpointEvery)
    if let problem = place.problem { throw ValidationError("--output: \(problem)") }
    if resume && !place.hasCheckpoint {
      throw ValidationError("--resume: there is no checkpoint \"\(place.checkpoint)\"")
    }
    if !resume && place.hasCheckpoint {
      throw ValidationError(
        "there is a checkpoint \"\(place.checkpoint)\" of a run that was stopped: --resume goes on with it; remove its folder "
          + "to begin anew")
    }
  }

  /// The figures of a run, for `training.json` and `--json`.
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
    let source = URL(fileURLWithPath: try InstalledModel.resolve(model.model)).resolvingSymlinksInPath().path
    let original = try SentenceEncoder(directory: source)
    let settings = FineTuningSettings(
      pairs: FineTuningSettings.checksum(training), model: try FineTuningSettings.checksum(original),
      batchLength: batch,
      epochCount: epochs, stepLimit: steps, learningRate: learningRate, warmUpShare: warmUp, schedule: schedule,
      weightDecay: weightDecay, maximumNorm: clip, scale: scale, seed: seed, isShuffled: !inOrder)
    let folder = place
    try folder.open(settingsFrom: source)
    do {
      var run = try FineTuningRun(settings, training, encoder: original, recomputes: recompute, context: context)
      if resume { try run.resume(from: folder.checkpoint) }
      let before = heldOut.isEmpty ? nil : try RetrievalFigures(original, heldOut, context: context)
      if !json {
        print(
          "\(training.count) pairs, \(run.stepCount) steps of \(min(batch, training.count)) pairs; "
            + (heldOut.isEmpty ? "none held out, so nothing is measured" : "\(heldOut.count) held out"))
        if resume { print("goes on after step \(run.losses.count)") }
      }
      let start = ContinuousClock.now
      let tokenCount = try withKeptMemory(byteCount: Self.keptByteCount) { try train(&run, folder) }
      let seconds = max((ContinuousClock.now - start) / .seconds(1), 1e-9)
      // This also throws if the model's vectors are not finite, which can happen although all its weights are finite.
      let after = try RetrievalFigures(run.encoder, heldOut.isEmpty ? [training[0]] : heldOut, context: context)
      let figures = Figures(
        settings: settings, model: model.model, pairCount: training.count, heldOutCount: heldOut.count,
        stepCount: run.losses.count, losses: run.losses, before: before, after: before == nil ? nil : after,
        tokensPerSecond: Double(tokenCount) / seconds, seconds: seconds)
      try write(run, figures, to: folder, source: source)
      if json { try printJSONLine(figures) } else { show(figures) }
    } catch {
      folder.abandon()
      throw error
    }
  }

  /// The pairs for training, and those to measure on.
  private func readPairs() throws -> (training: [TrainingPair], heldOut: [TrainingPair]) {
    var pairs = try TrainingPair.read(pairsPath)
    var held: [TrainingPair] = []
    if let evaluation {
      held = try TrainingPair.read(evaluation)
      if held.isEmpty { throw AttentionError(.invalidFile, evaluation, "pairs to measure on expected; got none") }
    } else {
      let count = Int(Double(pairs.count) * (heldOut ?? 0.1))
      held = pairs.suffix(count)
      pairs.removeLast(count)
    }
    guard pairs.count >= 2 else {
      throw AttentionError(.invalidFile, pairsPath, "at least 2 pairs to train on expected; got \(pairs.count)")
    }
    return (pairs, held)
  }

  /// Takes all steps that are left. Returns the number of tokens in them.
  private func train(_ run: inout FineTuningRun, _ folder: OutputFolder) throws -> Int {
    let progress = ProgressLine("steps", after: run.losses.count)
    var tokenCount = 0
    while !run.isDone {
      tokenCount += try run.step()
      let count = run.losses.count
      progress.report(count, of: run.stepCount, note: String(format: "loss %.4f", run.losses[count - 1]))
      if checkpointEvery > 0 && count % checkpointEvery == 0 && !run.isDone {
        try run.writeCheckpoint(to: folder.checkpoint)
      }
    }
    return tokenCount
  }

  private func write(
    _ run: FineTuningRun, _ figures: Figures, to folder: OutputFolder, source: String
  ) throws {
    let json = JSONEncoder()
    json.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    let subtitle =
      "\(figures.pairCount) pairs, \(batch) a step, AdamW at \(learningRate) (\(schedule.rawValue)); thick: the mean of 9 steps"
    let chart = LineChart(
      title: "Loss of \(model.model)", subtitle: subtitle, axisLabel: "step", values: run.losses)
    do {
      try folder.finish(
        run.encoder, source: source,
        adding: [
          "training.json": String(decoding: try json.encode(figures), as: UTF8.self) + "\n", "loss.svg": chart.svg,
        ])
    } catch {
      // The training is not lost: with --resume, a run finds that no step is left, and only writes the model again.
      try? run.writeCheckpoint(to: folder.checkpoint)
      throw error
    }
  }

  private func show(_ figures: Figures) {
    let count = max(1, min(10, figures.losses.count / 2))
    let ends = (figures.losses.prefix(count), figures.losses.suffix(count))
    func mean(_ losses: ArraySlice<Double>) -> Double { losses.reduce(0, +) / Double(max(losses.count, 1)) }
    print(
      String(
        format: "loss           %.4f → %.4f (means of the first and last %d steps)", mean(ends.0), mean(ends.1), count))
    if let before = figures.before, let after = figures.after {
      print(
        String(
          format: "held out       right text first: %.1f %% → %.1f %%, mean reciprocal rank: %.3f → %.3f",
          100 * before.accuracy, 100 * after.accuracy, before.meanReciprocalRank, after.meanReciprocalRank))
    }
    print(String(format: "time           %.1f s, %.0f tokens/s", figures.seconds, figures.tokensPerSecond))
    print("written to     \(place.path)")
  }
}

extension LearningRateSchedule.Shape: ExpressibleByArgument {}
