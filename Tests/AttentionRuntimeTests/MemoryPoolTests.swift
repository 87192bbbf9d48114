import AttentionTensors
import AttentionTestSupport
import Dispatch
import Testing

@Suite("Memory of tensors")
struct MemoryPoolTests {
  @Test("a large block is reused after its tensor is freed, and never by two tensors at once")
  func reuse() async {
    // This runs in a process of its own, because other tests take blocks too.
    await #expect(processExitsWith: .success) {
      func address(_ tensor: borrowing Tensor<Float>) -> Int { Int(bitPattern: tensor.base) }
      var first: Tensor<Float>? = try Tensor<Float>(repeating: 1, shape: [300, 300])
      let place = address(first!)
      let second = try Tensor<Float>(repeating: 2, shape: [300, 300])
      precondition(address(second) != place)
      first = nil
      let third = try Tensor<Float>(repeating: 3, shape: [300, 300])
      precondition(address(third) == place, "the freed block must be reused")
      precondition(second.array.allSatisfy { $0 == 2 } && third.array.allSatisfy { $0 == 3 })
    }
  }

  @Test("a kept block is not reused for a tensor that is much smaller")
  func fit() async {
    await #expect(processExitsWith: .success) {
      var large: Tensor<Float>? = try Tensor<Float>(repeating: 1, shape: [1 << 20])
      let place = Int(bitPattern: large!.base)
      large = nil
      let small = try Tensor<Float>(repeating: 2, shape: [1 << 17])
      precondition(Int(bitPattern: small.base) != place)
    }
  }

  @Test("threads that take and return blocks at the same time do not change each other's numbers")
  func concurrent() {
    let outcomes = UncheckedSendable(UnsafeMutableBufferPointer<Bool>.allocate(capacity: 64))
    defer { outcomes.value.deallocate() }
    outcomes.value.initialize(repeating: false)
    DispatchQueue.concurrentPerform(iterations: 64) { i in
      let isRight = try? (0..<20).allSatisfy { round in
        let value = Float(i * 20 + round)
        let tensor = try Tensor<Float>(repeating: value, shape: [20_000 + 1000 * (i % 5)])
        return tensor.array.allSatisfy { $0 == value }
      }
      outcomes.value[i] = isRight == true
    }
    #expect(outcomes.value.allSatisfy { $0 })
  }
}

/// A suite of its own, because sanitizers hold freed memory back. `make test-sanitized` skips suites with `MemoryTests`
/// in their name.
@Suite("Memory that the pool keeps")
struct KeptMemoryTests {
  #if os(Linux)
    @Test("the amount of kept memory is bounded")
    func bound() async {
      await #expect(processExitsWith: .success) {
        // 400 MiB are allocated, then all are freed. At most 128 MiB of them stay resident, in addition to the other
        // memory of the process.
        var tensors = try (0..<100).map { try Tensor<Float>(repeating: Float($0), shape: [1 << 20]) }
        let most = withExtendedLifetime(tensors) { processByteCount("VmRSS") }
        tensors = []
        let kept = processByteCount("VmRSS")
        print("resident \(most >> 20) MiB, then \(kept >> 20) MiB")
        precondition(most > 390 << 20 && kept < 200 << 20)
      }
    }
  #endif
}
