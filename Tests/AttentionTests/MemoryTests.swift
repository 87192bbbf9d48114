import Attention
import AttentionTestSupport
import Testing

/// The value of `key` at an index of `[heads, keys, 64]`. The values of each head and column are different.
private func expectedValue(_ index: Int, ofKey key: Int) -> Float {
  Float(key) + Float(index % 64 + (index >> 20) * 64) / 4
}

@Suite("Memory")
struct MemoryTests {
  #if os(Linux)
    @Test("peak memory is below inputs + output + 64 MiB at 16384 × 16384 scores per head, with causal mask and bias")
    func linearInLength() async {
      // The call runs in its own process, so that the peak of the process is the peak of the call.
      await #expect(processExitsWith: .success) {
        let length = 16384
        let shape = [1, 8, length, 64]
        let before = processByteCount("VmHWM")
        // All scores are equal, so row i of the output is the mean of the first i + 1 values, which grow by 1 from key
        // to key.
        let query = try Tensor<Float>(repeating: 0.1, shape: shape)
        let key = try Tensor<Float>(repeating: 0.1, shape: shape)
        let value = try Tensor<Float>(shape: shape) { target in
          for index in target.indices { target[index] = expectedValue(index, ofKey: index / 64 % length) }
        }
        let bias = try Tensor<Float>(repeating: 0.25, shape: [1, 8, 1, length])
        let output = try scaledDotProductAttention(
          query: query, key: key, value: value, mask: .causal.combined(with: .bias(bias)),
          context: AttentionContext(threadCount: 2))
        let operands = 4 * 4 * shape.reduce(1, *) + 4 * bias.count
        let used = processByteCount("VmHWM") - before
        print("peak memory \(used >> 20) MiB, of which \(operands >> 20) MiB are operands")
        precondition(used < operands + 64 << 20)
        try output.withUnsafeBufferPointer { output in
          for index in output.indices {
            let place = index / 64 % length
            let expected = expectedValue(index, ofKey: 0) + Float(place) / 2
            precondition(abs(output[index] - expected) <= 1e-5 * Float(length), "row \(place)")
          }
        }
      }
    }

    @Test(
      "peak memory of forward and backward is below operands + gradients + 64 MiB at 16384 × 16384 scores per head")
    func gradients() async {
      await #expect(processExitsWith: .success) {
        let length = 16384
        let shape = [1, 2, length, 64]
        let before = processByteCount("VmHWM")
        // All scores are equal, so row i of the output is the mean of the first i + 1 values.
        let query = try Tensor<Float>(repeating: 0.1, shape: shape)
        let key = try Tensor<Float>(repeating: 0.1, shape: shape)
        let value = try Tensor<Float>(uniform: -1..<1, shape: shape, seed: 1)
        let outputGradient = try Tensor<Float>(repeating: 1, shape: shape)
        let context = AttentionContext(threadCount: 2)
        let result = try scaledDotProductAttention(
          query: query, key: key, value: value, mask: .causal, returning: .logSumExp, context: context)
        let gradients = try scaledDotProductAttentionGradients(
          query: query, key: key, value: value, mask: .causal, result: result, outputGradient: outputGradient,
          context: context)
        // There are eight tensors: query, key, value, output, the gradient of the output, and the three gradients of
        // the call.
        let operands = 8 * 4 * shape.reduce(1, *)
        let used = processByteCount("VmHWM") - before
        print("peak memory \(used >> 20) MiB, of which \(operands >> 20) MiB are operands and gradients")
        precondition(used < operands + 64 << 20)
        // The gradient of value j is the sum of the weights that it has: 1 / (i + 1) for each query i from j on.
        var sum = 0.0
        for j in (0..<length).reversed() {
          sum += 1 / Double(j + 1)
          let got = Double(gradients.value[0, 1, j, 63])
          precondition(abs(got - sum) <= 1e-5 * sum, "key \(j): \(sum) expected; got \(got)")
        }
      }
    }
  #endif
}
