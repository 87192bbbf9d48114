/// Reads choices from a fuzzer's bytes. Any bytes give a valid problem, and changing a byte changes a choice.
struct FuzzBytes {
  private var bytes: Slice<UnsafeRawBufferPointer>

  init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes[...] }

  /// The next byte; 0 when there are no more.
  mutating func byte() -> Int { Int(bytes.popFirst() ?? 0) }

  /// A number below `count`, which is at most 256.
  mutating func choice(_ count: Int) -> Int { byte() % count }

  mutating func flag() -> Bool { byte() & 1 == 1 }

  mutating func element<Element>(of choices: [Element]) -> Element { choices[choice(choices.count)] }

  /// A number from 0 to `limit`: half of the time below 20, otherwise mostly 32, 64 or 128 or a number beside one of
  /// them. Tiles end at these numbers.
  mutating func extent(upTo limit: Int) -> Int {
    let kind = byte()
    let value = byte()
    return min(kind < 128 ? value % 20 : [31, 32, 33, 63, 64, 65, 127, 128, 129, value][value % 10], limit)
  }
}
