import ArgumentParser
import AttentionModels
import Foundation

struct Tokenize: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Show the tokens that a model sees in texts.",
    discussion: "Nothing is cut: --model's limit of tokens is left out of account.")

  @OptionGroup var texts: TextOptions
  @OptionGroup var model: ModelOptions

  @Flag(help: "Lines of input are JSON strings, which may hold line breaks.")
  var jsonLines = false

  @Flag(help: "Print an object a line instead.")
  var json = false

  private struct Line: Encodable {
    let text: String
    let ids: [Int32]
    let tokens: [String]
  }

  func run() throws {
    let tokenizer = try WordPieceTokenizer(directory: InstalledModel.resolve(model.model))
    for (index, line) in try texts.read().enumerated() {
      var text = line
      if jsonLines {
        guard
          let strings = try? JSONDecoder().decode([String].self, from: Data("[\(line)]".utf8)), strings.count == 1
        else { throw AttentionError(.invalidArgument, "line \(index + 1)", "a JSON string expected") }
        text = strings[0]
      }
      let ids = tokenizer.encode(text)
      let tokens = ids.map(tokenizer.token)
      if json {
        try printJSONLine(Line(text: text, ids: ids, tokens: tokens))
      } else {
        print(zip(tokens, ids).map { "\($0.printable) \($1)" }.joined(separator: ", "))
      }
    }
  }
}
