import ArgumentParser
import AttentionFiles
import AttentionModels
import Foundation

/// Which model.
struct ModelOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "A Hugging Face folder of a BERT model, or the name of one that `attend fetch-model` has installed.",
      valueName: "folder"))
  var model = InstalledModel.miniLM.name

  func encoder() throws -> SentenceEncoder { try SentenceEncoder(directory: InstalledModel.resolve(model)) }
}

/// Texts from arguments, files or standard input.
struct TextOptions: ParsableArguments {
  @Argument(help: ArgumentHelp("Texts (default: lines of standard input).", valueName: "text"))
  var texts: [String] = []

  @Option(help: ArgumentHelp("Read texts from this file, one a line; may be repeated.", valueName: "path"))
  var file: [String] = []

  func read() throws -> [String] {
    if texts.isEmpty && file.isEmpty { return try lines(FileHandle.standardInput) }
    return texts + (try file.flatMap(lines(of:)))
  }

  private func lines(_ input: FileHandle) throws -> [String] {
    let data: Data?
    do { data = try input.readToEnd() } catch {
      throw AttentionError(.inputOutput, "standard input", "cannot be read")
    }
    return try splitLines(Array(data ?? Data()), name: "standard input")
  }
}

/// Bytes of a text file at most.
private let textByteLimit = 1 << 32

/// The lines of a text file.
/// - Throws: `AttentionError` where it cannot be read or is no UTF-8.
func lines(of path: String) throws -> [String] {
  try splitLines(readFile(path, byteLimit: textByteLimit), name: path)
}

/// Throws unless an output is another file than every input.
func requireOther(_ option: String, _ output: String?, than inputs: [String]) throws {
  func place(_ path: String) -> String { URL(fileURLWithPath: path).resolvingSymlinksInPath().path }
  if let output, inputs.contains(where: { place($0) == place(output) }) {
    throw ValidationError("\(option): another path than the input's expected; got \"\(output)\"")
  }
}
