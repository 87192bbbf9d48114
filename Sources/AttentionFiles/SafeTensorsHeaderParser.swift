internal import AttentionTensors

/// Parses the JSON of a safetensors header: one object, whose members are objects. The parser accepts no other JSON.
///
/// A general parser keeps the last of two members of the same name, and accepts any depth of nesting. In this parser, a
/// repeated name and nesting deeper than the format's are errors. The depth of calls is limited too, so no header
/// exhausts the stack.
struct SafeTensorsHeaderParser {
  struct RawTensor {
    var name: String
    var dataType: String
    var shape: [Int]
    var begin: Int
    var end: Int
  }

  private let bytes: UnsafeRawBufferPointer
  private let path: String
  private var position = 0

  init(_ bytes: UnsafeRawBufferPointer, path: String) {
    self.bytes = bytes
    self.path = path
  }

  mutating func parse() throws(AttentionError) -> (metadata: [String: String], tensors: [RawTensor]) {
    guard String(validating: bytes, as: UTF8.self) != nil else { throw fail("the header is not valid UTF-8") }
    guard bytes.first == UInt8(ascii: "{") else { throw fail("the header must begin with \"{\"") }
    var metadata: [String: String]?
    var tensors: [RawTensor] = []
    var names: Set<String> = []
    try parseObject { parser, name throws(AttentionError) in
      guard names.insert(name).inserted else { throw parser.fail("the name \"\(name)\" appears twice") }
      if name == "__metadata__" {
        metadata = try parser.parseMetadata()
      } else {
        tensors.append(try parser.parseTensor(name))
      }
    }
    skipBlanks()
    guard position == bytes.count else { throw fail("text after the end of the header") }
    return (metadata ?? [:], tensors)
  }

  private mutating func parseMetadata() throws(AttentionError) -> [String: String] {
    var metadata: [String: String] = [:]
    try parseObject { parser, name throws(AttentionError) in
      parser.skipBlanks()
      guard parser.position < parser.bytes.count, parser.bytes[parser.position] == UInt8(ascii: "\"") else {
        throw parser.fail("__metadata__: a string expected for \"\(name)\", at byte \(parser.position) of the header")
      }
      let value = try parser.parseString()
      guard metadata.updateValue(value, forKey: name) == nil else {
        throw parser.fail("the name \"\(name)\" appears twice in __metadata__")
      }
    }
    return metadata
  }

  private mutating func parseTensor(_ name: String) throws(AttentionError) -> RawTensor {
    var dataType: String?
    var shape: [Int]?
    var offsets: [Int]?
    try parseObject { parser, field throws(AttentionError) in
      var isRepeated = false
      switch field {
      case "dtype":
        isRepeated = dataType != nil
        dataType = try parser.parseString()
      case "shape":
        isRepeated = shape != nil
        shape = try parser.parseIntegers()
      case "data_offsets":
        isRepeated = offsets != nil
        offsets = try parser.parseIntegers()
      default: throw parser.fail("tensor \"\(name)\": unknown field \"\(field)\"")
      }
      if isRepeated { throw parser.fail("tensor \"\(name)\": field \"\(field)\" appears twice") }
    }
    guard let dataType, let shape, let offsets, offsets.count == 2 else {
      throw fail("tensor \"\(name)\": dtype, shape and two data_offsets expected")
    }
    return RawTensor(name: name, dataType: dataType, shape: shape, begin: offsets[0], end: offsets[1])
  }

  // MARK: JSON

  private mutating func parseObject(
    _ member: (inout SafeTensorsHeaderParser, String) throws(AttentionError) -> Void
  ) throws(AttentionError) {
    try expect("{")
    if takes("}") { return }
    repeat {
      let name = try parseString()
      try expect(":")
      try member(&self, name)
    } while takes(",")
    try expect("}")
  }

  private mutating func parseIntegers() throws(AttentionError) -> [Int] {
    var integers: [Int] = []
    try expect("[")
    if takes("]") { return integers }
    repeat { integers.append(try parseInteger()) } while takes(",")
    try expect("]")
    return integers
  }

  private mutating func parseInteger() throws(AttentionError) -> Int {
    skipBlanks()
    let start = position
    while position < bytes.count, (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(bytes[position]) { position += 1 }
    let digits = bytes[start..<position]
    guard !digits.isEmpty, digits.count == 1 || digits.first != UInt8(ascii: "0"),
      let value = Int(String(decoding: digits, as: UTF8.self))
    else { throw fail("a whole number from 0 to \(Int.max) expected at byte \(start) of the header") }
    return value
  }

  private mutating func parseString() throws(AttentionError) -> String {
    try expect("\"")
    var text: [UInt8] = []
    while position < bytes.count {
      let byte = bytes[position]
      position += 1
      switch byte {
      case UInt8(ascii: "\""): return String(decoding: text, as: UTF8.self)
      case UInt8(ascii: "\\"): text += try parseEscape().utf8
      case 0..<0x20: throw fail("a control character in a string at byte \(position - 1) of the header")
      default: text.append(byte)
      }
    }
    throw fail("the header ends inside a string")
  }

  private mutating func parseEscape() throws(AttentionError) -> String {
    guard position < bytes.count else { throw fail("the header ends inside a string") }
    let byte = bytes[position]
    position += 1
    switch byte {
    case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): return String(UnicodeScalar(byte))
    case UInt8(ascii: "b"): return "\u{8}"
    case UInt8(ascii: "f"): return "\u{c}"
    case UInt8(ascii: "n"): return "\n"
    case UInt8(ascii: "r"): return "\r"
    case UInt8(ascii: "t"): return "\t"
    case UInt8(ascii: "u"):
      var units = [try parseHexadecimal()]
      if UTF16.isLeadSurrogate(units[0]), position + 1 < bytes.count, bytes[position] == UInt8(ascii: "\\"),
        bytes[position + 1] == UInt8(ascii: "u")
      {
        position += 2
        units.append(try parseHexadecimal())
      }
      guard let text = String(validating: units, as: UTF16.self) else {
        throw fail("half a surrogate pair at byte \(position) of the header")
      }
      return text
    default: throw fail("an unknown escape at byte \(position - 1) of the header")
    }
  }

  private mutating func parseHexadecimal() throws(AttentionError) -> UInt16 {
    let digits = bytes[position..<min(position + 4, bytes.count)]
    guard digits.count == 4, digits.allSatisfy({ UnicodeScalar($0).properties.isASCIIHexDigit }),
      let value = UInt16(String(decoding: digits, as: UTF8.self), radix: 16)
    else { throw fail("four hexadecimal digits expected at byte \(position) of the header") }
    position += 4
    return value
  }

  private mutating func skipBlanks() {
    while position < bytes.count, [0x20, 0x09, 0x0a, 0x0d].contains(bytes[position]) { position += 1 }
  }

  private mutating func takes(_ character: UnicodeScalar) -> Bool {
    skipBlanks()
    guard position < bytes.count, bytes[position] == UInt8(ascii: character) else { return false }
    position += 1
    return true
  }

  private mutating func expect(_ character: UnicodeScalar) throws(AttentionError) {
    if !takes(character) { throw fail("\"\(character)\" expected at byte \(position) of the header") }
  }

  private func fail(_ message: String) -> AttentionError { AttentionError(.invalidFile, path, message) }
}
