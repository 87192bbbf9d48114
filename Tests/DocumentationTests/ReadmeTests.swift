import Attention
import AttentionFiles
import AttentionTestSupport
import Testing

/// The README's code, compiled and run.
@Suite("README")
struct ReadmeTests {
  @Test("the first example gives its result")
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
    let stored = try MultiHeadAttention<Float>(embeddingWidth: 24, headCount: 12, seed: 1)
    for (name, tensor) in try stored.stateDictionary() { try writer.add(name, tensor) }
    let path = folder("layer.safetensors")
    try writer.write(to: path)
    let x = try Tensor<Float>(uniform: -1..<1, shape: [2, 16, 24], seed: 2)

    // A layer with PyTorch's weights, on the sentences of a batch, each with a length of its own.
    let file = try SafeTensorsFile(path: path)
    var state: [String: Tensor<Float>] = [:]
    for entry in file.entries { state[entry.name] = try file.tensor(entry.name) }
    let layer = try MultiHeadAttention(stateDictionary: state, headCount: 12)
    let result = try layer.forward(query: x, key: x, value: x, mask: .keyLengths([16, 12]), weights: .averaged)
    print(result.output.shape, result.weights!.shape)
    #expect(result.output.shape == [2, 16, 24])
    #expect(result.weights!.shape == [2, 16, 16])
    #expect((12..<16).allSatisfy { result.weights![1, 3, $0] == 0 })
  }

  @Test("masks compose")
  func masks() throws {
    // Masks are values that compose: the last 512 keys, of those before each length.
    let mask = AttentionMask.causal
      .intersection(.window(left: 511, right: 0))
      .intersection(.keyLengths([16, 12]))
    let x = try Tensor<Float>(uniform: -1..<1, shape: [2, 1, 16, 4], seed: 2)
    #expect(try scaledDotProductAttention(query: x, key: x, value: x, mask: mask).shape == [2, 1, 16, 4])
  }

  @Test("a cache in two bytes")
  func cache() throws {
    let key = try Tensor<Float>(uniform: -1..<1, shape: [1, 8, 5, 64], seed: 1)
    let (query, value) = (key, key)
    // Generating: the cache makes its own mask; in BFloat16 it takes half the memory and half the time.
    let cache = try KeyValueCache<BFloat16>(.growing, batchCount: 1, headCount: 8, width: 64)
    try cache.append(key: key, value: value)
    let next = try scaledDotProductAttention(query: query, cache: cache)
    let exact = try scaledDotProductAttention(query: query, key: key, value: value, mask: .causal)
    #expect(mismatch(next.array, exact.array.map(Double.init), tolerance: 0.02) == nil)
  }
}
