import Attention
import AttentionFiles
import AttentionTestSupport
import Foundation
import Testing

/// Runs code like the README's examples, and compiles the examples themselves without changes.
@Suite("README")
struct ReadmeTests {
  /// The README's blocks of Swift code, each as a reader would copy it into `main.swift`.
  private static let examples: [String] = {
    let text = (try? String(contentsOfFile: "\(packageFolder)/README.md", encoding: .utf8)) ?? ""
    return text.components(separatedBy: "```swift\n").dropFirst().map { $0.components(separatedBy: "```")[0] }
  }()

  #if os(Linux)
    @Test("every example compiles without changes", arguments: examples)
    func compiles(example: String) throws {
      let folder = try TemporaryFolder()
      _ = try folder.write(Array(example.utf8), to: "main.swift")
      let products = URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent().path
      var arguments = ["swiftc", "-typecheck", "-swift-version", "6", "-I", "\(products)/Modules"]
      let maps =
        ["CAttentionKernels", "COpenBLASStartup"].map { "\(products)/\($0).build/module.modulemap" }
        + ["COpenBLAS", "CLAPACKE"].map { "\(packageFolder)/Sources/\($0)/module.modulemap" }
      for map in maps { arguments += ["-Xcc", "-fmodule-map-file=\(map)"] }
      let process = Process()
      process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
      process.arguments = arguments + [folder("main.swift")]
      let errors = Pipe()
      process.standardError = errors
      try process.run()
      let complaint = String(decoding: errors.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
      process.waitUntilExit()
      #expect(process.terminationStatus == 0, "\(complaint)")
    }
  #endif

  @Test("the README has examples")
  func present() { #expect(Self.examples.count >= 5) }

  @Test("the first example gives the result that the README shows")
  func firstExample() throws {
    let query = try Tensor<Float>(uniform: -1..<1, shape: [1, 8, 128, 64], seed: 1)  // [batch, heads, length, width]
    let output = try scaledDotProductAttention(query: query, key: query, value: query, mask: .causal)
    print(output.shape)  // [1, 8, 128, 64]
    #expect(output.shape == [1, 8, 128, 64])
    #expect(output.array.allSatisfy { abs($0) <= 1 })
  }

  @Test("a layer with PyTorch's weights")
  func layer() throws {
    let folder = try TemporaryFolder()
    var writer = SafeTensorsWriter()
    let stored = try MultiHeadAttention<Float>(embeddingDimension: 24, headCount: 12, seed: 1)
    for (name, tensor) in try stored.stateDictionary() { try writer.add(name, tensor) }
    let path = folder("layer.safetensors")
    try writer.write(to: path)
    let x = try Tensor<Float>(uniform: -1..<1, shape: [2, 16, 24], seed: 2)

    let file = try SafeTensorsFile(contentsOf: path)
    let layer = try MultiHeadAttention(stateDictionary: file.tensors(as: Float.self), headCount: 12)
    let result = try layer.forward(query: x, key: x, value: x, mask: .keyLengths([16, 12]), weights: .averaged)
    print(result.output.shape, try result.weights.shape)
    #expect(result.output.shape == [2, 16, 24])
    #expect(try result.weights.shape == [2, 16, 16])
    #expect(try (12..<16).allSatisfy { try result.weights[1, 3, $0] == 0 })
  }

  @Test("masks compose")
  func masks() throws {
    let mask = AttentionMask.causal
      .combined(with: .window(left: 511, right: 0))
      .combined(with: .keyLengths([16, 12]))
    let x = try Tensor<Float>(uniform: -1..<1, shape: [2, 1, 16, 4], seed: 2)
    #expect(try scaledDotProductAttention(query: x, key: x, value: x, mask: mask).shape == [2, 1, 16, 4])
  }

  @Test("a cache with a two-byte type")
  func cache() throws {
    let key = try Tensor<Float>(uniform: -1..<1, shape: [1, 8, 5, 64], seed: 1)
    let (query, value) = (key, key)
    let cache = try KeyValueCache<BFloat16>(batchCount: 1, headCount: 8, headDimension: 64)
    try cache.append(key: key, value: value)
    let next = try scaledDotProductAttention(query: query, cache: cache)
    let exact = try scaledDotProductAttention(query: query, key: key, value: value, mask: .causal)
    #expect(mismatch(next.array, exact.array.map(Double.init), tolerance: 0.02) == nil)
  }
}
