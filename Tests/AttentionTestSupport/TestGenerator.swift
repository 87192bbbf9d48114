/// Random numbers for tests: xorshift64* (Vigna 2016). The generator is independent of the library's own, so that tests
/// with these numbers do not rely on the code that they test.
public struct TestGenerator: RandomNumberGenerator {
  private var state: UInt64

  public init(seed: UInt64) {
    // The state may be any number except 0. The multiplication and the first eight steps make nearby seeds give very
    // different numbers.
    state = (seed &+ 1) &* 0x9e37_79b9_7f4a_7c15 | 1
    for _ in 0..<8 { _ = next() }
  }

  public mutating func next() -> UInt64 {
    state ^= state >> 12
    state ^= state << 25
    state ^= state >> 27
    return state &* 0x2545_f491_4f6c_dd1d
  }

  /// Random numbers from −`bound` to `bound`, uniformly distributed. Float represents them exactly, so that Float and
  /// Double get the same numbers.
  public mutating func numbers(_ count: Int, bound: Float = 1) -> [Double] {
    (0..<count).map { _ in Double(Float.random(in: -bound...bound, using: &self)) }
  }

  public mutating func flags(_ count: Int, trueShare: Double) -> [Bool] {
    (0..<count).map { _ in Double.random(in: 0..<1, using: &self) < trueShare }
  }
}
