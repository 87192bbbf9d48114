#if os(Linux)
  import Attention
  import AttentionTestSupport
  import Glibc
  import Testing

  // Swift hides fork(): a program in C or Python that links the library does not.
  private let fork = unsafeBitCast(dlsym(nil, "fork"), to: (@convention(c) () -> pid_t).self)

  /// What a child of a fork computes, as its exit status, 0 if `body` says so; nil if it does not end within a minute.
  private func statusOfChild(_ body: () throws -> Bool) -> Int32? {
    let child = fork()
    if child == 0 { _exit((try? body()) == true ? 0 : 1) }
    var status: Int32 = 0
    for _ in 0..<6000 {
      if waitpid(child, &status, WNOHANG) == child { return status }
      usleep(10_000)
    }
    kill(child, SIGKILL)
    return nil
  }

  @Suite("Forks")
  struct ForkTests {
    @Test("a child computes the same bits, with threads of its own, and so does its parent afterwards")
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
              // Its own three workers, and a child of its own. OpenBLAS may have threads beside them.
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
  }
#endif
