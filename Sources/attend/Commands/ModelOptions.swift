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
    try splitLines(Array(try input.readToEnd() ?? Data()), name: "standard input")
  }
}

/// Bytes of a text file at most.
private let textByteLimit = 1 << 32

/// The lines of a text file.
/// - Throws: `AttentionError` where it cannot be read or is no UTF-8.
func lines(of path: String) throws -> [String] {
  try splitLines(readFile(path, byteLimit: textByteLimit), name: path)
}

private func splitLines(_ bytes: [UInt8], name: String) throws -> [String] {
  var lines = bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
  if lines.last?.isEmpty == true { lines.removeLast() }
  return try lines.enumerated().map { index, line in
    let line = line.last == UInt8(ascii: "\r") ? line.dropLast() : line
    guard let text = String(validating: line, as: UTF8.self) else {
      throw AttentionError(.invalidFile, name, "UTF-8 expected; line \(index + 1) is not")
    }
    return text
  }
}
