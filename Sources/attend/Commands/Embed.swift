import ArgumentParser
import AttentionModels
import AttentionTensors
import Foundation

struct Embed: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Turn texts into vectors.",
    discussion: """
      Texts are arguments, lines of --file, or lines of standard input, and are answered as they come. With --json, an \
      object a line goes to standard output: {"text":"…","embedding":[…]}. With --output a file is written that \
      `attend search` reads too: safetensors, with "vectors" [N, d]. Else the beginning of each vector is shown.
      """)

  @OptionGroup var texts: TextOptions
  @OptionGroup var model: ModelOptions

  @Option(name: [.short, .customLong("output")], help: ArgumentHelp("The file to write.", valueName: "out"))
  var output: String?

  @Flag(help: "Print an object a line instead.")
  var json = false

  @Option(
    help: ArgumentHelp(
      "What is put before each text: the name of one of the model's prompts; query, document; none (default: the model's "
        + "default prompt).", valueName: "name"))
  var prompt: String?

  @OptionGroup var options: ContextOptions

  func validate() throws {
    try requireOther("--output", output, than: texts.file)
    if json && output != nil { throw ValidationError("one of --json and --output expected; got both") }
    if output != nil && prompt != nil {
      throw ValidationError("--prompt: not with --output, whose texts are documents of a search")
    }
  }

  private struct Line: Encodable {
    let text: String
    let embedding: [Float]
  }

  /// The number of texts that are embedded at once.
  private static let batchLength = 1024
  /// The number of elements of a vector that are shown to people.
  private static let shownCount = 6

  func run() throws {
    let context = try options.context()
    let encoder = try model.encoder()
    if let output { return try write(to: output, encoder, context) }
    let prompt = chosenPrompt(encoder)
    var (count, cutCount) = (0, 0)
    try texts.forEachBatch(limit: Self.batchLength) { texts in
      let vectors = try encoder.embed(texts, prompt: prompt, context: context)
      for (row, text) in texts.enumerated() {
        let vector = try vectors.select(row, axis: 0).array
        if json { try printJSONLine(Line(text: text, embedding: vector)) } else { show(text, vector) }
        if try encoder.isCut(text, prompt: prompt) { cutCount += 1 }
      }
      count += texts.count
      // A program that reads the output through a pipe must not wait for the next texts.
      try flushOutput()
    }
    tellOfCuts(cutCount, of: count, "texts", encoder)
  }

  private func write(to output: String, _ encoder: SentenceEncoder, _ context: AttentionContext) throws {
    let texts = try texts.read()
    let progress = ProgressLine("texts")
    let index = try EmbeddingIndex(texts: texts, encoder: encoder, context: context) { progress.report($0, of: $1) }
    try index.write(to: output)
    print("\(index.count) vectors of \(index.dimension) written to \(output)")
    tellOfCuts(index.cutCount, of: index.count, "texts", encoder)
  }

  /// The prompt that --prompt names. If the model has a prompt of that name, it takes precedence over the fixed names
  /// query, document and none.
  private func chosenPrompt(_ encoder: SentenceEncoder) -> EmbeddingPrompt {
    guard let prompt else { return .automatic }
    if encoder.prompts[prompt] != nil { return .named(prompt) }
    switch prompt {
    case "query": return .query
    case "document": return .document
    case "none": return .none
    default: return .named(prompt)
    }
  }

  private func show(_ text: String, _ vector: [Float]) {
    let length = vector.reduce(0) { $0 + Double($1) * Double($1) }.squareRoot()
    let numbers = vector.prefix(Self.shownCount).map { String(format: "%.4f", $0) }.joined(separator: " ")
    let rest = vector.count > Self.shownCount ? " …" : ""
    print(
      "\"\(text.printable)\"\n  \(vector.count) numbers, length \(String(format: "%.3f", length)): \(numbers)\(rest)")
  }
}

/// Reports how many texts are longer than the model's limit.
func tellOfCuts(_ count: Int, of total: Int, _ what: String, _ encoder: SentenceEncoder, advice: String = "") {
  if count == 0 { return }
  Terminal.tell(
    "Note: \(count) of \(total) \(what) are longer than the model's \(encoder.maximumLength) tokens; the rest of each is left "
      + "out.\(advice)\n")
}
