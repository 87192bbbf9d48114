import AttentionTraining
import Foundation

/// What determines the bits of a fine-tuned model, besides the model itself. A run is resumed only with the same settings.
struct FineTuningSettings: Codable, Equatable {
  /// A checksum of the pairs for training.
  var pairs: String
  var batchLength: Int
  var epochCount: Int
  var stepLimit: Int?
  var learningRate: Double
  var warmUpShare: Double
  var schedule: String
  var weightDecay: Double
  var maximumNorm: Double
  var scale: Double
  var seed: UInt64
  var isShuffled: Bool

  /// The number of steps for so many pairs.
  func stepCount(pairCount: Int) -> Int {
    let all = stepsPerEpoch(pairCount: pairCount) * epochCount
    return min(all, stepLimit ?? all)
  }

  func stepsPerEpoch(pairCount: Int) -> Int { (pairCount + batchLength - 1) / batchLength }

  func rates(pairCount: Int) -> LearningRateSchedule {
    let count = stepCount(pairCount: pairCount)
    return LearningRateSchedule(
      peak: learningRate, stepCount: count, warmUpStepCount: Int((Double(count) * warmUpShare).rounded(.up)),
      shape: LearningRateSchedule.Shape(rawValue: schedule) ?? .linear)
  }

  /// A checksum of texts: FNV-1a of 64 bits.
  static func checksum(_ pairs: [TrainingPair]) -> String {
    var hash: UInt64 = 0xcbf2_9ce4_8422_2325
    for pair in pairs {
      for text in [pair.query, pair.positive] + pair.negatives + ["\n"] {
        for byte in text.utf8 { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
        // A byte that UTF-8 does not have: where a text ends counts too.
        hash = (hash ^ 0xff) &* 0x100_0000_01b3
      }
    }
    return String(hash, radix: 16)
  }

  /// The names of the settings that differ.
  func differences(from other: FineTuningSettings) -> [String] {
    func fields(_ settings: FineTuningSettings) -> [String: String] {
      Dictionary(uniqueKeysWithValues: Mirror(reflecting: settings).children.map { ($0.label ?? "", "\($0.value)") })
    }
    let others = fields(other)
    return fields(self).filter { others[$0.key] != $0.value }.keys.sorted()
  }
}
