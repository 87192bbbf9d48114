public import AttentionTensors

/// Collects tensors and strings, then writes them as a safetensors file.
///
///     var writer = SafeTensorsWriter()
///     writer.metadata["format"] = "pt"
///     try writer.add("weight", weight)
///     try writer.write(to: "model.safetensors")
///
/// Writing is atomic: the path holds either the old content or the whole new content, never a part of it.
public struct SafeTensorsWriter: Sendable {
  private struct Entry: Sendable {
    var name: String
    var dataType: DataType
    var shape: [Int]
    var byteCount: Int
    var withBytes: @Sendable ((UnsafeRawBufferPointer) throws -> Void) throws -> Void
  }

  /// The strings that the file holds under `__metadata__`.
  public var metadata: [String: String] = [:]
  private var entries: [Entry] = []
  private var names: Set<String> = []
  private var totalByteCount = 0

  /// An empty writer.
  public init() {}

  /// Adds a tensor of any strides. Its elements are not copied until the file is written.
  /// - Throws: `AttentionError` if the name is taken or reserved, or the tensor is too large for a file.
  public mutating func add<Element: TensorElement>(_ name: String, _ tensor: Tensor<Element>) throws(AttentionError) {
    let (byteCount, overflow) = try elementCount(of: tensor.shape)
      .multipliedReportingOverflow(by: MemoryLayout<Element>.stride)
    try requireShape(!overflow, "SafeTensorsWriter", "tensor \"\(name)\" of \(tensor.shape) is too large for a file")
    try append(
      Entry(
        name: name, dataType: Element._dataType, shape: tensor.shape, byteCount: byteCount,
        withBytes: { body in try tensor.withUnsafeBufferPointer { try body(UnsafeRawBufferPointer($0)) } }))
  }

  /// Adds a tensor of any type that the format has. `bytes` are its elements as they will be in the file.
  /// - Throws: `AttentionError` if the name is taken or reserved, or the number of bytes does not fit the type and
  ///   shape.
  public mutating func add(_ name: String, dataType: DataType, shape: [Int], bytes: [UInt8]) throws(AttentionError) {
    let (bitCount, overflow) = try elementCount(of: shape).multipliedReportingOverflow(by: dataType.bitCount)
    try requireShape(
      !overflow && bitCount % 8 == 0 && bitCount / 8 == bytes.count, "SafeTensorsWriter",
      "tensor \"\(name)\": \(shape) of \(dataType.rawValue) is not \(bytes.count) bytes")
    try append(
      Entry(
        name: name, dataType: dataType, shape: shape, byteCount: bytes.count,
        withBytes: { body in try bytes.withUnsafeBytes(body) }))
  }

  private mutating func append(_ entry: Entry) throws(AttentionError) {
    let (total, overflow) = totalByteCount.addingReportingOverflow(entry.byteCount)
    try requireArgument(
      !overflow, "SafeTensorsWriter", "tensor \"\(entry.name)\" makes the file larger than an Int tells")
    try requireArgument(
      entry.name != "__metadata__", "SafeTensorsWriter", "the name \"__metadata__\" is reserved for strings")
    try requireArgument(
      names.insert(entry.name).inserted, "SafeTensorsWriter", "the name \"\(entry.name)\" appears twice")
    entries.append(entry)
    totalByteCount = total
  }

  /// Writes the file: writes a temporary file in the same folder, syncs it, and renames it to `path`.
  /// - Throws: `AttentionError` if the file cannot be written, or if the header would be longer than the format allows.
  ///   `path` is then unchanged.
  public func write(to path: String) throws {
    try writeAtomically(to: path, emit)
  }

  /// The bytes of the file, for storage outside a file system.
  /// - Throws: `AttentionError` if the header would be longer than the format allows.
  public func bytes() throws -> [UInt8] {
    var result: [UInt8] = []
    try emit { result += $0 }
    return result
  }

  private func emit(_ append: (UnsafeRawBufferPointer) throws -> Void) throws {
    // The widest types come first, so that every tensor is aligned to its type. Tensors of one width are ordered by
    // name.
    let ordered = entries.sorted {
      ($1.dataType.bitCount, $0.name) < ($0.dataType.bitCount, $1.name)
    }
    let header = header(ordered)
    try requireArgument(
      header.count <= SafeTensorsHeader.byteLimit, "SafeTensorsWriter",
      "a header of at most \(SafeTensorsHeader.byteLimit) bytes expected; names and metadata make \(header.count)")
    var length = UInt64(header.count).littleEndian
    try Swift.withUnsafeBytes(of: &length) { try append($0) }
    try header.withUnsafeBytes { try append($0) }
    for entry in ordered { try entry.withBytes { try append($0) } }
  }

  private func header(_ ordered: [Entry]) -> [UInt8] {
    var members: [String] = []
    if !metadata.isEmpty {
      let pairs = metadata.sorted { $0.key < $1.key }.map { "\(quoted($0.key)):\(quoted($0.value))" }
      members.append("\"__metadata__\":{\(pairs.joined(separator: ","))}")
    }
    var offset = 0
    for entry in ordered {
      let shape = entry.shape.map(String.init).joined(separator: ",")
      members.append(
        "\(quoted(entry.name)):{\"dtype\":\"\(entry.dataType.rawValue)\",\"shape\":[\(shape)],"
          + "\"data_offsets\":[\(offset),\(offset + entry.byteCount)]}")
      offset += entry.byteCount
    }
    var bytes = Array("{\(members.joined(separator: ","))}".utf8)
    // The format allows blanks at the end of the header. They are added so that the data begin at a multiple of 64
    // bytes in the file. In a mapped file, this is the beginning of a cache line.
    while (8 + bytes.count) % TensorStorage.alignment != 0 { bytes.append(UInt8(ascii: " ")) }
    return bytes
  }

  private func quoted(_ text: String) -> String {
    var result = "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"": result += "\\\""
      case "\\": result += "\\\\"
      case "\u{0}"..<"\u{20}":
        let digits = String(scalar.value, radix: 16)
        result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
      default: result.unicodeScalars.append(scalar)
      }
    }
    return result + "\""
  }
}
