import AttentionModels
import AttentionTensors
import AttentionTestSupport
import Foundation
import Testing

@Suite("A wrong file of an index gives an error that names the file")
struct HostileIndexTests {
  private let model: SentenceEncoder
  private let folder: TemporaryFolder
  private let path: String

  init() throws {
    model = try SentenceEncoder(directory: Fixture.tiny)
    folder = try TemporaryFolder()
    path = folder("index")
    try EmbeddingIndex(texts: ["house", "rain", "a good letter", "heart"], encoder: model).write(to: path)
  }

  private func edit(_ edit: (inout StoredTensors) throws -> Void) throws {
    var tensors = try StoredTensors(path: path)
    try edit(&tensors)
    try tensors.write(to: path)
  }

  private func open() throws { _ = try EmbeddingIndex(contentsOf: path) }

  @Test(
    "ends of texts that are out of order, beyond the bytes, or below 0",
    arguments: [
      ([9, 5, 22, 27], "text.ends from 9 to 27 expected at 1; got 5"),
      ([5, 9, 22, 28], "from 22 to 27 expected at 3; got 28"),
      ([-1, 9, 22, 27], "from 0 to 27 expected at 0; got -1"), ([5, 9, 22, .max], "got \(Int64.max)"),
      ([5, .min, 22, 27], "got \(Int64.min)"), ([28, 28, 28, 28], "expected at 0; got 28"),
    ] as [([Int64], String)])
  func ends(ends: [Int64], message: String) throws {
    try edit { tensors in
      let right: [Int64] = try tensors.values("text.ends")
      #expect(right == [5, 9, 22, 27])
      tensors.set("text.ends", to: ends)
    }
    expectError(path, message, code: .invalidFile) { try open() }
  }

  @Test("each tensor that is missing", arguments: ["vectors", "text.bytes", "text.ends", "lines", "probe"])
  func missing(name: String) throws {
    try edit { $0[name] = nil }
    expectError(path, "no tensor \"\(name)\"", code: .notFound) { try open() }
  }

  @Test(
    "each tensor of a wrong shape",
    arguments: [
      ("vectors", [192]), ("vectors", [4, 48, 1]), ("vectors", [8, 24]), ("vectors", [2, 96]), ("vectors", [48, 4]),
      ("text.bytes", [1, 27]), ("text.bytes", [27, 1]), ("text.ends", [4, 1]), ("text.ends", [2, 2]),
      ("lines", [1, 4]),
      ("lines", [2, 2]), ("probe", [1, 48]), ("probe", [48, 1]),
    ])
  func shapes(name: String, shape: [Int]) throws {
    try edit { $0[name]?.shape = shape }
    expectError(path, "expected; got", "\(shape)", code: .invalidFile) { try open() }
  }

  @Test("each tensor with too few elements, or with none")
  func counts() throws {
    let whole = try readBytes(path)
    let right = try StoredTensors(path: path)
    for name in right.names where name != "text.bytes" {
      for count in [0, right[name]!.shape[0] - 1] {
        try whole.write(to: URL(fileURLWithPath: path))
        try edit { tensors in
          let rowByteCount = tensors[name]!.bytes.count / tensors[name]!.shape[0]
          tensors[name]!.shape[0] = count
          tensors[name]!.bytes.removeLast(tensors[name]!.bytes.count - count * rowByteCount)
        }
        expectError(path, code: .invalidFile) { try open() }
      }
    }
  }

  @Test(
    "each tensor of a wrong type",
    arguments: [
      ("vectors", DataType.int32), ("text.bytes", .int8), ("text.ends", .uint64), ("lines", .float64),
      ("probe", .uint32),
    ])
  func types(name: String, type: DataType) throws {
    try edit { $0[name]?.dataType = type }
    expectError(path, "tensor \"\(name)\"", type.rawValue) { try open() }
  }

  @Test("a format that is missing or unknown")
  func format() throws {
    for format in [nil, "", "swift-attention index 2"] {
      try edit { $0.metadata["format"] = format }
      expectError(path, "the format \"swift-attention index 1\" expected", code: .invalidFile) { try open() }
    }
  }

  @Test("truncated files, files of another kind, a folder, and a missing file")
  func otherFiles() throws {
    let whole = try readBytes(path)
    for count in Array(stride(from: 0, to: whole.count, by: 97)) + [whole.count - 1] {
      try whole.prefix(count).write(to: URL(fileURLWithPath: path))
      expectError(path, code: .invalidFile) { try open() }
    }
    for other in [Fixture.tiny + "/model.safetensors", Fixture.tiny + "/config.json", Fixture.tiny, folder("missing")] {
      expectError(other) { _ = try EmbeddingIndex(contentsOf: other) }
    }
  }

