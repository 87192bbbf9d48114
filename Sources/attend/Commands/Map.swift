import ArgumentParser
import Attention
import AttentionCases
import AttentionDrawing
import AttentionFiles
import AttentionModels
import Foundation

struct Map: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Draw which token attends to which, in a stored layer or in a whole model.",
    discussion: """
      With --model, INPUTS are texts, or - for lines of standard input. Without it, they are one safetensors file with the \
      weights and inputs of a layer, or - for such a file on standard input \
      ("tokens" in its metadata gives the words), whose stored results are compared with. The attention weights of one \
      sentence are drawn as a heat map: rows look, columns are looked at.
      """)

  @Argument(help: ArgumentHelp("A safetensors file, or texts.", valueName: "inputs"))
  var arguments: [TextArgument]

  @Option(
    help: ArgumentHelp(
      "A Hugging Face folder of a BERT model, or the name of an installed one.", valueName: "folder"))
  var model: String?

  @Option(help: ArgumentHelp("Which layer of a model, from 0 (default: the last).", valueName: "index"))
  var layer: Int?

  @Option(help: ArgumentHelp("Which sentence, from 0.", valueName: "index"))
  var sentence = 0

  @Option(help: ArgumentHelp("Which head, from 0 (default: the mean over heads).", valueName: "index"))
  var head: Int?

  @Option(help: ArgumentHelp("Show as bars where this token looks.", valueName: "word"))
  var token: String?

  @Option(help: ArgumentHelp("Write the heat map as a picture instead.", valueName: "out"))
  var svg: String?

  @Option(
    help: ArgumentHelp(
      "Write a page instead, in which sentence, layer, head and word can be picked; it needs nothing else.",
      valueName: "out"))
  var html: String?

  @Flag(help: "Print JSON instead of a drawing.")
  var json = false

  @Flag(inversion: .prefixedNo, help: "Draw in colour (default: if standard output is a terminal).")
  var color: Bool?

  @OptionGroup var options: ContextOptions

  func validate() throws {
    if inputs.isEmpty || (model == nil && inputs.count > 1) {
      throw ValidationError(
        model == nil ? "one file expected; got \(inputs.count)" : "at least one text expected")
    }
    if model == nil {
      try requireOther("--svg", svg, than: inputs)
      try requireOther("--html", html, than: inputs)
    }
    if let svg { try requireOther("--html", html, than: [svg]) }
  }

  private var inputs: [String] { arguments.map(\.text) }

  private struct Facts: Encodable {
    let sentence: Int
    let layer: Int
    let head: Int?
    let rows: [String]
    let columns: [String]
    let weights: [[Float]]
    /// Nil for a model; only stored layers have comparisons.
    let comparisons: [Comparison]?
    let milliseconds: Double?
  }

  func run() throws {
    let context = try options.context()
    if let model { return try draw(model: model, context) }
    let file = inputs[0]
    guard file == "-" || FileManager.default.fileExists(atPath: file) else {
      throw AttentionError(
        .notFound, file,
        "no such file; for a text, name a model, for instance: attend map --model \(InstalledModel.miniLM.name) \"…\"")
    }
    let stored = try openTensors(file)
    guard let layer = try openCase(stored) as? LayerCase, layer.query.rank == 3 else {
      throw AttentionError(.invalidFile, file, "a stored multi-head attention over a batch of sentences expected")
    }
    let comparisons = try layer.compare(with: stored, includingGradients: false, context: context)
    let weights = try layer.forward(weights: .perHead, context: context).weights
    let map = try AttentionMap(stored: stored, layer: layer.layer, weights: weights)
    try check("sentence", sentence, map.sentences.count)
    try show(
      map, position: sentence, origin: stored.metadata["model"]?.printable ?? file, comparisons: comparisons,
      milliseconds: { try medianMilliseconds(layer, context) })
    if !json {
      for comparison in comparisons {
        print(
          "\(comparison.name.padded(to: 8)) worst error \(scientific(comparison.error)) against the stored result, "
            + "tolerance \(scientific(comparison.tolerance))")
      }
      if svg == nil && html == nil {
        print(
          String(
            format: "layer    %.2f ms for %d sentences of %d tokens, %d threads",
            try medianMilliseconds(layer, context),
            layer.query.shape[0], layer.query.shape[1], context.threadCount))
      }
    }
    if let wrong = comparisons.first(where: { !$0.passes }) {
      throw AttentionError(
        .invalidFile, file, "\(wrong.name) differs from the stored result by \(scientific(wrong.error))")
    }
  }

  /// The largest number of weights on a page. A weight takes some 8 bytes there, and the number of weights grows with the
  /// square of a text's length: a text of 256 tokens, the limit of all-MiniLM-L6-v2, has 4.7 million weights.
  private static let pageWeightLimit = 10_000_000

  private func draw(model: String, _ context: AttentionContext) throws {
    let encoder = try SentenceEncoder(directory: InstalledModel.resolve(model))
    guard encoder.encoder.configuration.layerCount > 0 else {
      throw AttentionError(.unsupported, model, "a model with layers expected")
    }
    let inputs = try inputs.flatMap { $0 == "-" ? try lines(of: $0) : [$0] }
    try check("sentence", sentence, inputs.count)
    if html != nil {
      let heads = encoder.encoder.configuration.layerCount * encoder.encoder.configuration.headCount
      let count = inputs.reduce(0) { $0 + heads * encoder.tokens($1).count * encoder.tokens($1).count }
      try requireArgument(
        count <= Self.pageWeightLimit, "--html",
        "texts of at most \(Self.pageWeightLimit) weights together expected; got \(count)")
    }
    // A page shows all texts, a drawing only one.
    let texts = html == nil ? [inputs[sentence]] : inputs
    try show(
      AttentionMap(texts: texts, encoder: encoder, context: context), position: html == nil ? 0 : sentence,
      origin: model.printable, comparisons: nil, milliseconds: { nil })
  }

  /// Writes the requested pictures. Then prints JSON if it is requested; otherwise draws on the terminal, unless there
  /// are pictures.
  private func show(
    _ map: AttentionMap, position: Int, origin: String, comparisons: [Comparison]?, milliseconds: () throws -> Double?
  ) throws {
    let shown = map.sentences[position]
    let layer = layer ?? shown.layerCount - 1
    try check("layer", layer, shown.layerCount)
    if let head { try check("head", head, shown.headCount) }
    let row = try token.map { try self.row(of: $0, in: shown) }
    let files = try pictures(map, shown, layer: layer, origin: origin, row: row)
    for (path, bytes) in files {
      try writeAtomically(to: path) { append in try bytes.withUnsafeBytes { try append($0) } }
    }
    if json {
      try printJSON(
        Facts(
          sentence: sentence, layer: layer, head: head, rows: shown.rows, columns: shown.columns,
          weights: shown.matrix(layer: layer, head: head), comparisons: comparisons, milliseconds: milliseconds()))
    } else {
      if files.isEmpty { draw(shown, layer: layer, row: row) }
      for (path, _) in files { print("written to \(path)") }
    }
  }

  private func check(_ name: String, _ index: Int, _ count: Int) throws {
    guard (0..<count).contains(index) else {
      throw ValidationError("--\(name): a number from 0 to \(count - 1) expected; got \(index)")
    }
  }

  private func row(of token: String, in sentence: AttentionMap.Sentence) throws -> Int {
    if let row = sentence.rows.firstIndex(of: token) { return row }
    throw ValidationError("--token: one of \(sentence.rows.joined(separator: " ")) expected; got \"\(token)\"")
  }

  /// The contents of the requested files.
  private func pictures(
    _ map: AttentionMap, _ shown: AttentionMap.Sentence, layer: Int, origin: String, row: Int?
  ) throws -> [(path: String, bytes: [UInt8])] {
    var files: [(path: String, bytes: [UInt8])] = []
    if let svg {
      let picture = HeatMapPicture(
        title: headName(shown, layer).prefix(1).uppercased() + headName(shown, layer).dropFirst(), rows: shown.rows,
        columns: shown.columns, weights: shown.matrix(layer: layer, head: head))
      files.append((svg, Array(picture.svg.utf8)))
    }
    if let html {
      let page = MapPage(origin: origin, map: map, sentence: sentence, layer: layer, head: head, token: row)
      files.append((html, try page.html))
    }
    return files
  }

  private func headName(_ sentence: AttentionMap.Sentence, _ layer: Int) -> String {
    (sentence.layerCount > 1 ? "layer \(layer) of 0 to \(sentence.layerCount - 1), " : "")
      + (head.map { "head \($0) of 0 to \(sentence.headCount - 1)" } ?? "mean over \(sentence.headCount) heads")
  }

  private func medianMilliseconds(_ layer: LayerCase, _ context: AttentionContext) throws -> Double {
    var times: [Duration] = []
    for _ in 0..<7 {
      times.append(try ContinuousClock().measure { _ = try layer.forward(weights: .none, context: context) })
    }
    let median = times.sorted()[times.count / 2].components
    return Double(median.seconds) * 1e3 + Double(median.attoseconds) * 1e-15
  }

  private func draw(_ shown: AttentionMap.Sentence, layer: Int, row: Int?) {
    let style = TerminalHeatMap.Style(isColoured: color ?? Terminal.isColoured)
    print("sentence \(sentence), \(headName(shown, layer))\n")
    let matrix = shown.matrix(layer: layer, head: head)
    print(TerminalHeatMap(rows: shown.rows, columns: shown.columns, weights: matrix, style: style).text)
    if let row { print(bars(row, shown, layer, matrix, style)) }
  }

  private func bars(
    _ query: Int, _ shown: AttentionMap.Sentence, _ layer: Int, _ matrix: [[Float]], _ style: TerminalHeatMap.Style
  ) -> String {
    var lines = ["\"\(shown.rows[query])\" looks at"]
    let row = matrix[query]
    let most = max(row.max() ?? 1, .leastNormalMagnitude)
    let width = shown.columns.map(\.columnCount).max() ?? 0
    for (word, weight) in zip(shown.columns, row) {
      let share = weight / most
      let bar = String(repeating: "█", count: share.isFinite ? Int((40 * share).rounded()) : 0)
      lines.append("  \(word.leftPadded(to: width))  \(String(format: "%.3f", weight))  \(style.coloured(bar))")
    }
    if head == nil {
      // The token itself is left out, and so are the special tokens such as [CLS] and [SEP], to which every head
      // attends when no word matters to it.
      let words = shown.columns.indices.filter { !shown.columns[$0].hasPrefix("[") && $0 != query }
      let strongest = (0..<shown.headCount).flatMap { head in
        words.map { (head: head, key: $0, weight: shown.layers[layer][head][query][$0]) }
      }
      .sorted { $0.weight > $1.weight }.prefix(3)
      let parts = strongest.map {
        "head \($0.head) at \"\(shown.columns[$0.key])\" (\(String(format: "%.2f", $0.weight)))"
      }
      if !parts.isEmpty { lines.append("  most of all: " + parts.joined(separator: ", ")) }
    }
    return lines.joined(separator: "\n") + "\n"
  }
}
