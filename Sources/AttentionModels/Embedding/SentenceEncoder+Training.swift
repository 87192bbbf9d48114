public import Attention
internal import AttentionFiles
internal import Foundation

extension SentenceEncoder: TrainableLayer {
  /// Calls `body` with the parameters of the encoder: ``BertEncoder/forEachParameter(prefix:_:)``.
  public mutating func forEachParameter(
    prefix: String, _ body: (_ name: String, _ value: inout Tensor<Float>) throws -> Void
  ) throws {
    try encoder.forEachParameter(prefix: prefix, body)
  }

  /// A vector for each text, and the backward pass.
  ///
  /// The vectors are those of ``embed(_:prompt:context:)``, up to rounding. All texts pass through the encoder
  /// together.
  ///
  /// - Parameters:
  ///   - texts: Any texts. A text with more than ``maximumLength`` tokens is cut.
  ///   - prompt: The prompt before each text.
  ///   - dropout: Dropout of the attention weights. Nil: none.
  ///   - recomputes: True: only the input of each layer is saved, and the pullback computes everything else once more.
  ///   - context: Threads, instruction set, algorithm, also those of the backward pass.
  /// - Returns: `[texts, dimension]`, and a pullback that adds the gradients of the encoder's parameters.
  /// - Throws: `AttentionError` for a prompt that the model does not have, or if memory runs out.
  public func valueWithPullback(
    _ texts: [String], prompt: EmbeddingPrompt = .automatic, dropout: AttentionDropout? = nil, recomputes: Bool = false,
    context: AttentionContext = .default
  ) throws -> (value: Tensor<Float>, pullback: Pullback<Float, Void>) {
    let prompt = try resolve(prompt)
    let sequences = texts.map { TokenSequence(ids: tokens($0, after: prompt).ids, promptTokenCount: prompt.tokenCount) }
    let (states, statesPullback) = try encoder.valueWithPullback(
      sequences.map(\.ids), dropout: dropout, recomputes: recomputes, context: context)
    let hiddenDimension = encoder.configuration.hiddenDimension
    let value = try Tensor<Float>(shape: [sequences.count, dimension]) { target in
      forEachSequence(sequences) { index, row in
        pool(states.base + row * hiddenDimension, sequences[index], into: target.baseAddress! + index * dimension)
      }
    }
    let pullback = Pullback<Float, Void>(outputShape: value.shape) { [self] outputGradient, gradients, prefix in
      let outputGradient = try outputGradient.contiguous()
      let gradient = try Tensor<Float>(shape: states.shape) { target in
        target.initialize(repeating: 0)
        forEachSequence(sequences) { index, row in
          addGradient(
            outputGradient.base + index * dimension, states.base + row * hiddenDimension, sequences[index],
            to: target.baseAddress! + row * hiddenDimension)
        }
      }
      withExtendedLifetime((states, outputGradient)) {}
      try statesPullback(gradient, adding: &gradients, prefix: prefix)
    }
    return (value, pullback)
  }

  /// Calls `body` with the index of each sequence and the index of its first row of hidden states.
  private func forEachSequence(_ sequences: [TokenSequence], _ body: (_ index: Int, _ row: Int) -> Void) {
    var row = 0
    for (index, sequence) in sequences.enumerated() {
      body(index, row)
      row += sequence.ids.count
    }
  }

  /// Adds the gradients of a text's hidden states, from the gradient of its vector: the backward pass of
  /// ``pool(_:_:into:)``.
  private func addGradient(
    _ vectorGradient: UnsafePointer<Float>, _ states: UnsafePointer<Float>, _ sequence: TokenSequence,
    to target: UnsafeMutablePointer<Float>
  ) {
    let hiddenDimension = encoder.configuration.hiddenDimension
    let rows = pooledRows(sequence)
    // Columns that are cut off the vector have the gradient 0.
    var gradient = [Float](repeating: 0, count: hiddenDimension * poolings.count)
    for i in 0..<dimension { gradient[i] = vectorGradient[i] }
    if isNormalized {
      var whole = [Float](repeating: 0, count: gradient.count)
      whole.withUnsafeMutableBufferPointer { poolAll(states, rows, into: $0.baseAddress!) }
      // forward: y = x / ‖x‖  ⇒  dx = (dy − y·(y·dy)) / ‖x‖
      let length = max(whole.reduce(0.0) { $0 + Double($1) * Double($1) }.squareRoot(), 1e-12)
      let projection = zip(whole, gradient).reduce(0.0) { $0 + Double($1.0) * Double($1.1) } / length
      for i in gradient.indices {
        gradient[i] = Float((Double(gradient[i]) - Double(whole[i]) / length * projection) / length)
      }
    }
    for (index, pooling) in poolings.enumerated() {
      gradient.withUnsafeBufferPointer {
        pooling.addGradient(
          $0.baseAddress! + index * hiddenDimension, states, rows: rows, dimension: hiddenDimension, to: target)
      }
    }
  }

