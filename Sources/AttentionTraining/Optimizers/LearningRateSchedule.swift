internal import CLibrary

/// The learning rate of each step: it grows evenly over the first steps, and then falls or stays as it is.
///
///     let schedule = LearningRateSchedule(peak: 2e-5, stepCount: 1000, warmUpStepCount: 100, shape: .cosine)
///     optimizer.learningRate = schedule(step)   // step from 0
///
/// The same as `get_linear_schedule_with_warmup`, `get_cosine_schedule_with_warmup` and `get_constant_schedule_with_warmup` of
/// Hugging Face's transformers.
public struct LearningRateSchedule: Sendable, Hashable {
  /// How the rate goes on after the first steps.
  public enum Shape: String, Sendable, Hashable, Codable, CaseIterable {
    /// It stays at its peak.
    case constant
    /// It falls evenly to 0.
    case linear
    /// It falls to 0 along half a period of the cosine.
    case cosine
  }

  /// The greatest rate.
  public let peak: Double
  /// The number of all steps. Unless the shape is constant, the rate is 0 after them.
  public let stepCount: Int
  /// The number of steps in which the rate grows from 0 to its peak.
  public let warmUpStepCount: Int
  /// How the rate goes on after the first steps.
  public let shape: Shape

  /// A schedule.
  /// - Parameters:
  ///   - peak: The greatest rate.
  ///   - stepCount: The number of all steps.
  ///   - warmUpStepCount: The number of steps in which the rate grows.
  ///   - shape: How the rate goes on after the steps in which it grows.
  public init(peak: Double, stepCount: Int, warmUpStepCount: Int = 0, shape: Shape = .linear) {
    self.peak = peak
    self.stepCount = stepCount
    self.warmUpStepCount = warmUpStepCount
    self.shape = shape
  }

  /// The rate of a step, counted from 0.
  public func callAsFunction(_ step: Int) -> Double {
    if step < warmUpStepCount { return peak * Double(step) / Double(warmUpStepCount) }
    let progress = min(1, Double(step - warmUpStepCount) / Double(max(1, stepCount - warmUpStepCount)))
    switch shape {
    case .constant: return peak
    case .linear: return peak * (1 - progress)
    case .cosine: return peak * max(0, 0.5 * (1 + cos(Double.pi * progress)))
    }
  }
}
