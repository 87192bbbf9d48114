import AttentionFiles
import AttentionModels
import Foundation

/// The folder of a model that is being trained: `OUT.unfinished`, which is renamed to `OUT` when it is complete.
///
/// It holds the run's checkpoint and, from the start, the model's settings, so that problems with the settings show
/// before the training begins. A lock prevents a second run with the same output.
final class OutputFolder {
  let path: String
  private let unfinished: String
  private var lock: Int32 = -1

  var checkpoint: String { unfinished + "/checkpoint.safetensors" }
  private var lockPath: String { unfinished + "/lock" }

  /// The folder for a path from the command line.
  init(_ argument: String) {
    var path = argument.hasPrefix("~") ? NSString(string: argument).expandingTildeInPath : argument
    while path.count > 1 && path.hasSuffix("/") { path.removeLast() }
    self.path = path
    unfinished = path + ".unfinished"
  }

  deinit { if lock >= 0 { close(lock) } }

  var hasCheckpoint: Bool { FileManager.default.fileExists(atPath: checkpoint) }

  /// What is wrong with the place of the folder; nil: nothing.
  var problem: String? {
    let name = (path as NSString).lastPathComponent
    if name.isEmpty || name == "." || name == ".." || name == "/" {
      return "the path of a new folder expected; got \"\(path)\""
    }
    // A symbolic link whose target does not exist counts as something, too.
    if (try? FileManager.default.attributesOfItem(atPath: path)) != nil {
      return "the path of a new folder expected; there is something at \"\(path)\""
    }
    let parent = URL(fileURLWithPath: path).deletingLastPathComponent().path
    var isFolder: ObjCBool = false
    if !FileManager.default.fileExists(atPath: parent, isDirectory: &isFolder) || !isFolder.boolValue {
      return "a path in an existing folder expected; there is no folder \"\(parent)\""
    }
    if !FileManager.default.isWritableFile(atPath: parent) {
      return "a path in a folder that can be written expected; \"\(parent)\" cannot"
    }
    return nil
  }

  /// Makes the unfinished folder, locks it, and copies the settings of the model in `source`. What an earlier run has left,
  /// besides its checkpoint, is removed.
  func open(settingsFrom source: String) throws {
    let files = FileManager.default
    do { try files.createDirectory(atPath: unfinished, withIntermediateDirectories: true) } catch {
      throw AttentionError(.inputOutput, unfinished, "cannot be made: \(error.localizedDescription)")
    }
    lock = Foundation.open(lockPath, O_CREAT | O_RDWR | O_CLOEXEC, 0o644)
    guard lock >= 0 else { throw AttentionError(.inputOutput, lockPath, String(cString: strerror(errno))) }
    guard flock(lock, LOCK_EX | LOCK_NB) == 0 else {
      throw AttentionError(.busy, path, "no other run with this output expected; one is running")
    }
    let kept = [checkpoint, lockPath].map { ($0 as NSString).lastPathComponent }
    for name in (try? files.contentsOfDirectory(atPath: unfinished)) ?? [] where !kept.contains(name) {
      try? files.removeItem(atPath: unfinished + "/" + name)
    }
    try SentenceEncoder.copySettings(from: source, to: unfinished)
  }

  /// Writes the weights and further files, and renames the folder.
  func finish(_ encoder: SentenceEncoder, source: String, adding additions: [String: String]) throws {
    try encoder.writeWeights(to: unfinished, othersFrom: source)
    for (name, content) in additions {
      try writeAtomically(to: unfinished + "/" + name) { try Array(content.utf8).withUnsafeBytes($0) }
    }
    // The folder is loaded as a model, to test it, before it gets its final name.
    _ = try SentenceEncoder(directory: unfinished)
    try? FileManager.default.removeItem(atPath: checkpoint)
    try? FileManager.default.removeItem(atPath: lockPath)
    guard rename(unfinished, path) == 0 else {
      throw AttentionError(
        .inputOutput, path,
        "\(String(cString: strerror(errno))); the trained model is in \(unfinished)")
    }
  }

  /// Removes the unfinished folder of a run that has failed, unless it holds a checkpoint.
  func abandon() {
    if !hasCheckpoint { try? FileManager.default.removeItem(atPath: unfinished) }
  }
}
