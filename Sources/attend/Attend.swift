import ArgumentParser
import AttentionTensors
import Foundation

/// The package's command.
@main
struct Attend: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "attend",
    abstract: "Exact attention on any CPU.",
    discussion: "Exit codes: 0 success, 1 a case failed or a file is wrong, 64 wrong arguments.",
    version: "0.1.0",
    subcommands: [
      Embed.self, Search.self, Map.self, FineTune.self, FetchModel.self, Tokenize.self, Check.self, Compute.self,
      Info.self,
    ])

  static func main() {
    Terminal.openClosedStreams()
    // SIGXFSZ is ignored: a write beyond the limit of file size must fail with an error that is reported, and the
    // signal would end the process instead.
    signal(SIGXFSZ, SIG_IGN)
    do {
      var command = try parseAsRoot(TextArgument.marked(Array(CommandLine.arguments.dropFirst())))
      try command.run()
      try flushOutput()
    } catch let error as AttentionError {
      // The description may hold text from a file or an argument, so it is made printable.
      Terminal.tell("Error: \(error.description.printable)\n")
      exit(withError: ExitCode(1))
    } catch {
      exit(withError: error)
    }
  }
}
