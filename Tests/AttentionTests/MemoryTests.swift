import Attention
import AttentionTestSupport
import Testing

@Suite("Memory")
struct MemoryTests {
  #if os(Linux)
    @Test("stays below inputs, output and 64 MiB at 16384 × 16384 scores a head, with a causal mask and a bias")
    func linearInLength() async {
      // In a process of its own, whose peak is this call's.
      await #expect(processExitsWith: .success) {
        let length = 16384
        let shape = [1, 8, length, 64]
        let before = processByteCount("VmHWM")
        let query = try Tensor<Float>(repeating: 0.1, shape: shape)
        let key = try Tensor<Float>(repeating: 0.1, shape: shape)
        let value = try Tensor<Float>(repeating: 0.5, shape: shape)
        let bias = try Tensor<Float>(repeating: 0.25, shape: [1, 8, 1, length])
        let output = try scaledDotProductAttention(
          query: query, key: key, value: value, mask: .causal.intersection(.bias(bias)),
          context: AttentionContext(threadCount: 2))
        let operands = 4 * 4 * shape.reduce(1, *) + 4 * bias.count
        let used = processByteCount("VmHWM") - before
        print("peak memory \(used >> 20) MiB, of which \(operands >> 20) MiB are operands")
        precondition(used < operands + 64 << 20)
        precondition(abs(output[0, 7, length - 1, 63] - 0.5) < 1e-5)
      }
    }
  #endif
}
