import AttentionFiles
import AttentionModels
import AttentionTensors
import AttentionTestSupport
import Foundation
import Testing

@Suite("Weights of model.safetensors")
struct WeightTests {
  private let copy: ModelCopy
  private let texts: [String]
  private let word = "embeddings.word_embeddings.weight"
  private let bias = "encoder.layer.1.attention.self.key.bias"
  private let norm = "encoder.layer.0.output.LayerNorm.weight"

  init() throws {
    copy = try ModelCopy()
    var generator = TestGenerator(seed: 9)
    texts = generator.texts(30)
  }

  private func load(_ loading: SafeTensorsFile.Loading = .mapped) throws {
    _ = try SentenceEncoder(directory: copy.path, loading: loading)
  }

  private func embed(_ path: String) throws -> [Float] { try SentenceEncoder(directory: path).embed(texts).array }

  private var weights: String { copy("model.safetensors") }

  @Test("one error lists a missing tensor, an unknown tensor and a tensor of a wrong shape")
  func threeProblems() throws {
    try copy.editWeights { tensors in
      tensors[bias] = nil
      tensors.set("encoder.layer.1.extra.weight", to: [Float](repeating: 0, count: 6), shape: [2, 3])
      tensors.set(norm, to: [Float](repeating: 1, count: 47))
    }
    expectError(
      weights, "\(bias) [48] is missing", "encoder.layer.1.extra.weight [2, 3] is unknown",
      "\(norm) is [47], [48] expected",
      code: .invalidFile
    ) { try load() }
  }

  @Test("the error names each tensor that is missing or of another rank")
  func eachTensor() throws {
    let whole = try copy.read("model.safetensors")
    for name in try StoredTensors(path: weights).names where !name.hasPrefix("pooler.") {
      try copy.write(whole, to: "model.safetensors")
      try copy.editWeights { $0[name] = nil }
      expectError(weights, "\(name) [", "is missing", code: .invalidFile) { try load() }
      try copy.write(whole, to: "model.safetensors")
      try copy.editWeights { $0[name]?.shape.append(1) }
      expectError(weights, "\(name) is [", ", 1], [", code: .invalidFile) { try load() }
    }
  }

  @Test("with very many problems, the error lists the first ones and the number of the others")
  func manyProblems() throws {
    try copy.set("num_hidden_layers", to: "1000")
    // 16 tensors are missing in each of 998 layers. The error lists the first 20.
    expectError(weights, "encoder.layer.2.attention", "and \(998 * 16 - 20) more") { try load() }
  }

  @Test("if names have the prefix \"bert.\", tensors without it are ignored, and the embeddings are the same")
  func prefix() throws {
    let expected = try embed(copy.path)
    try copy.editWeights { tensors in
      for name in tensors.names {
        tensors["bert.\(name)"] = tensors[name]
        tensors[name] = nil
      }
      tensors.set("cls.predictions.bias", to: [Float](repeating: 1, count: 113))
      tensors.set("classifier.weight", to: [Int32](repeating: 1, count: 6), shape: [2, 3])
      tensors.set("bert.embeddings.position_ids", to: (0..<40).map(Int64.init), shape: [1, 40])
    }
    #expect(sameBits(try embed(copy.path), expected))
    try copy.editWeights { tensors in
      tensors.set("bert.encoder.extra", to: [Float(1)])
      tensors["bert.\(bias)"] = nil
    }
    expectError("bert.\(bias) [48] is missing", "bert.encoder.extra [1] is unknown") { try load() }
  }

  @Test("if names have no prefix, a tensor of a head is reported as unknown")
  func headWithoutPrefix() throws {
    try copy.editWeights { $0.set("cls.predictions.bias", to: [Float](repeating: 1, count: 113)) }
    expectError("cls.predictions.bias [113] is unknown") { try load() }
  }

  @Test("the tensors of the pooler and the tensor of position ids are optional")
  func ignored() throws {
    let expected = try embed(copy.path)
    try copy.editWeights { tensors in
      for name in tensors.names where name.hasPrefix("pooler.") { tensors[name] = nil }
      tensors.set("embeddings.position_ids", to: (0..<40).map(Int64.init), shape: [1, 40])
    }
    #expect(sameBits(try embed(copy.path), expected))
  }

  /// The embeddings with weights rounded to another type: `own` with weights stored in that type, `rounded` with the
  /// same numbers stored as Float.
  private func converted<Element: RealTensorElement>(to _: Element.Type) throws -> (own: [Float], rounded: [Float]) {
    let (own, rounded) = (try ModelCopy(), try ModelCopy())
    for name in try StoredTensors(path: weights).names {
      try own.editWeights { tensors in
        let values: [Float] = try tensors.values(name)
        tensors.set(name, to: values.map { Element(_nearest: Double($0)) }, shape: tensors[name]?.shape)
      }
      try rounded.editWeights { tensors in
        let values: [Float] = try tensors.values(name)
        tensors.set(name, to: values.map { Float(Element(_nearest: Double($0))._double) }, shape: tensors[name]?.shape)
      }
    }
    return (try embed(own.path), try embed(rounded.path))
  }

