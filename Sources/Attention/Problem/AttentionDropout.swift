/// Dropout of the weights of attention, for training.
///
/// After the softmax, each weight is set to 0 with a probability p; the others are multiplied by 1 / (1 − p). The
/// log-sum-exp does not change.
///
/// Whether a weight is dropped follows only from the seed and from four indices: those of the element of the batch, the
/// head, the query and the key. So the backward pass drops the same weights again, any number of threads gives the same
/// bits, and nothing is stored. Use a different seed for each step of training and for each layer.
///
/// The indices are counted from the start of the call. So with dropout, the results of a sequence depend on its place
/// in the batch or in a packed row.
public struct AttentionDropout: Sendable, Hashable {
  /// The probability p that a weight is set to 0, from 0 to 1. It is rounded to a multiple of 2⁻³².
  public var probability: Double
  /// The seed of the random numbers.
  public var seed: UInt64

  /// Dropout with a probability and a seed.
  public init(probability: Double, seed: UInt64) {
    self.probability = probability
    self.seed = seed
  }
}
