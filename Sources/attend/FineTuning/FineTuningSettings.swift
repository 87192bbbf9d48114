import Attention
import AttentionModels
import AttentionTraining
import Foundation

/// What determines the bits of a fine-tuned model, apart from the kernels: the settings of the run, and checksums of
/// the pairs and of the model before training. A run is resumed only if all of these are the same.
struct FineTuningSettings: Codable, Equatable {
  /// A checksum of the pairs for training.
  var pairs: String
  /// A checksum of the model before training.
  var model: String
  var batchLength: Int
  var epochCount: Int
  var stepLimit: Int?
  var learningRate: Double
  var warmUpShare: Double
  var schedule: LearningRateSchedule.Shape
  var weightDecay: Double
  var maximumNorm: Double
  var scale: Double
  var seed: UInt64
  var isShuffled: Bool

  /// The number of steps of a run on `pairCount` pairs.
  func stepCount(pairCount: Int) -> Int {
    let all = stepsPerEpoch(pairCount: pairCount) * epochCount
    return min(all, stepLimit ?? all)
  }

  /// The number of steps in an epoch. A last batch of a single pair is left out: it has no other pair to be compared
  /// with, so its loss is 0 unless the pair has negatives.
  func stepsPerEpoch(pairCount: Int) -> Int {
    max(1, pairCount / batchLength + (pairCount % batchLength > 1 ? 1 : 0))
  }

  func rates(pairCount: Int) -> LearningRateSchedule {
    let count = stepCount(pairCount: pairCount)
    return LearningRateSchedule(
      peak: learningRate, stepCount: count,
      // In the first step of a warm-up, the rate is 0. At least one step follows the warm-up, so that even a run of a
      // single step changes the model.
      warmUpStepCount: min(Int((Double(count) * warmUpShare).rounded(.up)), count - 1), shape: schedule)
  }

  /// A checksum of the texts of pairs.
  static func checksum(_ pairs: [TrainingPair]) -> String {
    var checksum = Checksum()
    for pair in pairs {
      for text in [pair.query, pair.positive] + pair.negatives + ["\n"] { checksum.add(text) }
    }
    return checksum.text
  }

  /// A checksum of the weights of a model, and of how it makes vectors.
  static func checksum(_ encoder: SentenceEncoder) throws -> String {
    var checksum = Checksum()
    for (_, value) in try encoder.parameters() {
      try value.withUnsafeBufferPointer { elements in
        for element in elements { checksum.add(UInt64(element.bitPattern)) }
      }
    }
    checksum.add("\(encoder.poolings) \(encoder.isNormalized) \(encoder.maximumLength) \(encoder.dimension)")
    return checksum.text
  }

  /// The 64-bit hash FNV-1a. A text is added byte by byte, but a number in one step.
  private struct Checksum {
    private var hash: UInt64 = 0xcbf2_9ce4_8422_2325
    var text: String { String(hash, radix: 16) }

    mutating func add(_ value: UInt64) { hash = (hash ^ value) &* 0x100_0000_01b3 }

    mutating func add(_ text: String) {
      for byte in text.utf8 { add(UInt64(byte)) }
      // This byte does not occur in UTF-8. It marks the end of a text, so that the same bytes in other texts give
      // another checksum.
      add(0xff)
    }
  }

  /// What differs from the settings of another run, in the words of the command line.
  func differences(from other: FineTuningSettings) -> [String] {
    func fields(_ settings: FineTuningSettings) -> [String: String] {
      Dictionary(
        uniqueKeysWithValues: Mirror(reflecting: settings).children.map { child in
          let value = Mirror(reflecting: child.value)
          let content: Any? = value.displayStyle == .optional ? value.children.first?.value : child.value
          return (child.label ?? "", content.map { "\($0)" } ?? "all")
        })
    }
    let options = [
      "batchLength": "--batch", "epochCount": "--epochs", "stepLimit": "--steps", "learningRate": "--learning-rate",
      "warmUpShare": "--warm-up", "schedule": "--schedule", "weightDecay": "--weight-decay", "maximumNorm": "--clip",
      "scale": "--scale", "seed": "--seed",
    ]
    let (own, others) = (fields(self), fields(other))
    return own.keys.sorted().filter { own[$0] != others[$0] }.map { name in
      switch name {
      case "pairs": "the pairs (the file, or --held-out)"
      case "model": "the model before training (--model)"
      case "isShuffled": "--in-order (\(isShuffled ? "with" : "without") it in the checkpoint)"
      default: "\(options[name] ?? name) (\(others[name] ?? "") in the checkpoint, \(own[name] ?? "") given)"
      }
    }
  }
}
