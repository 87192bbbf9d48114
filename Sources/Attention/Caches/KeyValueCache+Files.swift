internal import AttentionFiles
internal import AttentionTensors

extension KeyValueCache {
  private static var format: String { "swift-attention key-value cache, version 2" }

  /// Writes the cache as a safetensors file. Its tensors `key` and `value` are those of ``tensors()``, `lengths` is
  /// ``lengths``, and `stored` is ``storedCounts``. Retention and placement are metadata.
  ///
  /// A page that several samples share is written once for each of them.
  /// - Throws: `AttentionError` if memory runs out or the system refuses to write; the file at `path` then stays as it
  ///   was.
  public func write(to path: String) throws {
    let (key, value) = try tensors()
    var writer = SafeTensorsWriter()
    writer.metadata["format"] = Self.format
    if case .window(let length, let first) = retention {
      writer.metadata["window"] = "\(length)"
      writer.metadata["keeping_first"] = "\(first)"
    }
    if case .paged(let length) = placement { writer.metadata["page_length"] = "\(length)" }
    try writer.add("key", key)
    try writer.add("value", value)
    try writer.add("lengths", try Tensor<Int64>(lengths.map(Int64.init), shape: [batchCount]))
    try writer.add("stored", try Tensor<Int64>(storedCounts.map(Int64.init), shape: [batchCount]))
    try writer.write(to: path)
  }

  /// Reads a cache from a file that ``write(to:)`` has written. The file's element type must be `Element`.
  /// - Throws: `AttentionError` if the file cannot be read, is not such a file, has another element type, or
  ///   contradicts itself, or if memory runs out.
  public convenience init(contentsOf path: String) throws {
    let file = try SafeTensorsFile(contentsOf: path)
    func require(_ condition: Bool, _ message: @autoclosure () -> String) throws {
      if !condition { throw AttentionError(.invalidFile, path, message()) }
    }
    try require(
      file.metadata["format"] == Self.format,
      "\"\(Self.format)\" expected as format; got \(file.metadata["format"].map { "\"\($0)\"" } ?? "none")")
    func number(_ name: String) throws -> Int? {
      guard let text = file.metadata[name] else { return nil }
      guard let number = Int(text) else {
        throw AttentionError(.invalidFile, path, "\(name): a number expected; got \"\(text)\"")
      }
      return number
    }
    var retention = KeyValueRetention.all
    if let length = try number("window") {
      retention = .window(length: length, keepingFirst: try number("keeping_first") ?? 0)
    }
    // Of a sequence that is longer than what is stored, a window must be stored. If the sum overflows, no file can hold it.
    var leastStored: Int?
    if case .window(let window, let first) = retention {
      let (sum, overflows) = window.addingReportingOverflow(first)
      leastStored = overflows ? .max : sum
    }
    let placement = try number("page_length").map { KeyValuePlacement.paged(pageLength: $0) } ?? .contiguous
    let key: Tensor<Element> = try file.tensor("key")
    let value: Tensor<Element> = try file.tensor("value")
    let lengths = try file.tensor("lengths", as: Int64.self)
    let stored = try file.tensor("stored", as: Int64.self)
    try require(
      key.rank == 4 && value.rank == 4 && key.shape.dropLast() == value.shape.dropLast()
        && lengths.shape == [key.shape[0]] && stored.shape == lengths.shape,
      "key [B, Hk, S, E], value [B, Hk, S, Ev], lengths [B] and stored [B] expected; got \(key.shape), "
        + "\(value.shape), \(lengths.shape), \(stored.shape)")
    try require(
      zip(lengths.array, stored.array).allSatisfy { length, count in
        (0...Int64(key.shape[2])).contains(count) && count <= length && length <= Int64(Int32.max)
          && (length == count || leastStored.map { count >= $0 } ?? false)
      }, "counts that fit \(key.shape[2]) keys expected; got lengths \(lengths.array), stored \(stored.array)")
    // Rows without bytes take no space in the file, so a short file could claim any number of them.
    try require(
      key.count + value.count > 0 || stored.array.allSatisfy { $0 == 0 },
      "keys or values with elements expected; got \(key.shape), \(value.shape)")
    try self.init(
      batchCount: key.shape[0], headCount: key.shape[1], headDimension: key.shape[3], valueDimension: value.shape[3],
      retention: retention, placement: placement)
    try restore(
      key: key, value: value, stored: stored.array.map { Int($0) }, lengths: lengths.array.map { Int($0) })
  }
}
