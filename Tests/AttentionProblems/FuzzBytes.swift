/// Choices read off a fuzzer's bytes: any bytes are some problem, and a changed byte is a changed choice.
struct FuzzBytes {
  private var bytes: Slice<UnsafeRawBufferPointer>

  init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes[...] }

  /// The next byte; 0 when there are no more.
  mutating func byte() -> Int { Int(bytes.popFirst() ?? 0) }

  /// A number below `count`, which is at most 256.
  mutating func choice(_ count: Int) -> Int { byte() % count }

  mutating func flag() -> Bool { byte() & 1 == 1 }

  mutating func element<Element>(of choices: [Element]) -> Element { choices[choice(choices.count)] }

  /// A number from 0 to `limit`: most often near one of the places where tiles end, or anywhere.
  mutating func extent(upTo limit: Int) -> Int {
    let kind = byte()
    let value = byte()
    return min(kind < 128 ? value % 20 : [31, 32, 33, 63, 64, 65, 127, 128, 129, value][value % 10], limit)
  }
}
