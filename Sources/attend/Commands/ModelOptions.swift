import ArgumentParser
import AttentionFiles
import AttentionModels
import Foundation

/// Which model.
struct ModelOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "A Hugging Face folder of a BERT model, or the name of one that `attend fetch-model` has installed or that is in the "
        + "Hugging Face cache.",
      valueName: "folder"))
  var model = InstalledModel.miniLM.name

  func encoder() throws -> SentenceEncoder { try SentenceEncoder(directory: InstalledModel.resolve(model)) }
}

/// Texts from arguments, files or standard input.
struct TextOptions: ParsableArguments {
  @Argument(
    parsing: .allUnrecognized,
    help: ArgumentHelp("Texts; - for lines of standard input (default: -).", valueName: "text"))
  var texts: [String] = []

  @Option(
    help: ArgumentHelp(
      "Read texts from this file or pipe, one a line, or from - for standard input; may be repeated.",
      valueName: "path"))
  var file: [String] = []

  mutating func validate() throws { texts = try checkedTexts(texts) }

  /// Calls `body` with texts as they come, at most `limit` at once.
  func forEachBatch(limit: Int, _ body: ([String]) throws -> Void) throws {
    func forward(_ path: String) throws {
      let reader = try LineReader(path: path)
      while let lines = try reader.next(limit: limit) { try body(lines) }
    }
    var given: [String] = []
    for text in texts {
      if text != "-" {
        given.append(text)
        continue
      }
      if !given.isEmpty { try body(given) }
      given = []
      try forward("-")
    }
    if !given.isEmpty { try body(given) }
    for path in file { try forward(path) }
    if texts.isEmpty && file.isEmpty { try forward("-") }
  }

  func read() throws -> [String] {
    var all: [String] = []
    try forEachBatch(limit: .max) { all += $0 }
    return all
  }
}

/// Texts without the -- before those that are certain to be texts.
/// - Throws: `ValidationError` where one of the others looks like an option that does not exist: a minus sign and a word.
func checkedTexts(_ texts: [String]) throws -> [String] {
  let arguments = CommandLine.arguments
  var (doubtful, certain) = (texts[...], texts[texts.endIndex...])
  if let terminator = arguments.firstIndex(of: "--") {
    let certainCount = min(arguments.count - terminator - 1, texts.count)
    (doubtful, certain) = (texts.dropLast(certainCount), texts.suffix(certainCount))
    if doubtful.last == "--" { doubtful.removeLast() }
  }
  let isOption = /--?[A-Za-z][A-Za-z0-9-]*(=.*)?/
  if let text = doubtful.first(where: { (try? isOption.wholeMatch(in: $0)) != nil }) {
    throw ValidationError("Unknown option '\(text)'. For a text that looks like one, write -- before the texts.")
  }
  return Array(doubtful + certain)
}

/// Throws unless an output is another file than every input.
func requireOther(_ option: String, _ output: String?, than inputs: [String]) throws {
  func place(_ path: String) -> String { URL(fileURLWithPath: path).resolvingSymlinksInPath().path }
  // Standard input is no file.
  let inputs = inputs.filter { $0 != "-" }
  if let output, inputs.contains(where: { place($0) == place(output) }) {
    throw ValidationError("\(option): another path than the input's expected; got \"\(output)\"")
  }
}
