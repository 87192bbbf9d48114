public import AttentionTensors

/// A safetensors file, opened for reading: named tensors and a dictionary of strings.
///
///     let file = try SafeTensorsFile(contentsOf: "model.safetensors")
///     let weight = try file.tensor("encoder.weight", as: Float.self)
///
/// Opening a file reads its header and checks it: types and shapes are valid, byte ranges have neither gaps nor
/// overlaps, and no name occurs twice. Names that Unicode counts as equal are one name. An error about a tensor's type,
/// shape or byte range states the tensor's name and its byte range.
public struct SafeTensorsFile: Sendable {
  /// How the bytes of a file get into memory.
  public enum Loading: Sendable, Hashable {
    /// The file is mapped: tensors are views of it, and each page is read when it is first used.
    ///
    /// Do not change the file or cut it short while a `SafeTensorsFile` of it or a tensor from it exists: reading a
    /// page that no longer exists kills the process.
    case mapped
    /// The file is read as a whole when it is opened, and may be changed afterwards. If it is cut short while it is
    /// read, opening throws.
    case copied
  }

  /// The path of the file. For bytes in memory, the name that errors use for them.
  public let path: String
  /// The strings that the header holds under `__metadata__`.
  public let metadata: [String: String]
  /// The descriptions of the tensors, in the order of their bytes in the file.
  public let entries: [SafeTensorsEntry]
  private let index: [String: Int]
  private let bytes: FileBytes
  private let dataOffset: Int

  /// Opens the file at `path`.
  /// - Throws: `AttentionError` if the file cannot be read or contradicts its format.
  public init(contentsOf path: String, loading: Loading = .mapped) throws(AttentionError) {
    try self.init(FileBytes(path: path, isMapped: loading == .mapped), path: path)
  }

  /// Reads a file whose bytes are already in memory. The bytes are copied once.
  /// - Throws: `AttentionError` if the bytes contradict the format or memory is lacking.
  public init(bytes: [UInt8], name: String = "bytes in memory") throws(AttentionError) {
    let copy: FileBytes
    do { copy = try bytes.withUnsafeBytes { try FileBytes(copying: $0, name: name) } } catch {
      throw error as! AttentionError
    }
    try self.init(copy, path: name)
  }

  private init(_ bytes: FileBytes, path: String) throws(AttentionError) {
    self.path = path
    self.bytes = bytes
    let header = try SafeTensorsHeader(file: bytes.bytes, path: path)
    metadata = header.metadata
    entries = header.entries
    dataOffset = header.dataOffset
    index = Dictionary(uniqueKeysWithValues: header.entries.enumerated().map { ($1.name, $0) })
  }

  /// The description of the tensor of this name; nil if there is no such tensor.
  public func entry(_ name: String) -> SafeTensorsEntry? { index[name].map { entries[$0] } }

  /// The tensor of this name, in the type in which it is stored.
  ///
  /// It is a view of the file if its bytes are aligned, else a copy. Booleans are checked and always copied.
  /// - Throws: `AttentionError` if there is no tensor of this name, it has another type, or a boolean is not 0 or 1.
  public func tensor<Element: TensorElement>(
    _ name: String, as _: Element.Type = Element.self
  ) throws -> Tensor<Element> {
    let entry = try requireEntry(name)
    guard entry.dataType == Element._dataType, entry.dataType.bitCount == 8 * MemoryLayout<Element>.stride else {
      throw AttentionError(
        .invalidArgument, path,
        "tensor \"\(name)\" of \(Element._dataType.rawValue) expected; it is \(entry.dataType.rawValue)")
    }
    let data = data(of: entry)
    // A Bool in memory must be 0 or 1, but a file can hold any byte. So the elements are checked as bytes before they
    // become Bools.
    if Element.self == Bool.self {
      guard let bad = data.firstIndex(where: { $0 > 1 }) else { return try copy(data, entry.shape) }
      throw AttentionError(
        .invalidFile, path,
        "tensor \"\(name)\" at bytes \(entry.byteRange.lowerBound)..<\(entry.byteRange.upperBound): element \(bad) is "
          + "\(data[bad]); a BOOL is 0 or 1")
    }
    if data.count > 0, Int(bitPattern: data.baseAddress!) % MemoryLayout<Element>.alignment != 0 {
      return try copy(data, entry.shape)
    }
    let base = data.baseAddress ?? UnsafeRawPointer(bitPattern: TensorStorage.alignment)!
    return Tensor(
      storage: TensorStorage(readOnly: base, byteCount: data.count, owner: bytes), offset: 0, shape: entry.shape,
      strides: rowMajorStrides(of: entry.shape))
  }

