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
    @Test("peak memory is below inputs, output and 64 MiB at 16384 × 16384 scores per head, with causal mask and bias")
    func linearInLength() async {
      // The call runs in its own process, so that the peak of the process is the peak of the call.
      await #expect(processExitsWith: .success) {
        let length = 16384
        let shape = [1, 8, length, 64]
        let before = processByteCount("VmHWM")
        // All scores are equal, so row i is the mean of the first i + 1 values, which grow by 1 from key to key.
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
  #endif
}
