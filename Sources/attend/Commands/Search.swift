import ArgumentParser
import AttentionModels
import Foundation

struct Search: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Find the lines of a text that mean what a query says.",
    discussion: """
      FILE is a text, whose lines are embedded first, or an index that --save has written; - reads the text from standard \
      input. Every line is compared: the search is exact. Words that are not quoted are one query, quoted texts one each. \
      Without a query, queries are read from standard input, one a line; with --save alone, none.
      """)

  @Argument(help: ArgumentHelp("A text file, or an index.", valueName: "file"))
  var fileArgument: TextArgument

  @Argument(help: ArgumentHelp("What to look for.", valueName: "query"))
  var queries: [TextArgument] = []

  @Option(help: ArgumentHelp("Write the index, so that it need not be made again.", valueName: "index"))
  var save: String?

  @Option(help: ArgumentHelp("Lines for each query.", valueName: "count"))
  var top = 5

  @Flag(help: "Cut lines that are longer than the model's limit into chunks, of which a line's best counts.")
  var chunks = false

  @Option(
    help: ArgumentHelp(
      "Tokens that two chunks of a line have in common at most (default: an eighth of a chunk).", valueName: "count"))
  var overlap: Int?

  @Flag(help: "Print an object a line instead.")
  var json = false

  @OptionGroup var model: ModelOptions
  @OptionGroup var options: ContextOptions

  func validate() throws {
    try requireOther("--save", save, than: [file])
    if let overlap {
      if !chunks { throw ValidationError("--overlap: only with --chunks") }
      if overlap < 0 { throw ValidationError("--overlap: a number from 0 expected; got \(overlap)") }
    }
    if file == "-" && queries.isEmpty && save == nil {
      throw ValidationError("a query expected, for standard input holds the text; got none")
    }
    if top < 1 { throw ValidationError("--top: a number from 1 expected; got \(top)") }
  }

  private var file: String { fileArgument.text }

  private struct Line: Encodable {
    struct Match: Encodable {
      let score: Float
      let line: Int
      let text: String
    }
    let query: String
    let matches: [Match]
  }

  func run() throws {
    let context = try options.context()
    let encoder = try model.encoder()
    let index = try openIndex(encoder, context)
    if let save {
      try index.write(to: save)
      if !json { print("index of \(index.count) lines written to \(save)") }
    }
    if !queries.isEmpty {
      let queries = queries.map(\.text)
      // Several words without quotes are one query. If one argument contains a space, each argument is a query.
      let areWords = queries.allSatisfy { !$0.contains(where: \.isWhitespace) }
      return try answer(areWords ? [queries.joined(separator: " ")] : queries, index, encoder, context)
    }
    if save != nil { return }
    let reader = try LineReader(path: "-")
    while let queries = try reader.next(limit: 1) {
      try answer(queries, index, encoder, context)
      try flushOutput()
    }
  }

  private func openIndex(_ encoder: SentenceEncoder, _ context: AttentionContext) throws -> EmbeddingIndex {
    if EmbeddingIndex.isIndex(path: file) {
      let index = try EmbeddingIndex(contentsOf: file)
      if chunks { throw ValidationError("--chunks: only with a text; an index is cut already") }
      try index.check(encoder, context: context)
      return index
    }
    let progress = ProgressLine(chunks ? "lines and chunks" : "lines")
    let index = try EmbeddingIndex(
      lines: try lines(of: file), encoder: encoder, chunking: chunks ? .init(overlap: overlap) : nil, context: context
    ) { progress.report($0, of: $1) }
    tellOfCuts(
      index.cutCount, of: index.count, chunks ? "chunks" : "lines", encoder,
      advice: chunks ? "" : " --chunks searches all of them.")
    return index
  }

  private func answer(
    _ queries: [String], _ index: EmbeddingIndex, _ encoder: SentenceEncoder, _ context: AttentionContext
  ) throws {
    let found = try index.search(
      encoder.embed(queries, prompt: .query, context: context), limit: top, context: context)
    for (query, matches) in zip(queries, found) {
      if json {
        let lines = matches.map { Line.Match(score: $0.score, line: $0.line, text: $0.text) }
        try printJSONLine(Line(query: query, matches: lines))
        continue
      }
      print("\"\(query.printable)\"")
      let width = matches.map { String($0.line).count }.max() ?? 0
      for match in matches {
        print(
          "  \(String(format: "%.3f", match.score))  \(String(match.line).leftPadded(to: width))  \(match.text.printable)"
        )
      }
      print("")
    }
    try flushOutput()
  }
}
