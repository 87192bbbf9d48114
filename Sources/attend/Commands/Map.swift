import ArgumentParser
import Attention
import AttentionFiles
import Foundation

struct Map: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Draw which token attends to which, for a stored multi-head attention over real sentences.",
    discussion: """
      Computes the layer, draws the attention weights of one sentence as a heat map (rows: who looks, columns: \
      what is looked at), and compares with the results stored in the file.
      """)

  @Argument(help: ArgumentHelp("A safetensors file with weights, inputs and \"tokens\".", valueName: "file"))
  var file: String

  @Option(help: ArgumentHelp("Which sentence, from 0.", valueName: "index"))
  var sentence = 0

  @Option(help: ArgumentHelp("Which head, from 0 (default: the mean over heads).", valueName: "index"))
  var head: Int?

  @Option(help: ArgumentHelp("Show as bars where this token looks.", valueName: "word"))
  var token: String?

  @Flag(help: "Print JSON instead of a drawing.")
  var json = false

  @Flag(inversion: .prefixedNo, help: "Draw in colour (default: if standard output is a terminal).")
  var color: Bool?

  @OptionGroup var options: ContextOptions

  private struct Picture: Encodable {
    let sentence: Int
    let head: Int?
    let tokens: [String]
    let weights: [[Float]]
    let comparisons: [Comparison]
    let milliseconds: Double
  }

  func run() throws {
    let context = try options.context()
    let stored = try SafeTensorsFile(path: file)
    guard let layer = try openCase(stored) as? LayerCase, layer.query.rank == 3 else {
      throw AttentionError(.invalidFile, file, "a stored multi-head attention over a batch of sentences expected")
    }
    let comparisons = try layer.compare(with: stored, context: context)
    let weights = try layer.forward(weights: .perHead, context: context).weights!
    let picture = try picture(layer, stored, weights, comparisons, context)
    if json {
      try printJSON(picture)
    } else {
      let style = HeatMap.Style(isColoured: color ?? (isatty(STDOUT_FILENO) == 1))
      print(title(picture, headCount: weights.shape[1]))
      print(HeatMap(tokens: picture.tokens, weights: picture.weights, style: style).text)
      if let token { print(try bars(token, picture, weights, style)) }
      for comparison in comparisons {
        print(
          "\(comparison.name.padded(to: 8)) worst error \(scientific(comparison.error)) against the stored result, "
            + "tolerance \(scientific(comparison.tolerance))")
      }
      print(
        String(
          format: "layer    %.2f ms for %d sentences of %d tokens, %d threads", picture.milliseconds,
          layer.query.shape[0], layer.query.shape[1], context.threadCount))
    }
    if let wrong = comparisons.first(where: { !$0.passes }) {
      throw AttentionError(
        .invalidFile, file, "\(wrong.name) differs from the stored result by \(scientific(wrong.error))")
    }
  }

  private func picture(
    _ layer: LayerCase, _ stored: SafeTensorsFile, _ weights: Tensor<Float>, _ comparisons: [Comparison],
    _ context: AttentionContext
  ) throws -> Picture {
    let (sentenceCount, headCount) = (weights.shape[0], weights.shape[1])
    guard sentenceCount > 0 else { throw AttentionError(.invalidFile, file, "at least one sentence expected") }
    func check(_ name: String, _ index: Int, _ count: Int) throws {
      guard (0..<count).contains(index) else {
        throw ValidationError("--\(name): a number from 0 to \(count - 1) expected; got \(index)")
      }
    }
    try check("sentence", sentence, sentenceCount)
    if let head { try check("head", head, headCount) }
    let tokens = sentenceTokens(stored, keyCount: weights.shape[3])
    let queryCount = min(tokens.count, weights.shape[2])
    let heads = head.map { [$0] } ?? Array(0..<headCount)
    let matrix = (0..<queryCount).map { query in
      tokens.indices.map { key in
        heads.map { weights[sentence, $0, query, key] }.reduce(0, +) / Float(heads.count)
      }
    }
    var times: [Duration] = []
    for _ in 0..<7 {
      times.append(try ContinuousClock().measure { _ = try layer.forward(weights: .none, context: context) })
    }
    let median = times.sorted()[times.count / 2].components
    return Picture(
      sentence: sentence, head: head, tokens: tokens, weights: matrix, comparisons: comparisons,
      milliseconds: Double(median.seconds) * 1e3 + Double(median.attoseconds) * 1e-15)
  }

  /// The words of one sentence without its padding; numbers where the file has no words.
  private func sentenceTokens(_ stored: SafeTensorsFile, keyCount: Int) -> [String] {
    let sentences = (stored.metadata["tokens"] ?? "").split(separator: "\n", omittingEmptySubsequences: false)
    guard sentence < sentences.count else { return (0..<keyCount).map(String.init) }
    let words = sentences[sentence].split(separator: " ").prefix(keyCount).map { String($0).printable }
    return Array(words.prefix((words.lastIndex { $0 != "[PAD]" } ?? -1) + 1))
  }

  private func title(_ picture: Picture, headCount: Int) -> String {
    let which = picture.head.map { "head \($0) of 0 to \(headCount - 1)" } ?? "mean over \(headCount) heads"
    return "sentence \(picture.sentence), \(which)\n"
  }

  private func bars(
    _ token: String, _ picture: Picture, _ weights: Tensor<Float>, _ style: HeatMap.Style
  ) throws -> String {
    guard let query = picture.tokens.firstIndex(of: token), query < picture.weights.count else {
      throw ValidationError("--token: one of \(picture.tokens.joined(separator: " ")) expected; got \"\(token)\"")
    }
    var lines = ["\"\(token)\" looks at"]
    let row = picture.weights[query]
    let most = max(row.max() ?? 1, .leastNormalMagnitude)
    let width = picture.tokens.map(\.count).max() ?? 0
    for (word, weight) in zip(picture.tokens, row) {
      let share = weight / most
      let bar = String(repeating: "█", count: share.isFinite ? Int((40 * share).rounded()) : 0)
      lines.append("  \(word.leftPadded(to: width))  \(String(format: "%.3f", weight))  \(style.coloured(bar))")
    }
    if picture.head == nil {
      // Between the marks at both ends, to which every head returns when it has nothing to say.
      let words = picture.tokens.indices.filter { !picture.tokens[$0].hasPrefix("[") && $0 != query }
      let strongest = (0..<weights.shape[1]).flatMap { head in
        words.map { (head: head, key: $0, weight: weights[picture.sentence, head, query, $0]) }
      }
      .sorted { $0.weight > $1.weight }.prefix(3)
      let parts = strongest.map {
        "head \($0.head) at \"\(picture.tokens[$0.key])\" (\(String(format: "%.2f", $0.weight)))"
      }
      if !parts.isEmpty { lines.append("  most of all: " + parts.joined(separator: ", ")) }
    }
    return lines.joined(separator: "\n") + "\n"
  }
}
