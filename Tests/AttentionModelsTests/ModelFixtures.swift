import AttentionFiles
import AttentionProblems
import AttentionTensors
import AttentionTestSupport
import Foundation
import Testing

/// Folders and files of `Tests/Fixtures`.
enum Fixture {
  static let folder = packageFolder + "/Tests/Fixtures"
  static let tiny = folder + "/bert/tiny"
  static let newer = folder + "/bert/newer"
  static let tinyReference = folder + "/bert/tiny-reference.safetensors"
  static let tokenizer = folder + "/tokenizer"
  static let miniLMReference = folder + "/minilm/reference.safetensors"
}

/// A copy of the tiny model, whose files a test may change. It is deleted when this object is released.
final class ModelCopy: Sendable {
  private let folder: TemporaryFolder
  let path: String

  /// Copies the tiny model and then, if `other` is given, the files of the folder `other`, which replace files of the
  /// same name.
  init(laying other: String? = nil) throws {
    folder = try TemporaryFolder()
    path = folder.path
    for source in [Fixture.tiny, other].compactMap({ $0 }) {
      for name in try FileManager.default.subpathsOfDirectory(atPath: source) {
        var isFolder: ObjCBool = false
        _ = FileManager.default.fileExists(atPath: "\(source)/\(name)", isDirectory: &isFolder)
        if !isFolder.boolValue { try write(Data(contentsOf: URL(fileURLWithPath: "\(source)/\(name)")), to: name) }
      }
    }
  }

  func callAsFunction(_ name: String) -> String { folder(name) }

  func write(_ data: Data, to name: String) throws {
    let url = URL(fileURLWithPath: self(name))
    try FileManager.default.createDirectory(at: url.deletingLastPathComponent(), withIntermediateDirectories: true)
    try data.write(to: url)
  }

  func write(_ text: String, to name: String) throws { try write(Data(text.utf8), to: name) }

  func read(_ name: String) throws -> Data { try Data(contentsOf: URL(fileURLWithPath: self(name))) }

  func remove(_ names: String...) throws {
    for name in names { try FileManager.default.removeItem(atPath: self(name)) }
  }

  /// Sets a member of a JSON file to the value `json`, or removes the member if `json` is nil.
  func set(_ key: String, to json: String?, in name: String = "config.json") throws {
    var members = try #require(JSONSerialization.jsonObject(with: read(name)) as? [String: Any])
    members[key] = nil
    let rest = String(decoding: try JSONSerialization.data(withJSONObject: members), as: UTF8.self)
    let member = json.map { "\"\(key)\":\($0)\(members.isEmpty ? "" : ",")" } ?? ""
    try write("{\(member)\(rest.dropFirst())", to: name)
  }

  func editWeights(_ edit: (inout StoredTensors) throws -> Void) throws {
    var tensors = try StoredTensors(path: self("model.safetensors"))
    try edit(&tensors)
    try tensors.write(to: self("model.safetensors"))
  }
}

/// The tensors of a safetensors file as bytes, to be changed and written again.
struct StoredTensors {
  struct Entry {
    var dataType: DataType
    var shape: [Int]
    var bytes: [UInt8]
  }
  var metadata: [String: String]
  private(set) var entries: [String: Entry] = [:]

  init(path: String) throws {
    let file = try SafeTensorsFile(contentsOf: path, loading: .copied)
    metadata = file.metadata
    for entry in file.entries {
      entries[entry.name] = Entry(
        dataType: entry.dataType, shape: entry.shape, bytes: try file.withUnsafeBytes(of: entry.name, Array.init))
    }
  }

  var names: [String] { entries.keys.sorted() }

  subscript(name: String) -> Entry? {
    get { entries[name] }
    set { entries[name] = newValue }
  }

  mutating func set<Element: TensorElement>(_ name: String, to values: [Element], shape: [Int]? = nil) {
    entries[name] = Entry(
      dataType: Element._dataType, shape: shape ?? [values.count], bytes: values.withUnsafeBytes(Array.init))
  }

  /// The numbers of the tensor `name`, whose element type must be `Element`.
  func values<Element: TensorElement>(_ name: String, as _: Element.Type = Element.self) throws -> [Element] {
    let entry = try #require(entries[name])
    #expect(entry.dataType == Element._dataType)
    return entry.bytes.withUnsafeBytes { Array($0.bindMemory(to: Element.self)) }
  }

  func write(to path: String) throws {
    var writer = SafeTensorsWriter()
    writer.metadata = metadata
    for (name, entry) in entries {
      try writer.add(name, dataType: entry.dataType, shape: entry.shape, bytes: entry.bytes)
    }
    try writer.write(to: path)
  }
}

/// Expects that `body` throws an `AttentionError` whose description holds every one of `parts`.
@discardableResult
func expectError(
  _ parts: String..., code: AttentionError.Code? = nil, sourceLocation: SourceLocation = #_sourceLocation,
  _ body: () throws -> Void
) -> AttentionError? {
  let error = #expect(throws: AttentionError.self, sourceLocation: sourceLocation, performing: body)
  guard let error else { return nil }
  for part in parts {
    #expect(error.description.contains(part), "\"\(part)\" expected in: \(error)", sourceLocation: sourceLocation)
  }
  if let code { #expect(error.code == code, "\(error)", sourceLocation: sourceLocation) }
  return error
}

/// Describes how two results for one input differ, one of them computed with other inputs in the same call; nil if they
/// agree.
///
/// With the package's own kernels, the bits must be equal. With OpenBLAS, the results may differ by rounding errors,
/// because it sums in another order for few rows than for many.
func companyMismatch(_ actual: [Float], _ expected: [Float], _ context: AttentionContext) -> String? {
  if context.resolvedAlgorithm == .openBLAS {
    return mismatch(actual, expected.map(Double.init), tolerance: 1e-5, context.path)
  }
  return sameBits(actual, expected) ? nil : "\(context.path): the same bits expected"
}

/// The rows of a matrix.
func rows(_ matrix: Tensor<Float>) throws -> [[Float]] {
  try (0..<matrix.shape[0]).map { try matrix.select($0, axis: 0).array }
}

extension TestGenerator {
  private static let words =
    """
    the of and to in that she he it was not you her his is with for be have but very all at sister good man wife truth single \
    fortune large rain letter house attend mean happy walk cafe universal acknowledge walking know heart happiness attended \
    letters unknown42 Café 愛 x-ray
    """.split(separator: " ").map(String.init)

  /// A text of random words and punctuation marks. Most of them, but not all, are in the tiny model's vocabulary.
  mutating func text(wordCount: ClosedRange<Int> = 1...12) -> String {
    (0..<Int.random(in: wordCount, using: &self)).map { _ in
      Self.words.randomElement(using: &self)! + ["", "", "", ",", ".", "!"].randomElement(using: &self)!
    }.joined(separator: " ")
  }

  mutating func texts(_ count: Int, wordCount: ClosedRange<Int> = 1...12) -> [String] {
    (0..<count).map { _ in text(wordCount: wordCount) }
  }

  /// A random Unicode scalar, assigned or not. At least half of the scalars are below U+3000, where the letters and
  /// marks of most alphabets are.
  mutating func scalar() -> Unicode.Scalar {
    while true {
      let limit: UInt32 = Bool.random(using: &self) ? 0x3000 : 0x11_0000
      if let scalar = Unicode.Scalar(UInt32.random(in: 0..<limit, using: &self)) { return scalar }
    }
  }
}

func readBytes(_ path: String) throws -> Data { try Data(contentsOf: URL(fileURLWithPath: path)) }
