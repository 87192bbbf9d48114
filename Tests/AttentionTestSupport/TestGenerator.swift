/// Random numbers for tests: xorshift64* (Vigna 2016), of its own so that tests do not lean on what they test.
public struct TestGenerator: RandomNumberGenerator {
  private var state: UInt64

  public init(seed: UInt64) {
    // Any state but 0; nearby seeds are spread.
    state = (seed &+ 1) &* 0x9e37_79b9_7f4a_7c15 | 1
    for _ in 0..<8 { _ = next() }
  }

  public mutating func next() -> UInt64 {
    state ^= state >> 12
    state ^= state << 25
    state ^= state >> 27
    return state &* 0x2545_f491_4f6c_dd1d
  }

  /// Numbers uniform on ±`bound` that Float holds exactly, so that every element type gets the same.
  public mutating func numbers(_ count: Int, bound: Float = 1) -> [Double] {
    (0..<count).map { _ in Double(Float.random(in: -bound...bound, using: &self)) }
  }

  public mutating func flags(_ count: Int, trueShare: Double) -> [Bool] {
    (0..<count).map { _ in Double.random(in: 0..<1, using: &self) < trueShare }
  }
}
