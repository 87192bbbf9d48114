import ArgumentParser
import AttentionTensors
import Foundation

/// The command line of the package.
@main
struct Attend: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "attend",
    abstract: "Exact attention on any CPU.",
    discussion: "Exit codes: 0 success, 1 a case failed or a file is wrong, 64 wrong arguments.",
    version: "0.1.0",
    subcommands: [
      Embed.self, Search.self, Map.self, FetchModel.self, Tokenize.self, Check.self, Compute.self, Info.self,
    ])

  static func main() {
    do {
      var command = try parseAsRoot()
      try command.run()
      // Who reads the output must not take an empty or cut one for the whole.
      guard fflush(nil) == 0 else {
        throw AttentionError(.inputOutput, "standard output", String(cString: strerror(errno)))
      }
    } catch {
      exit(withError: error)
    }
  }
}
