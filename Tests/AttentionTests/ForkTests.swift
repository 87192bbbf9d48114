#if os(Linux)
  import Attention
  import AttentionTestSupport
  import Glibc
  import Testing

  @Suite("Forks")
  struct ForkTests {
    @Test("a child process computes the same bits with threads of its own, and so does its parent afterwards")
    func idleFork() async {
      await #expect(processExitsWith: .success) {
        let x = try Tensor<Float>(uniform: -1..<1, shape: [4, 8, 300, 32], seed: 1)
        for algorithm in AttentionAlgorithm.allCases {
          let context = AttentionContext(threadCount: 4, algorithm: algorithm)
          @Sendable func attend() throws -> [Float] {
            try scaledDotProductAttention(query: x, key: x, value: x, mask: .causal, context: context).array
          }
          let expected = try attend()
          for _ in 0..<5 {
            let status = statusOfChild {
              guard try sameBits(attend(), expected) else { return false }
              // The child has its first thread and three workers of its own, and can fork, too. OpenBLAS may have more
              // threads.
              let tasks = contents(ofFile: "/proc/self/status")?.split(separator: "\n").first {
                $0.hasPrefix("Threads:")
              }
              guard algorithm == .openBLAS || tasks.map({ $0.hasSuffix("4") }) == true else { return false }
              return statusOfChild { try sameBits(attend(), expected) } == 0
            }
            precondition(status == 0, "\(algorithm): \(status as Any)")
            let again = try attend()
            precondition(sameBits(again, expected))
          }
        }
      }
    }

    @Test("a fork while other threads are in the middle of calls")
    func busyFork() async {
      await #expect(processExitsWith: .success) {
        let x = try Tensor<Float>(uniform: -1..<1, shape: [2, 4, 200, 32], seed: 1)
        for algorithm in AttentionAlgorithm.allCases {
          let context = AttentionContext(threadCount: 3, algorithm: algorithm)
          @Sendable func attend() throws -> [Float] {
            try scaledDotProductAttention(query: x, key: x, value: x, context: context).array
          }
          let expected = try attend()
          await withTaskGroup(of: Void.self) { group in
            for _ in 0..<2 {
              group.addTask {
                for _ in 0..<150 { precondition((try? attend()).map { sameBits($0, expected) } == true) }
              }
            }
            group.addTask {
              for _ in 0..<40 {
                let status = statusOfChild { try sameBits(attend(), expected) }
                precondition(status == 0, "\(algorithm): \(status as Any)")
              }
            }
          }
        }
      }
    }

    // A thread that packs a weight holds the lock of `Once` and then takes the lock of the memory pool. A fork takes
    // both locks too. Unless it takes them in the same order, the two threads wait for each other for ever.
    @Test("a fork while other threads pack the weights of layers", .timeLimit(.minutes(2)))
    func packingFork() async {
      await #expect(processExitsWith: .success) {
        let weight = try Tensor<Float>(uniform: -1..<1, shape: [64, 64], seed: 1)
        let x = try Tensor<Float>(uniform: -1..<1, shape: [4, 64], seed: 2)
        let context = AttentionContext(threadCount: 1, algorithm: .packed)
        let expected = try Linear(weight: weight)(x, context: context).array
        @Sendable func isRight() -> Bool {
          (try? Linear(weight: weight)(x, context: context).array).map { sameBits($0, expected) } == true
        }
        await withTaskGroup(of: Void.self) { group in
          for _ in 0..<2 {
            group.addTask { for _ in 0..<20_000 { precondition(isRight()) } }
          }
          group.addTask {
            for _ in 0..<200 {
              let status = statusOfChild { isRight() }
              precondition(status == 0, "\(status as Any)")
            }
          }
        }
      }
    }
  }
#endif
