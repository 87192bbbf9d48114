import ArgumentParser
import AttentionFiles
import AttentionModels
import Foundation

/// The choice of a model.
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
  @Argument(help: ArgumentHelp("Texts; - for lines of standard input (default: -).", valueName: "text"))
  var texts: [TextArgument] = []

  @Option(
    help: ArgumentHelp(
      "Read texts from this file or pipe, one a line, or from - for standard input; may be repeated.",
      valueName: "path"))
  var file: [String] = []

  /// Calls `body` with the texts as they arrive, at most `limit` at once.
  func forEachBatch(limit: Int, _ body: ([String]) throws -> Void) throws {
    func forward(_ path: String) throws {
      let reader = try LineReader(path: path)
      while let lines = try reader.next(limit: limit) { try body(lines) }
    }
    var given: [String] = []
    for text in texts.map(\.text) {
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

/// A text on the command line, which may begin with a minus sign.
///
/// The parser takes every argument that begins with a minus sign for an option, known or unknown. So ``marked(_:)``
/// puts a mark before each argument that cannot be an option's name, and `init(argument:)` removes the mark.
struct TextArgument: ExpressibleByArgument {
  let text: String

  init?(argument: String) { text = argument.first == Self.mark ? String(argument.dropFirst()) : argument }

  /// The mark that is put before a text that begins with a minus sign: a character of Unicode's private use.
  private static let mark: Character = "\u{f8ff}"

  /// Options without a value: the argument after them may be a text.
  private static let flags = [
    "--json", "--json-lines", "--chunks", "--color", "--no-color", "--path", "--force", "--forward", "--help", "-h",
    "--version", "--resume", "--in-order", "--recompute",
  ]

  /// The arguments, with a mark before each text that begins with a minus sign, so that the parser does not take it for an option.
  ///
  /// An option is one or two minus signs and a word, perhaps with "=" and a value. The argument after an option that takes a value
  /// is that value, and gets no mark.
  static func marked(_ arguments: [String]) -> [String] {
    func isOption(_ argument: String) -> Bool {
      (try? /--?[A-Za-z][A-Za-z0-9-]*(=[\s\S]*)?/.wholeMatch(in: argument)) != nil
    }
    let end = arguments.firstIndex(of: "--") ?? arguments.endIndex
    return arguments.indices.map { index in
      let argument = arguments[index]
      // A text may itself begin with the mark. One mark is removed later, so one is added here.
      if argument.first == mark { return "\(mark)\(argument)" }
      if index >= end || !argument.hasPrefix("-") || argument == "-" || isOption(argument) { return argument }
      let before = index > 0 ? arguments[index - 1] : ""
      let isValue = isOption(before) && !before.contains("=") && !flags.contains(before)
      return isValue ? argument : "\(mark)\(argument)"
    }
  }
}

/// Throws if an output is the same file as an input.
func requireOther(_ option: String, _ output: String?, than inputs: [String]) throws {
  func place(_ path: String) -> String { URL(fileURLWithPath: path).resolvingSymlinksInPath().path }
  // Standard input is not a file.
  let inputs = inputs.filter { $0 != "-" }
  if let output, inputs.contains(where: { place($0) == place(output) }) {
    throw ValidationError("\(option): another path than the input's expected; got \"\(output)\"")
  }
}
