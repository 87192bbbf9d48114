public import AttentionTensors

/// One tensor as a safetensors header describes it.
public struct SafeTensorsEntry: Sendable, Hashable {
  /// The name of the tensor in the header.
  public let name: String
  /// The type of its elements.
  public let dataType: DataType
  /// The extent of each axis. The elements are in row-major order.
  public let shape: [Int]
  /// The range of the tensor's bytes, counted from the end of the header.
  public let byteRange: Range<Int>
}

/// The checked header of a safetensors file: it is consistent in itself, and agrees with the size of the file.
///
/// Format: the length N of the header as 8 bytes little-endian, N bytes of JSON that begin with `{`, then the data. The
/// tensors' ranges cover the data without gap or overlap. Source: huggingface/safetensors, README "Format".
struct SafeTensorsHeader {
  /// The largest number of bytes of a header, as in the reference implementation. A longer header is refused, because
  /// it is probably an attack.
  static let byteLimit = 100_000_000
  /// The most axes of a tensor; no real tensor has so many.
  static let rankLimit = 64

  let metadata: [String: String]
  /// The tensors, in the order of their bytes.
  let entries: [SafeTensorsEntry]
  /// The number of bytes in the file before the data.
  let dataOffset: Int

  init(file: UnsafeRawBufferPointer, path: String) throws(AttentionError) {
    func fail(_ message: String) -> AttentionError { AttentionError(.invalidFile, path, message) }
    if let other = whatElse(file) { throw fail("a safetensors file expected; it is \(other)") }
    guard file.count >= 8 else { throw fail("8 bytes of header length expected; the file has \(file.count)") }
    let length = UInt64(littleEndian: file.loadUnaligned(as: UInt64.self))
    guard length <= UInt64(Self.byteLimit) else {
      throw fail("a header of at most \(Self.byteLimit) bytes expected; got \(length)")
    }
    guard Int(length) <= file.count - 8 else {
      throw fail("the header of \(length) bytes reaches past the end of the file, \(file.count) bytes")
    }
    dataOffset = 8 + Int(length)
    var parser = SafeTensorsHeaderParser(UnsafeRawBufferPointer(rebasing: file[8..<dataOffset]), path: path)
    let parsed = try parser.parse()
    metadata = parsed.metadata

    let dataByteCount = file.count - dataOffset
    var entries: [SafeTensorsEntry] = []
    for raw in parsed.tensors {
      func fail(_ message: String) -> AttentionError {
        AttentionError(
          .invalidFile, path, "tensor \"\(raw.name)\" at bytes \(raw.begin)..<\(raw.end): \(message)")
      }
      guard let dataType = DataType(rawValue: raw.dataType) else { throw fail("unknown type \"\(raw.dataType)\"") }
      guard raw.begin <= raw.end else { throw fail("it ends before it begins") }
      guard raw.end <= dataByteCount else { throw fail("the file has \(dataByteCount) bytes of data") }
      guard raw.shape.count <= Self.rankLimit else {
        throw fail("at most \(Self.rankLimit) axes expected; it has \(raw.shape.count)")
      }
      let count: Int
      do { count = try elementCount(of: raw.shape) } catch { throw fail("the shape \(raw.shape) overflows") }
      let (bitCount, overflow) = count.multipliedReportingOverflow(by: dataType.bitCount)
      guard !overflow else { throw fail("the shape \(raw.shape) overflows") }
      guard bitCount % 8 == 0 else { throw fail("\(raw.shape) of \(raw.dataType) is no whole number of bytes") }
      guard bitCount / 8 == raw.end - raw.begin else {
        throw fail("\(raw.shape) of \(raw.dataType) has \(bitCount / 8) bytes; the range has \(raw.end - raw.begin)")
      }
      entries.append(
        SafeTensorsEntry(name: raw.name, dataType: dataType, shape: raw.shape, byteRange: raw.begin..<raw.end))
    }
    entries.sort {
      ($0.byteRange.lowerBound, $0.byteRange.upperBound) < ($1.byteRange.lowerBound, $1.byteRange.upperBound)
    }
    var end = 0
    for entry in entries {
      guard entry.byteRange.lowerBound == end else {
        let what =
          entry.byteRange.lowerBound < end ? "it overlaps the tensor before it" : "bytes before it belong to no tensor"
        throw fail(
          "tensor \"\(entry.name)\" at bytes \(entry.byteRange.lowerBound)..<\(entry.byteRange.upperBound): \(what), "
            + "which end at \(end)")
      }
      end = entry.byteRange.upperBound
    }
    guard end == dataByteCount else {
      throw fail("tensors end at byte \(end) of the data; the file has \(dataByteCount)")
    }
    self.entries = entries
  }
}
