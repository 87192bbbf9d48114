internal import Attention
internal import AttentionFiles
internal import AttentionTensors

/// Takes named tensors out of a file, and at the end tells all that was wrong with their names and shapes at once.
struct WeightLoader {
  private let file: SafeTensorsFile
  private let prefix: String
  private var problems: [String] = []
  private var wanted: Set<String> = []

  /// A loader of `file`. `prefix` is what names begin with where a head was trained on the encoder; taken only if the file has it.
  init(_ file: SafeTensorsFile, optionalPrefix prefix: String) {
    self.file = file
    self.prefix = file.entries.contains { $0.name.hasPrefix(prefix) } ? prefix : ""
  }

  /// The tensor of that name and shape as Float, contiguous: a view of the file where it is that already. Wrong ones are told
  /// by ``finish(ignoring:)``; until then zeros stand in for them, which are not contiguous and take no memory.
  mutating func tensor(_ name: String, _ shape: [Int]) throws -> Tensor<Float> {
    let name = stored(prefix + name)
    wanted.insert(name)
    guard let entry = file.entry(name) else {
      problems.append("\(name) \(shape) is missing")
      return try zeros(shape)
    }
    guard entry.shape == shape else {
      problems.append("\(name) is \(entry.shape), \(shape) expected")
      return try zeros(shape)
    }
    do { return try file.tensor(name, convertingTo: Float.self) } catch let error as AttentionError
      where error.code == .unsupported
    {
      problems.append("\(name) is \(entry.dataType.rawValue), real numbers expected")
      return try zeros(shape)
    }
  }

  /// The name that the file has: norms of the first BERT checkpoints have a gamma and a beta for weight and bias.
  private func stored(_ name: String) -> String {
    for (newer, older) in [(".LayerNorm.weight", ".LayerNorm.gamma"), (".LayerNorm.bias", ".LayerNorm.beta")]
    where name.hasSuffix(newer) && file.entry(name) == nil {
      let other = name.dropLast(newer.count) + older
      if file.entry(String(other)) != nil { return String(other) }
    }
    return name
  }

  /// - Throws: `AttentionError` with every tensor that is missing, of another shape, or unknown.
  mutating func finish(ignoring isIgnored: (String) -> Bool) throws(AttentionError) {
    for entry in file.entries where !wanted.contains(entry.name) {
      // With a prefix, what lies outside of it are heads.
      guard entry.name.hasPrefix(prefix), !isIgnored(String(entry.name.dropFirst(prefix.count))) else { continue }
      problems.append("\(entry.name) \(entry.shape) is unknown")
    }
    if problems.isEmpty { return }
    let shown = problems.prefix(Self.shownCount).joined(separator: "; ")
    let rest = problems.count > Self.shownCount ? "; and \(problems.count - Self.shownCount) more" : ""
    throw AttentionError(.invalidFile, file.path, shown + rest)
  }

  private static let shownCount = 20

  /// One zero everywhere: whatever the shape, it takes no memory.
  private func zeros(_ shape: [Int]) throws -> Tensor<Float> {
    try Tensor<Float>(repeating: 0, shape: shape.map { _ in 1 }).broadcast(to: shape)
  }
}
