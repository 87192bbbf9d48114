internal import AttentionFiles
internal import AttentionTensors

extension KeyValueCache {
  private static var format: String { "swift-attention key-value cache, version 1" }

  /// Writes the tokens as a safetensors file: `key`, `value`, `lengths` and `stored`, and the kind as metadata.
  ///
  /// Pages that samples share are written for each.
  /// - Throws: `AttentionError` where the system refuses; then `path` is as it was.
  public func save(to path: String) throws {
    let (key, value) = try tensors()
    var writer = SafeTensorsWriter()
    writer.metadata["format"] = Self.format
    switch kind {
    case .growing: writer.metadata["kind"] = "growing"
    case .window(let length, let first):
      writer.metadata["kind"] = "window"
      writer.metadata["window"] = "\(length)"
      writer.metadata["keeping_first"] = "\(first)"
    case .paged(let length):
      writer.metadata["kind"] = "paged"
      writer.metadata["page_length"] = "\(length)"
    }
    try writer.add("key", key)
    try writer.add("value", value)
    try writer.add("lengths", try Tensor<Int64>(lengths.map(Int64.init), shape: [batchCount]))
    try writer.add("stored", try Tensor<Int64>(storedCounts.map(Int64.init), shape: [batchCount]))
    try writer.write(to: path)
  }

  /// A cache that ``save(to:)`` wrote, of the same element type.
  /// - Throws: `AttentionError` where the file is none, or of another type, or contradicts itself.
  public convenience init(contentsOf path: String) throws {
    let file = try SafeTensorsFile(path: path)
    func require(_ condition: Bool, _ message: @autoclosure () -> String) throws {
      if !condition { throw AttentionError(.invalidFile, path, message()) }
    }
    try require(
      file.metadata["format"] == Self.format,
      "\"\(Self.format)\" expected as format; got \(file.metadata["format"].map { "\"\($0)\"" } ?? "none")")
    func number(_ name: String) throws -> Int {
      guard let text = file.metadata[name], let number = Int(text) else {
        throw AttentionError(
          .invalidFile, path, "\(name): a number expected; got \(file.metadata[name].map { "\"\($0)\"" } ?? "none")")
      }
      return number
    }
    let kind: Kind
    switch file.metadata["kind"] {
    case "growing": kind = .growing
    case "window": kind = .window(length: try number("window"), keepingFirst: try number("keeping_first"))
    case "paged": kind = .paged(pageLength: try number("page_length"))
    case let other:
      throw AttentionError(
        .invalidFile, path, "kind: growing, window or paged expected; got \(other.map { "\"\($0)\"" } ?? "none")")
    }
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
        (0...Int64(key.shape[2])).contains(count) && (count...Int64(Int32.max)).contains(length)
          && (length == count
            || { if case .window(let window, let first) = kind { count >= window + first } else { false } }())
      }, "counts that fit \(key.shape[2]) keys expected; got lengths \(lengths.array), stored \(stored.array)")
    // Rows without bytes would be as many as a few digits say.
    try require(
      key.count + value.count > 0 || stored.array.allSatisfy { $0 == 0 },
      "keys or values with elements expected; got \(key.shape), \(value.shape)")
    try self.init(
      kind, batchCount: key.shape[0], headCount: key.shape[1], width: key.shape[3], valueWidth: value.shape[3])
    try restore(
      key: key, value: value, stored: stored.array.map { Int($0) }, lengths: lengths.array.map { Int($0) })
  }
}
