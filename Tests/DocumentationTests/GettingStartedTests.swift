import Attention
import AttentionFiles
import AttentionTestSupport
import Testing

@Suite("Getting started, shapes and layouts")
struct GettingStartedTests {
  @Test("the first calls")
  func first() throws {
    let query = try Tensor<Float>(uniform: -1..<1, shape: [2, 4, 10, 32], seed: 1)
    let key = try Tensor<Float>(uniform: -1..<1, shape: [2, 4, 12, 32], seed: 2)
    let value = try Tensor<Float>(uniform: -1..<1, shape: [2, 4, 12, 16], seed: 3)
    let output = try scaledDotProductAttention(query: query, key: key, value: value)
    print(output.shape)  // [2, 4, 10, 16]
    #expect(output.shape == [2, 4, 10, 16])

    let x = try Tensor<Float>([1, 0, 0, 1, 1, 1], shape: [3, 2])  // [length, width]
    let mixed: [Float] = try scaledDotProductAttention(query: x, key: x, value: x).array
    print(mixed.count)  // 6
    #expect(mixed.count == 6)

    let result = try scaledDotProductAttention(
      query: x, key: x, value: x, mask: .causal, returning: [.weights, .logSumExp])
    print(try result.weights[0, 0], try result.weights[0, 1])  // 1.0 0.0
    #expect(try result.weights[0, 0] == 1 && result.weights[0, 1] == 0)

    do {
      _ = try scaledDotProductAttention(query: query, key: key, value: key.slice(0..<11, axis: 2))
    } catch let error as AttentionError {
      print(error.code == .shapeMismatch, error)
    }
  }

  @Test("a new layer, and a layer with stored weights")
  func layers() throws {
    let layer = try MultiHeadAttention<Float>(embeddingDimension: 64, headCount: 8, seed: 1)
    let sentences = try Tensor<Float>(uniform: -1..<1, shape: [2, 5, 64], seed: 2)  // [batch, length, width]
    // The second sentence has three tokens; two are padding.
    let y = try layer(sentences, mask: .keyLengths([5, 3]))
    print(y.shape)  // [2, 5, 64]
    #expect(y.shape == [2, 5, 64])

    let folder = try TemporaryFolder()
    let path = folder("layer.safetensors")
    var writer = SafeTensorsWriter()
    for (name, tensor) in try layer.stateDictionary() { try writer.add(name, tensor) }
    try writer.write(to: path)
    let file = try SafeTensorsFile(contentsOf: path)
    let trained = try MultiHeadAttention(stateDictionary: file.tensors(convertingTo: Float.self), headCount: 8)
    #expect(try trained(sentences, mask: .keyLengths([5, 3])) == y)
  }

  @Test("layouts, views, grouped heads, output into existing memory")
  func layouts() throws {
    let lengthFirst = try Tensor<Float>(uniform: -1..<1, shape: [2, 10, 4, 32], seed: 1)
    let output = try scaledDotProductAttention(
      query: lengthFirst, key: lengthFirst, value: lengthFirst, options: AttentionOptions(layout: .lengthFirst))
    print(output.shape)  // [2, 10, 4, 32]
    #expect(output.shape == [2, 10, 4, 32])

    let stacked = try Tensor<Float>(uniform: -1..<1, shape: [2, 10, 3 * 128], seed: 1)
    let parts = try (0..<3).map { try stacked.slice($0 * 128..<($0 + 1) * 128, axis: 2).splitHeads(4) }
    let heads = try scaledDotProductAttention(query: parts[0], key: parts[1], value: parts[2])
    print(heads.shape)  // [2, 4, 10, 32]
    #expect(heads.shape == [2, 4, 10, 32])

    let queries = try Tensor<Float>(uniform: -1..<1, shape: [1, 32, 1, 128], seed: 1)
    let cache = try Tensor<Float>(uniform: -1..<1, shape: [1, 8, 500, 128], seed: 2)
    let step = try scaledDotProductAttention(query: queries, key: cache, value: cache)
    print(step.shape)  // [1, 32, 1, 128]
    #expect(step.shape == [1, 32, 1, 128])

    var wide = try Tensor<Float>(repeating: 0, shape: [2, 4, 10, 64])
    try wide.withMutableView { view in
      try view.withSlice(32..<64, axis: 3) { half in
        try scaledDotProductAttention(query: parts[0], key: parts[1], value: parts[2], into: &half)
      }
    }
    #expect(try wide.slice(32..<64, axis: 3) == heads)
    #expect(try wide.slice(0..<32, axis: 3).array.allSatisfy { $0 == 0 })
  }
}
