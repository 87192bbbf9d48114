/// Philox4x32-10, a counter-based generator of random numbers: Salmon et al. 2011, "Parallel random numbers: as easy as
/// 1, 2, 3".
public enum Philox {
  /// The four random numbers of a counter.
  public static func numbers(_ counter: [UInt32], key: [UInt32]) -> [UInt32] {
    var (c, k) = (counter, key)
    for _ in 0..<10 {
      let a = c[0].multipliedFullWidth(by: 0xd251_1f53)
      let b = c[2].multipliedFullWidth(by: 0xcd9e_8d57)
      c = [b.high ^ c[1] ^ k[0], b.low, a.high ^ c[3] ^ k[1], a.low]
      k = [k[0] &+ 0x9e37_79b9, k[1] &+ 0xbb67_ae85]
    }
    return c
  }

  /// The factor of the weight of query i of head h for key j, in element b of the batch: 1 / (1 − p) if the weight is
  /// kept, 0 if it is dropped, which happens with probability p.
  public static func factor(probability: Double, seed: UInt64, b: Int, h: Int, i: Int, j: Int) -> Double {
    let dropped = (probability * 0x1p32).rounded()
    if dropped == 0x1p32 { return 0 }
    let numbers = numbers(
      [UInt32(j / 4), UInt32(i), UInt32(h), UInt32(b)],
      key: [UInt32(truncatingIfNeeded: seed), UInt32(truncatingIfNeeded: seed >> 32)])
    return Double(numbers[j % 4]) < dropped ? 0 : 0x1p32 / (0x1p32 - dropped)
  }
}