  /// The tensor of this name, converted to `Element` and rounded to nearest.
  ///
  /// If the tensor is stored in that type, the result is that of ``tensor(_:as:)``.
  /// - Throws: `AttentionError` if there is no tensor of this name, or its type is not F16, BF16, F32 or F64. On Macs
  ///   with Intel processors, F16 throws too.
  public func tensor<Element: RealTensorElement>(
    _ name: String, convertingTo _: Element.Type
  ) throws -> Tensor<Element> {
    let entry = try requireEntry(name)
    switch entry.dataType {
    case Element._dataType: return try tensor(name)
    case .float32: return try Tensor(converting: tensor(name, as: Float.self))
    case .float64: return try Tensor(converting: tensor(name, as: Double.self))
    case .bfloat16: return try Tensor(converting: tensor(name, as: BFloat16.self))
    #if !(os(macOS) && arch(x86_64))
      case .float16: return try Tensor(converting: tensor(name, as: Float16.self))
    #endif
    default:
      throw AttentionError(
        .unsupported, path, "tensor \"\(name)\" of real numbers expected; it is \(entry.dataType.rawValue)")
    }
  }

  /// All tensors by their names, each as ``tensor(_:as:)`` gives it: a state dictionary.
  /// - Throws: `AttentionError` if a tensor has another type, or a boolean is not 0 or 1.
  public func tensors<Element: TensorElement>(as element: Element.Type) throws -> [String: Tensor<Element>] {
    Dictionary(uniqueKeysWithValues: try entries.map { ($0.name, try tensor($0.name, as: element)) })
  }

  /// All tensors by their names, each as ``tensor(_:convertingTo:)`` gives it.
  /// - Throws: `AttentionError` if ``tensor(_:convertingTo:)`` cannot convert the type of a tensor.
  public func tensors<Element: RealTensorElement>(
    convertingTo element: Element.Type
  ) throws -> [String: Tensor<Element>] {
    Dictionary(uniqueKeysWithValues: try entries.map { ($0.name, try tensor($0.name, convertingTo: element)) })
  }

  /// Calls `body` with the bytes of a tensor of any type, as they are in the file.
  /// - Throws: What `body` throws; `AttentionError` where there is no tensor of that name.
  public func withUnsafeBytes<R>(of name: String, _ body: (UnsafeRawBufferPointer) throws -> R) throws -> R {
    let entry = try requireEntry(name)
    return try withExtendedLifetime(bytes) { try body(data(of: entry)) }
  }

  private func requireEntry(_ name: String) throws(AttentionError) -> SafeTensorsEntry {
    if let entry = entry(name) { return entry }
    let names = entries.prefix(20).map(\.name).joined(separator: ", ")
    throw AttentionError(.notFound, path, "no tensor \"\(name)\"; there are \(names)")
  }

  private func data(of entry: SafeTensorsEntry) -> UnsafeRawBufferPointer {
    let range = dataOffset + entry.byteRange.lowerBound..<dataOffset + entry.byteRange.upperBound
    return UnsafeRawBufferPointer(rebasing: bytes.bytes[range])
  }

  private func copy<Element>(_ data: UnsafeRawBufferPointer, _ shape: [Int]) throws -> Tensor<Element> {
    try Tensor(shape: shape) { UnsafeMutableRawBufferPointer($0).copyMemory(from: data) }
  }
}
