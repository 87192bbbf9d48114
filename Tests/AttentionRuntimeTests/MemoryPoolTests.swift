import AttentionTensors
import AttentionTestSupport
import Dispatch
import Testing

@Suite("Memory of tensors")
struct MemoryPoolTests {
  @Test("a large block is used again once its tensor is gone, and by no two tensors at once")
  func reuse() async {
    // In a process of its own: other tests take blocks too.
    await #expect(processExitsWith: .success) {
      func address(_ tensor: borrowing Tensor<Float>) -> Int { Int(bitPattern: tensor.base) }
      var first: Tensor<Float>? = try Tensor<Float>(repeating: 1, shape: [300, 300])
      let place = address(first!)
      let second = try Tensor<Float>(repeating: 2, shape: [300, 300])
      precondition(address(second) != place)
      first = nil
      let third = try Tensor<Float>(repeating: 3, shape: [300, 300])
      precondition(address(third) == place, "kept")
      precondition(second.array.allSatisfy { $0 == 2 } && third.array.allSatisfy { $0 == 3 })
    }
  }

  @Test("a block much larger than what is wanted is not given away for it")
  func fit() async {
    await #expect(processExitsWith: .success) {
      var large: Tensor<Float>? = try Tensor<Float>(repeating: 1, shape: [1 << 20])
      let place = Int(bitPattern: large!.base)
      large = nil
      let small = try Tensor<Float>(repeating: 2, shape: [1 << 17])
      precondition(Int(bitPattern: small.base) != place)
    }
  }

  @Test("threads that take and give at once keep their numbers to themselves")
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

/// Apart, because sanitizers keep what is let go: they skip what is named so.
@Suite("Memory that is kept")
struct KeptMemoryTests {
  #if os(Linux)
    @Test("what is kept is bounded")
    func bound() async {
      await #expect(processExitsWith: .success) {
        // 400 MiB at once, then all let go: resident are 128 MiB of them at most, and what a process has anyway.
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