  @Test("texts whose vectors hold a NaN are never found, whatever the limit", arguments: [1, 2, 4, 10])
  func notANumber(limit: Int) throws {
    let expected = try EmbeddingIndex(contentsOf: path).search(model.embed(["rain"]), limit: 4)[0]
    try edit { tensors in
      var values: [Float] = try tensors.values("vectors")
      values[0] = .nan
      values[3 * 48 + 47] = .nan
      tensors.set("vectors", to: values, shape: [4, 48])
    }
    let found = try EmbeddingIndex(contentsOf: path).search(model.embed(["rain"]), limit: limit)[0]
    #expect(found == Array(expected.filter { [1, 2].contains($0.position) }.prefix(limit)))
  }

  @Test("infinite vectors come first or last, and nothing traps")
  func infinite() throws {
    try edit { tensors in
      var values: [Float] = try tensors.values("vectors")
      for i in 0..<48 { (values[i], values[48 + i]) = (0, 0) }
      (values[0], values[48]) = (.infinity, -.infinity)
      tensors.set("vectors", to: values, shape: [4, 48])
    }
    let query = try Tensor<Float>([1] + [Float](repeating: 0, count: 47), shape: [1, 48])
    let found = try EmbeddingIndex(contentsOf: path).search(query, limit: 4)[0]
    #expect(found.map(\.position).first == 0)
    #expect(found.map(\.position).last == 1)
    #expect(found.map(\.score).first == .infinity)
  }

  @Test("a NaN query finds nothing")
  func queryOfNaN() throws {
    let query = try Tensor<Float>(repeating: .nan, shape: [1, 48])
    #expect(try EmbeddingIndex(contentsOf: path).search(query, limit: 3) == [[]])
  }

  @Test(
    "an index whose probe vector holds NaN, in some or all places, matches no model",
    arguments: [0..<1, 47..<48, 0..<48])
  func probeOfNaN(range: Range<Int>) throws {
    try edit { tensors in
      var values: [Float] = try tensors.values("probe")
      for i in range { values[i] = .nan }
      tensors.set("probe", to: values)
    }
    let index = try EmbeddingIndex(contentsOf: path)
    expectError("the model that the index was made with expected", code: .invalidArgument) { try index.check(model) }
  }

  @Test("a model of another dimension is refused; the error names both dimensions")
  func otherDimension() throws {
    try edit { tensors in
      tensors.set("vectors", to: [Float](repeating: 0, count: 4 * 47), shape: [4, 47])
      tensors.set("probe", to: [Float](repeating: 0, count: 47))
    }
    let index = try EmbeddingIndex(contentsOf: path)
    expectError("a model of dimension 47 expected, as the index has it; got 48", code: .invalidArgument) {
      try index.check(model)
    }
  }

  @Test("all texts are equally near if vectors have width 0")
  func noWidth() throws {
    try edit { tensors in
      tensors.set("vectors", to: [Float](), shape: [4, 0])
      tensors.set("probe", to: [Float]())
    }
    let index = try EmbeddingIndex(contentsOf: path)
    let found = try index.search(Tensor(repeating: 0, shape: [2, 0]), limit: 3)
    #expect(found.map { $0.map(\.position) } == [[0, 1, 2], [0, 1, 2]])
    #expect(throws: AttentionError.self) { try index.check(model) }
  }

  @Test("line numbers below 1", arguments: [0, -1, Int64.min])
  func lines(line: Int64) throws {
    try edit { $0.set("lines", to: [1, 2, line, 4]) }
    expectError(path, "lines from 1 expected; got \(line) at 2", code: .invalidFile) { try open() }
  }

  @Test("bytes that are not UTF-8 are repaired; texts may end within a character, and bytes may follow the last text")
  func noUTF8() throws {
    try edit { tensors in
      tensors.set("text.bytes", to: [0xff, 0x61, 0xc3, 0xa9, 0x62, 0x00, 0x63, 0x64] as [UInt8])
      tensors.set("text.ends", to: [2, 3, 3, 6] as [Int64])
      tensors.set("lines", to: [7, 1, 2, .max] as [Int64])
    }
    let index = try EmbeddingIndex(contentsOf: path)
    #expect((0..<4).map(index.text) == ["\u{fffd}a", "\u{fffd}", "", "\u{fffd}b\u{0}"])
    let lines = try index.search(model.embed(["rain"]), limit: 4)[0].sorted { $0.position < $1.position }.map(\.line)
    #expect(lines == [7, 1, 2, .max])
  }
}
