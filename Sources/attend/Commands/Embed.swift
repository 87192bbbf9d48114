import ArgumentParser
import AttentionModels
import Foundation

struct Embed: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Turn texts into vectors.",
    discussion: """
      Texts are arguments, lines of --file, or lines of standard input. With --json, an object a line goes to standard \
      output: {"text":"…","embedding":[…]}. Otherwise a file is written that `attend search` reads too: safetensors, with \
      "vectors" [N, d].
      """)

  @OptionGroup var texts: TextOptions
  @OptionGroup var model: ModelOptions

  @Option(name: [.short, .customLong("output")], help: ArgumentHelp("The file to write.", valueName: "out"))
  var output: String?

  @Flag(help: "Print an object a line instead.")
  var json = false

  @OptionGroup var options: ContextOptions

  func validate() throws {
    try requireOther("--output", output, than: texts.file)
    if json == (output != nil) { throw ValidationError("one of --json and --output expected") }
  }

  private struct Line: Encodable {
    let text: String
    let embedding: [Float]
  }

  func run() throws {
    let context = try options.context()
    let encoder = try model.encoder()
    let texts = try texts.read()
    let progress = ProgressLine("texts")
    let index = try EmbeddingIndex(texts: texts, encoder: encoder, context: context) { progress.report($0, of: $1) }
    if let output {
      try index.write(to: output)
      print("\(index.count) vectors of \(index.width) written to \(output)")
      return
    }
    for (position, text) in texts.enumerated() {
      try printJSONLine(Line(text: text, embedding: index.vector(position).array))
    }
  }
}