  @Test("BFloat16 and Double are converted exactly, and give nearly the same embeddings as Float")
  func otherTypes() throws {
    let expected = try embed(copy.path)
    let bfloat16 = try converted(to: BFloat16.self)
    #expect(sameBits(bfloat16.own, bfloat16.rounded))
    #expect(mismatch(bfloat16.own, expected.map(Double.init), tolerance: 0.01) == nil)
    #expect(!sameBits(bfloat16.own, expected))
    #expect(sameBits(try converted(to: Double.self).own, expected))
  }

  #if !(os(macOS) && arch(x86_64))
    @Test("Float16 is converted exactly, and gives nearly the same embeddings as Float")
    func float16() throws {
      let expected = try embed(copy.path)
      let float16 = try converted(to: Float16.self)
      #expect(sameBits(float16.own, float16.rounded))
      #expect(mismatch(float16.own, expected.map(Double.init), tolerance: 0.002) == nil)
      #expect(!sameBits(float16.own, expected))
    }
  #endif

  @Test("the error names tensors of types that cannot be weights")
  func integers() throws {
    try copy.editWeights { tensors in
      tensors.set(bias, to: [Int32](repeating: 1, count: 48))
      tensors.set(norm, to: [Bool](repeating: true, count: 48))
      tensors[word]?.dataType = .float8E4M3
      tensors[word]?.bytes = [UInt8](repeating: 0, count: 113 * 48)
    }
    expectError(
      weights, "\(bias) is I32, real numbers expected", "\(norm) is BOOL", "\(word) is F8_E4M3", code: .invalidFile
    ) { try load() }
  }

  @Test("a truncated file gives an error that names the file, whether it is mapped or read")
  func truncated() throws {
    let whole = try copy.read("model.safetensors")
    let header = 8 + whole.prefix(8).enumerated().reduce(0) { $0 + Int($1.element) << (8 * $1.offset) }
    for count in [0, 1, 7, 8, 9, header / 2, header - 1, header, header + 1, whole.count / 2, whole.count - 1] {
      try copy.write(whole.prefix(count), to: "model.safetensors")
      for loading in [SafeTensorsFile.Loading.mapped, .copied] {
        expectError(weights, code: .invalidFile) { try load(loading) }
      }
    }
  }

  @Test(
    "wrong shapes, offsets and types in the header are errors that name the file",
    arguments: [
      ("[113,48]", "[1099511627776,48]"), ("[113,48]", "[9223372036854775807,9223372036854775807]"),
      ("[113,48]", "[0,1099511627776]"), ("[113,48]", "[-113,48]"), ("\"data_offsets\":[0,", "\"data_offsets\":[4,"),
      ("\"data_offsets\":[0,", "\"data_offsets\":[0,9"), ("\"data_offsets\":[0,192]", "\"data_offsets\":[192,0]"),
      ("\"dtype\":\"F32\"", "\"dtype\":\"F64\""),
    ])
  func claims(right: String, lie: String) throws {
    let whole = try copy.read("model.safetensors")
    let length = whole.prefix(8).enumerated().reduce(0) { $0 + Int($1.element) << (8 * $1.offset) }
    let header = String(decoding: whole[8..<8 + length], as: UTF8.self)
    let range = try #require(header.firstRange(of: right))
    let changed = header.replacingCharacters(in: range, with: lie)
    let size = withUnsafeBytes(of: UInt64(changed.utf8.count).littleEndian, Array.init)
    try copy.write(Data(size) + Data(changed.utf8) + whole[(8 + length)...], to: "model.safetensors")
    expectError(weights, code: .invalidFile) { try load() }
  }

  @Test(
    "a header length beyond the end of the file, or of any possible file, is an error",
    arguments: [1, 0x7f, 0xff] as [UInt8])
  func headerLength(byte: UInt8) throws {
    for place in 3..<8 {
      var bytes = try copy.read("model.safetensors")
      bytes[place] = byte
      try copy.write(bytes, to: "model.safetensors")
      expectError(weights, code: .invalidFile) { try load() }
    }
  }

  @Test("without model.safetensors, the error names a file that holds the weights in another format")
  func otherFiles() throws {
    try copy.remove("model.safetensors")
    expectError(weights, "no such file", code: .notFound) { try load() }
    for name in ["tf_model.h5", "pytorch_model.bin", "model.safetensors.index.json"] {
      try copy.write("x", to: name)
      expectError(weights, "there is \(name)", code: .notFound) { try load() }
    }
    try FileManager.default.createDirectory(atPath: weights, withIntermediateDirectories: false)
    expectError(weights, "regular file", code: .inputOutput) { try load() }
  }
}
