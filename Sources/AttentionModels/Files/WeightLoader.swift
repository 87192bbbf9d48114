internal import Attention
internal import AttentionFiles
internal import AttentionTensors

/// Takes named tensors out of a file. At the end it reports all wrong names and shapes at once.
struct WeightLoader {
  private let file: SafeTensorsFile
  private let prefix: String
  private var problems: [String] = []
  private var wanted: Set<String> = []

  /// A loader of `file`. If an encoder was trained together with a task head, the names of the encoder's tensors in its
  /// file begin with `prefix`. If no name in the file begins with `prefix`, the loader uses the names without it.
  init(_ file: SafeTensorsFile, optionalPrefix prefix: String) {
    self.file = file
    self.prefix = file.entries.contains { $0.name.hasPrefix(prefix) } ? prefix : ""
  }

  /// The tensor of this name and shape, contiguous and of type Float. It is a view of the file if the file stores it in
  /// this form. In place of a wrong tensor, the result is zeros, which are not contiguous and share one element in
  /// memory; ``finish(ignoring:)`` then reports the wrong tensor.
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

  /// The name that the file uses: in the first BERT checkpoints, norms have a gamma and a beta instead of weight and bias.
  private func stored(_ name: String) -> String {
    for (newer, older) in [(".LayerNorm.weight", ".LayerNorm.gamma"), (".LayerNorm.bias", ".LayerNorm.beta")]
    where name.hasSuffix(newer) && file.entry(name) == nil {
      let other = name.dropLast(newer.count) + older
      if file.entry(String(other)) != nil { return String(other) }
    }
    return name
  }

  /// Checks that no tensor was wrong, and that the file has no tensors beyond those that were asked for.
  /// - Throws: `AttentionError` that lists up to 20 tensors that are missing, unknown, or of another shape or type, and
  ///   the number of the rest.
  mutating func finish(ignoring isIgnored: (String) -> Bool) throws(AttentionError) {
    for entry in file.entries where !wanted.contains(entry.name) {
      // If the file has the prefix, tensors without it belong to task heads.
      guard entry.name.hasPrefix(prefix), !isIgnored(String(entry.name.dropFirst(prefix.count))) else { continue }
      problems.append("\(entry.name) \(entry.shape) is unknown")
    }
    if problems.isEmpty { return }
    let shown = problems.prefix(Self.shownCount).joined(separator: "; ")
    let rest = problems.count > Self.shownCount ? "; and \(problems.count - Self.shownCount) more" : ""
    throw AttentionError(.invalidFile, file.path, shown + rest)
  }

  private static let shownCount = 20

  /// A tensor of zeros that share one element in memory, so that its size in memory does not depend on the shape.
  private func zeros(_ shape: [Int]) throws -> Tensor<Float> {
    try Tensor<Float>(repeating: 0, shape: shape.map { _ in 1 }).broadcast(to: shape)
  }
}
