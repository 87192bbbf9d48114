import ArgumentParser
import AttentionModels
import Foundation
import Hummingbird
import Logging

/// Serves sentence embeddings over HTTP: reads the model, listens, and ends on SIGTERM or SIGINT.
@main
struct EmbeddingServer: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "EmbeddingServer",
    abstract: "Serve sentence embeddings over HTTP: POST /embed, POST /v1/embeddings, GET /health.")

  @Option(help: ArgumentHelp("A Hugging Face folder of a BERT model.", valueName: "dir"))
  var model: String

  @Option(help: "The address to listen on.")
  var host = "127.0.0.1"

  @Option(help: "The port to listen on; 0: any that is free, the first line of output tells which.")
  var port = 8080

  @Option(help: ArgumentHelp("Threads at most (default: CPUs that this process may use).", valueName: "count"))
  var threads: Int?

  @Option(help: ArgumentHelp("Bytes of a request's body at most.", valueName: "bytes"))
  var bodyLimit = 1 << 20

  @Option(help: ArgumentHelp("Texts of a request at most.", valueName: "count"))
  var textLimit = 1024

  @Option(help: ArgumentHelp("Texts of all requests that may wait; what comes beyond gets a 503.", valueName: "count"))
  var queueLimit = 1 << 16

  func validate() throws {
    if let threads, threads < 1 { throw ValidationError("--threads: a number from 1 expected; got \(threads)") }
    if !(0...65535).contains(port) { throw ValidationError("--port: a number from 0 to 65535 expected; got \(port)") }
    for (name, value) in [("body", bodyLimit), ("text", textLimit), ("queue", queueLimit)] where value < 1 {
      throw ValidationError("--\(name)-limit: a number from 1 expected; got \(value)")
    }
  }

  func run() async throws {
    let folder = URL(fileURLWithPath: model).standardizedFileURL
    var options = TextEmbedder.Options()
    options.waitingLimit = queueLimit
    options.batchObserver = BatchMetrics().record
    if let threads { options.context.threadCount = threads }
    let service = EmbeddingService(
      embedder: try await TextEmbedder(directory: folder.path, options: options), name: folder.lastPathComponent,
      bodyLimit: bodyLimit, textLimit: textLimit)

    var logger = Logger(label: "EmbeddingServer")
    logger.logLevel = .notice
    let application = Application(
      router: service.router(),
      // The timeout also ends a connection whose client stops in the middle of a request.
      server: .http1(
        configuration: .init(
          additionalChannelHandlers: [ConnectionRulesInstaller(bodyLimit: bodyLimit), ClientWatch()],
          idleTimeout: .seconds(60))),
      configuration: .init(address: .hostname(host, port: port)),
      onServerRunning: { channel in
        let port = channel.localAddress?.port ?? port
        printToStandardError("\(service.name), \(service.embedder.dimension) wide, on http://\(host):\(port)")
      },
      logger: logger)
    // On SIGTERM or SIGINT, the server accepts no new connections, answers the requests that it has received, and ends.
    try await application.runService()
  }
}

/// Writes a line to standard error. If standard error is closed, the line is lost.
private func printToStandardError(_ line: String) {
  try? FileHandle.standardError.write(contentsOf: Data("\(line)\n".utf8))
}
