import Foundation

/// One run of an executable of this package.
struct Command {
  let status: Int32
  let output: String
  let errors: String

  var lines: [Substring] { output.split(separator: "\n") }

  /// Runs the executable `name`, which is in the same folder as the tests' own executable.
  init(
    _ name: String, _ arguments: [String], input: String = "", environment: [String: String] = [:]
  ) throws {
    try self.init(
      running: Self.productsFolder.appendingPathComponent(name), arguments, input: input, environment: environment)
  }

  /// Runs a shell command in which `"$0" "$@"` is the executable `name` with its arguments.
  static func shell(
    _ line: String, _ name: String, _ arguments: [String], input: String = "", environment: [String: String] = [:]
  ) throws -> Command {
    try Command(
      running: URL(fileURLWithPath: "/bin/sh"),
      ["-c", line, productsFolder.appendingPathComponent(name).path] + arguments, input: input, environment: environment
    )
  }

  private init(
    running executable: URL, _ arguments: [String], input: String, environment: [String: String]
  ) throws {
    let process = Process()
    process.executableURL = executable
    process.arguments = arguments
    process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
    let (standardInput, standardOutput, standardError) = (Pipe(), Pipe(), Pipe())
    process.standardInput = standardInput
    process.standardOutput = standardOutput
    process.standardError = standardError
    try process.run()
    try standardInput.fileHandleForWriting.write(contentsOf: Data(input.utf8))
    try standardInput.fileHandleForWriting.close()
    // Standard output is read first. Meanwhile, the short text on standard error fits in the buffer of its pipe.
    output = String(decoding: standardOutput.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    errors = String(decoding: standardError.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    status = process.terminationStatus
  }

  /// The folder of the executable that runs the tests, such as `.build/release`.
  private static let productsFolder: URL = {
    #if os(macOS)
      let bundle = Bundle.allBundles.first { $0.bundlePath.hasSuffix(".xctest") }!
      return bundle.bundleURL.deletingLastPathComponent()
    #else
      return URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent()
    #endif
  }()
}