  /// Writes the model as a folder that ``init(directory:loading:)``, Hugging Face's transformers and sentence-transformers
  /// load.
  ///
  /// - Parameters:
  ///   - directory: The path of a folder that does not exist yet. It appears only when it is complete.
  ///   - source: The folder that the model was loaded from. Its settings, its tokenizer and the weights that the
  ///     encoder does not use are copied. Its model card is not copied, because it describes another model.
  /// - Throws: `AttentionError` if the folder exists, or a file cannot be read or written; then there is no new folder.
  public func write(to directory: String, settingsFrom source: String) throws {
    let files = FileManager.default
    guard (try? files.attributesOfItem(atPath: directory)) == nil else {
      throw AttentionError(.invalidArgument, directory, "the path of a new folder expected; there is something")
    }
    let temporary = directory + ".part-\(ProcessInfo.processInfo.processIdentifier)"
    do {
      try? files.removeItem(atPath: temporary)
      try Self.copySettings(from: source, to: temporary)
      try writeWeights(to: temporary, othersFrom: source)
      try files.moveItem(atPath: temporary, toPath: directory)
    } catch {
      try? files.removeItem(atPath: temporary)
      if error is AttentionError { throw error }
      throw AttentionError(.inputOutput, directory, error.localizedDescription)
    }
  }

  /// Copies the settings and the tokenizer from the folder of a model, and from the folders of its modules, to
  /// `directory`, which is made if it does not exist.
  /// - Throws: `AttentionError` if a file cannot be read or written.
  package static func copySettings(from source: String, to directory: String) throws {
    let folder = ModelFolder(path: source)
    try folder.check()
    for module in try [""] + EmbeddingSettings.modulePaths(folder) {
      let (from, to) = module.isEmpty ? (source, directory) : (source + "/" + module, directory + "/" + module)
      let names: [String]
      do {
        try FileManager.default.createDirectory(atPath: to, withIntermediateDirectories: true)
        // A module without settings has no folder.
        names = (try? FileManager.default.contentsOfDirectory(atPath: from))?.filter(isSettings).sorted() ?? []
      } catch { throw AttentionError(.inputOutput, to, "cannot be made: \(error.localizedDescription)") }
      for name in names {
        let bytes = try ModelFolder(path: from).bytes(name)
        try writeAtomically(to: to + "/" + name) { try bytes.withUnsafeBytes($0) }
      }
    }
  }

  /// True for settings, vocabularies and templates; false for weights, model cards, the figures of a training, and what
  /// belongs to version control.
  private static func isSettings(_ name: String) -> Bool {
    [".json", ".txt", ".model", ".jinja"].contains(where: name.hasSuffix) && !name.hasSuffix(".index.json")
      && !name.hasPrefix(".") && name != "training.json"
  }

  /// Writes the encoder's weights, and those of `source` that the encoder does not use. Names have the prefix `bert.`
  /// if those of `source` have it. The encoder's norms have a weight and a bias, even if `source` calls them gamma and
  /// beta.
  package func writeWeights(to directory: String, othersFrom source: String) throws {
    let place = try EmbeddingSettings(folder: ModelFolder(path: source)).encoderPath
    let name = place.isEmpty ? "model.safetensors" : ModelFolder(path: place).path("model.safetensors")
    let file = try SafeTensorsFile(contentsOf: ModelFolder(path: source).path(name))
    let own = try encoder.stateDictionary()
    let prefix = file.entries.contains { $0.name.hasPrefix("bert.") } ? "bert." : ""
    var writer = SafeTensorsWriter()
    writer.metadata = file.metadata
    writer.metadata["format"] = "pt"
    for (name, tensor) in own.sorted(by: { $0.key < $1.key }) { try writer.add(prefix + name, tensor) }
    for entry in file.entries {
      let name = entry.name.replacing(".LayerNorm.gamma", with: ".LayerNorm.weight")
        .replacing(".LayerNorm.beta", with: ".LayerNorm.bias")
      if own[String(name.dropFirst(name.hasPrefix(prefix) ? prefix.count : 0))] != nil { continue }
      try file.withUnsafeBytes(of: entry.name) {
        try writer.add(entry.name, dataType: entry.dataType, shape: entry.shape, bytes: Array($0))
      }
    }
    try writer.write(to: ModelFolder(path: directory).path(name))
  }
}

extension Pooling {
  /// The backward pass of ``apply(_:rows:dimension:into:)``: adds the gradients of the states in `rows` to `target`, whose row 0
  /// belongs to the first state.
  package func addGradient(
    _ vectorGradient: UnsafePointer<Float>, _ states: UnsafePointer<Float>, rows: Range<Int>, dimension: Int,
    to target: UnsafeMutablePointer<Float>
  ) {
    func add(_ weight: Float, _ row: Int) {
      for i in 0..<dimension { target[row * dimension + i] += weight * vectorGradient[i] }
    }
    guard let first = rows.first else { return }
    switch self {
    case .cls: add(1, first)
    case .lastToken: add(1, rows.upperBound - 1)
    case .mean: for row in rows { add(1 / Float(rows.count), row) }
    case .meanSquareRoot: for row in rows { add(1 / Float(rows.count).squareRoot(), row) }
    case .weightedMean:
      let sum = rows.reduce(Float(0)) { $0 + Float($1 + 1) }
      for row in rows { add(Float(row + 1) / sum, row) }
    case .max:
      for i in 0..<dimension {
        // If several states have the largest element, the first of them gets the gradient.
        let row = rows.reduce(first) { states[$1 * dimension + i] > states[$0 * dimension + i] ? $1 : $0 }
        target[row * dimension + i] += vectorGradient[i]
      }
    }
  }
}
