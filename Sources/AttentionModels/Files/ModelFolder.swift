internal import AttentionFiles
internal import AttentionTensors
internal import Foundation

/// The files of a Hugging Face folder.
struct ModelFolder {
  let path: String

  /// The largest size in bytes of a JSON file or vocabulary: the largest tokenizers have some 20 MB.
  private static let byteLimit = 256 << 20

  func path(_ name: String) -> String { path.hasSuffix("/") ? path + name : "\(path)/\(name)" }

  func contains(_ name: String) -> Bool { FileManager.default.fileExists(atPath: path(name)) }

  /// Checks that the folder exists.
  /// - Throws: `AttentionError` if the folder does not exist.
  func check() throws(AttentionError) {
    var isFolder: ObjCBool = false
    guard FileManager.default.fileExists(atPath: path, isDirectory: &isFolder), isFolder.boolValue else {
      throw AttentionError(
        .notFound, path, "a folder with config.json, model.safetensors and tokenizer.json or vocab.txt expected")
    }
  }

  /// The bytes of a file.
  func bytes(_ name: String) throws(AttentionError) -> [UInt8] {
    let path = path(name)
    guard contains(name) else { throw AttentionError(.notFound, path, "no such file") }
    return try readFile(path, byteLimit: Self.byteLimit)
  }

  /// A JSON file as `Value`; nil if there is no such file.
  func json<Value: Decodable>(_ name: String, as _: Value.Type = Value.self) throws(AttentionError) -> Value? {
    guard contains(name) else { return nil }
    let bytes = try bytes(name)
    do { return try JSONDecoder().decode(Value.self, from: Data(bytes)) } catch {
      if let other = bytes.withUnsafeBytes(whatElse) {
        throw AttentionError(.invalidFile, path(name), "JSON expected; it is \(other)")
      }
      throw AttentionError(.invalidFile, path(name), describe(error))
    }
  }

  func required<Value: Decodable>(_ name: String, as _: Value.Type = Value.self) throws(AttentionError) -> Value {
    if let value: Value = try json(name) { return value }
    throw AttentionError(.notFound, path(name), "no such file")
  }

  /// A decoder's error in one line.
  private func describe(_ error: any Error) -> String {
    guard let error = error as? DecodingError else { return "no valid JSON" }
    func place(_ context: DecodingError.Context) -> String {
      let keys = context.codingPath.map { $0.intValue.map { "[\($0)]" } ?? $0.stringValue }
      return keys.isEmpty ? "the file" : keys.joined(separator: ".")
    }
    switch error {
    case .keyNotFound(let key, let context): return "\"\(key.stringValue)\" expected in \(place(context))"
    case .valueNotFound(_, let context): return "\(place(context)): a value expected; got null"
    case .typeMismatch(let type, let context): return "\(place(context)): a value of type \(type) expected"
    // Foundation's error says neither that a number is the cause nor which number does not fit its property.
    case .dataCorrupted(let context) where context.codingPath.isEmpty:
      return "valid JSON expected, and whole numbers where they are due"
    case .dataCorrupted(let context): return "\(place(context)): \(context.debugDescription)"
    @unknown default: return "no valid JSON"
    }
  }
}
