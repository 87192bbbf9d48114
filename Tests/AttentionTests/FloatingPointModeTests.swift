import Attention
import AttentionProblems
import AttentionTestSupport
import CLibrary
import Testing

@Suite("The caller's rounding mode and flush-to-zero")
struct FloatingPointModeTests {
  /// Runs `body` with flush-to-zero on, and then restores the mode of the thread.
  private func flushingToZero<R>(_ body: () throws -> R) rethrows -> R {
    var before = fenv_t()
    fegetenv(&before)
    var inside = before
    #if arch(x86_64)
      // The bits FTZ and DAZ of MXCSR.
      inside.__mxcsr |= 0x8040
    #elseif arch(arm64)
      inside.__fpcr |= 1 << 24
    #endif
    fesetenv(&inside)
    defer { fesetenv(&before) }
    return try body()
  }

  private func rounding<R>(_ mode: Int32, _ body: () throws -> R) rethrows -> R {
    let before = fegetround()
    fesetround(mode)
    defer { fesetround(before) }
    return try body()
  }

  static let modes: [Int32] = [FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO]

  @Test(
    "in every rounding mode, results are accurate and have the same bits on any number of threads, and the mode stays",
    arguments: modes, InstructionSet.present)
  func roundingModes(mode: Int32, isa: InstructionSet) throws {
    let scenario = Scenario(B: 2, H: 4, Hk: 2, L: 200, S: 220, E: 32, Ev: 32, mask: .causal)
    let problem = scenario.reference()
    let exact = problem.answer()
    let plain = problem.answer(in: Float.self)
    let inputs = try Inputs<Float>(problem)
    var bits: [Float] = []
    for threads in [1, 2, 7] {
      for executor in [ThreadTeam.shared, DispatchExecutor()] as [any ParallelExecutor] {
        let context = AttentionContext(threadCount: threads, instructionSet: isa, executor: executor)
        let output = try rounding(mode) {
          let output = try scaledDotProductAttention(
            query: inputs.query, key: inputs.key, value: inputs.value, mask: .causal, context: context)
          #expect(fegetround() == mode)
          return output.array
        }
        // If all rounding is in one direction, the errors of a sum of 220 terms do not cancel. So the tolerance is
        // larger.
        let difference = mismatch(
          output, exact.output, tolerance: 8 * tolerance(plain: plain.output, exact: exact.output))
        #expect(difference == nil)
        if bits.isEmpty { bits = output }
        let isSame = sameBits(output, bits)
        #expect(isSame, "\(threads) threads, \(executor)")
      }
    }
    let other = try scaledDotProductAttention(
      query: inputs.query, key: inputs.key, value: inputs.value, mask: .causal,
      context: AttentionContext(threadCount: 2, instructionSet: isa))
    let isSame = sameBits(other.array, bits)
    #expect(isSame == (mode == FE_TONEAREST), "the mode must change the bits; otherwise this test shows nothing")
  }

  @Test("flush-to-zero applies on every thread, and only while it is on in the caller", arguments: [1, 2, 7])
  func flushToZero(threads: Int) throws {
    // Values so small that every product with a weight below 1 is subnormal.
    let tiny = Float.leastNormalMagnitude
    let x = try Tensor<Float>(uniform: -1..<1, shape: [2, 4, 200, 16], seed: 3)
    let value = try Tensor<Float>(repeating: tiny, shape: [2, 4, 200, 16])
    for executor in [ThreadTeam.shared, DispatchExecutor()] as [any ParallelExecutor] {
      func attend() throws -> [Float] {
        try scaledDotProductAttention(
          query: x, key: x, value: value, context: AttentionContext(threadCount: threads, executor: executor)
        ).array
      }
      let flushed = try flushingToZero {
        let output = try attend()
        var mode = fenv_t()
        fegetenv(&mode)
        #if arch(x86_64)
          #expect(mode.__mxcsr & 0x8040 == 0x8040)
        #endif
        return output
      }
      #if arch(x86_64) || arch(arm64)
        #expect(flushed.allSatisfy { $0 == 0 || $0.isNormal })
        #expect(flushed.contains { $0 < tiny / 2 })
      #endif
      // After flush-to-zero is off again, results are not flushed.
      #expect(try attend().allSatisfy { abs($0 - tiny) < tiny * 1e-4 })
    }
  }

  #if arch(x86_64)
    @Test("with finite inputs, no path raises a floating-point exception that a program may trap")
    func traps() async {
      await #expect(processExitsWith: .success) {
        let x = try Tensor<Float>(uniform: -1..<1, shape: [2, 4, 130, 24], seed: 1)
        let y = try Tensor<Double>(uniform: -1..<1, shape: [2, 4, 130, 24], seed: 1)
        var flags = try Tensor<Bool>(repeating: true, shape: [130, 130])
        for key in 0..<130 { flags[3, key] = false }
        let layer = try MultiHeadAttention<Float>(
          configuration: .init(embeddingDimension: 24, headCount: 4, rotary: RotaryEmbedding(dimension: 6)), seed: 1)
        // The bits of MXCSR that mask the exceptions for invalid operations, division by zero and overflow.
        let traps: UInt32 = 0x680
        var mode = fenv_t()
        fegetenv(&mode)
        mode.__mxcsr &= ~traps
        fesetenv(&mode)
        for path in AttentionContext.everyPath {
          for threads in [1, 3] {
            var context = path
            context.threadCount = threads
            for mask in [AttentionMask.none, .causal, .attending(flags), .keyLengths([0, 7]), .alibi(headCount: 4)] {
              for count in [1, 130] {
                let (query, wide) = (try x.slice(0..<count, axis: 2), try y.slice(0..<count, axis: 2))
                let flagged = count == 1 ? AttentionMask.causal : mask
                _ = try scaledDotProductAttention(
                  query: query, key: x, value: x, mask: flagged, options: AttentionOptions(softcap: 5),
                  returning: [.weights, .logSumExp],
                  context: context)
                _ = try scaledDotProductAttention(query: wide, key: y, value: y, mask: flagged, context: context)
              }
            }
            _ = try softmax(x, context: context)
            _ = try layer(Tensor<Float>(uniform: -1..<1, shape: [2, 9, 24], seed: 2), mask: .causal, context: context)
          }
        }
        // The exceptions must still be unmasked afterwards.
        fegetenv(&mode)
        guard mode.__mxcsr & traps == 0 else { exit(1) }
      }
    }
  #endif
}
