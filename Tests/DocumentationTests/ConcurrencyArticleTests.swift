import Attention
import AttentionFiles
import AttentionTestSupport
import Testing

@Suite("Documentation: performance, threads, coming from other libraries")
struct ConcurrencyArticleTests {
  @Test("reusing the output")
  func reuse() throws {
    var output = try Tensor<Float>(repeating: 0, shape: [1, 8, 256, 64])
    for step in 0..<3 {
      let x = try Tensor<Float>(uniform: -1..<1, shape: [1, 8, 256, 64], seed: UInt64(step))
      try scaledDotProductAttention(query: x, key: x, value: x, mask: .causal, into: &output)
    }
    #expect(output.array.contains { $0 != 0 })
  }

  @Test("calls from tasks")
  func tasks() async throws {
    let x = try Tensor<Float>(uniform: -1..<1, shape: [2, 16, 8], seed: 1)
    let quiet = AttentionContext(threadCount: 1)
    let output = try scaledDotProductAttention(query: x, key: x, value: x, context: quiet)
    let requests = [x, x, x]
    let outputs = try await withThrowingTaskGroup(of: (Int, Tensor<Float>).self) { group in
      for (index, request) in requests.enumerated() {
        group.addTask {
          (index, try scaledDotProductAttention(query: request, key: request, value: request, context: quiet))
        }
      }
      return try await group.reduce(into: [Int: Tensor<Float>]()) { $0[$1.0] = $1.1 }
    }
    #expect(outputs.count == 3 && outputs.values.allSatisfy { $0 == output })

    let shared = AttentionContext(executor: DispatchExecutor())
    #expect(try scaledDotProductAttention(query: x, key: x, value: x, context: shared) == output)
  }

  @Test("PyTorch's weights under a prefix")
  func pyTorch() throws {
    let folder = try TemporaryFolder()
    let path = folder("layer.safetensors")
    let stored = try MultiHeadAttention<Float>(embeddingDimension: 24, headCount: 4, seed: 1)
    var writer = SafeTensorsWriter()
    for (name, tensor) in try stored.stateDictionary(prefix: "encoder.") { try writer.add(name, tensor) }
    try writer.write(to: path)
    let file = try SafeTensorsFile(contentsOf: path)
    let layer = try MultiHeadAttention(
      stateDictionary: file.tensors(convertingTo: Float.self), prefix: "encoder.", headCount: 4)
    #expect(layer.configuration == stored.configuration)
  }

  @Test("a layer with Keras's weights gives the results of Keras's formula")
  func keras() throws {
    let (heads, width, length) = (3, 4, 5)
    let d = heads * width
    func random(_ shape: [Int], _ seed: UInt64) throws -> Tensor<Float> {
      try Tensor(uniform: -1..<1, shape: shape, seed: seed)
    }
    let queryKernel = try random([d, heads, width], 1)
    let keyKernel = try random([d, heads, width], 2)
    let valueKernel = try random([d, heads, width], 3)
    let outputKernel = try random([heads, width, d], 4)
    let (queryBias, keyBias, valueBias) = (
      try random([heads, width], 5), try random([heads, width], 6), try random([heads, width], 7)
    )
    let outputBias = try random([d], 8)
    let state = [
      "query/kernel": queryKernel, "query/bias": queryBias, "key/kernel": keyKernel, "key/bias": keyBias,
      "value/kernel": valueKernel, "value/bias": valueBias, "attention_output/kernel": outputKernel,
      "attention_output/bias": outputBias,
    ]
    let layer = try MultiHeadAttention(stateDictionary: state, headCount: heads)

    // Keras computes einsum("abc,cde->abde", x, kernel) + bias, then attention head by head, then
    // einsum("abcd,cde->abe", …) + bias.
    let x = try random([1, length, d], 9)
    var problem = ReferenceAttention()
    (problem.H, problem.Hk, problem.L, problem.S, problem.E, problem.Ev) = (heads, heads, length, length, width, width)
    func projected(_ kernel: Tensor<Float>, _ bias: Tensor<Float>) -> [Double] {
      (0..<heads * length * width).map { position in
        let (h, i, e) = (position / (length * width), position / width % length, position % width)
        return (0..<d).reduce(Double(bias[h, e])) { $0 + Double(x[0, i, $1]) * Double(kernel[$1, h, e]) }
      }
    }
    problem.query = projected(queryKernel, queryBias)
    problem.key = projected(keyKernel, keyBias)
    problem.value = projected(valueKernel, valueBias)
    let context = problem.answer().output
    let expected = (0..<length * d).map { position in
      let (i, column) = (position / d, position % d)
      return (0..<heads * width).reduce(Double(outputBias[column])) {
        let (h, e) = ($1 / width, $1 % width)
        return $0 + context[(h * length + i) * width + e] * Double(outputKernel[h, e, column])
      }
    }
    #expect(mismatch(try layer(x).array, expected, tolerance: 1e-4) == nil)
  }
}
