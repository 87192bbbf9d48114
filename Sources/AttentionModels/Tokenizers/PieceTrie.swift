/// A set of byte strings, each with a number, which is searched one byte at a time.
///
/// All edges are in one hash table with open addressing: a step takes one look-up, however many edges a node has.
struct PieceTrie: Sendable {
  /// The key of the edge in each slot, `node << 8 | byte`, plus 1; 0: the slot is free.
  private var keys: [UInt64]
  private var targets: [Int32]
  private var values: [Int32] = [-1]
  private var edgeCount = 0

  static let root: Int32 = 0

  init() {
    keys = Array(repeating: 0, count: 1 << 10)
    targets = Array(repeating: 0, count: 1 << 10)
  }

  /// The node that `byte` leads to; nil if there is none.
  @inline(__always)
  func step(_ node: Int32, _ byte: UInt8) -> Int32? {
    let key = UInt64(UInt32(bitPattern: node)) << 8 | UInt64(byte) + 1
    var slot = Self.hash(key) & (keys.count - 1)
    while keys[slot] != key {
      if keys[slot] == 0 { return nil }
      slot = (slot + 1) & (keys.count - 1)
    }
    return targets[slot]
  }

  /// The number of the string that ends at this node; −1 if none does.
  @inline(__always)
  func value(_ node: Int32) -> Int32 { values[Int(node)] }

  /// The node at the end of a string; nil if no string of the set begins with it.
  func node(_ bytes: some Sequence<UInt8>) -> Int32? {
    var node = Self.root
    for byte in bytes {
      guard let next = step(node, byte) else { return nil }
      node = next
    }
    return node
  }

  /// Inserts a string. If it is inserted twice, the later number counts.
  mutating func insert(_ bytes: some Sequence<UInt8>, _ value: Int32) {
    var node = Self.root
    for byte in bytes {
      if let next = step(node, byte) {
        node = next
        continue
      }
      let next = Int32(values.count)
      values.append(-1)
      if 2 * (edgeCount + 1) > keys.count { grow() }
      edgeCount += 1
      place(UInt64(UInt32(bitPattern: node)) << 8 | UInt64(byte) + 1, next)
      node = next
    }
    values[Int(node)] = value
  }

  private mutating func place(_ key: UInt64, _ target: Int32) {
    var slot = Self.hash(key) & (keys.count - 1)
    while keys[slot] != 0 { slot = (slot + 1) & (keys.count - 1) }
    keys[slot] = key
    targets[slot] = target
  }

  private mutating func grow() {
    let old = zip(keys, targets).filter { $0.0 != 0 }
    keys = Array(repeating: 0, count: 2 * keys.count)
    targets = Array(repeating: 0, count: keys.count)
    for (key, target) in old { place(key, target) }
  }

  @inline(__always)
  private static func hash(_ key: UInt64) -> Int {
    // Fibonacci hashing: the high bits of a product with 2^64/φ are well mixed.
    Int(truncatingIfNeeded: (key &* 0x9e37_79b9_7f4a_7c15) >> 32)
  }
}
