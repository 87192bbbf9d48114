#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#elseif canImport(Darwin)
  import Darwin
#endif

/// Which tile kernels compute the products inside attention.
public enum AttentionAlgorithm: String, Sendable, Hashable, CaseIterable {
  /// OpenBLAS, one thread per call: every element type, every machine.
  case openBLAS = "openblas"
}

/// Choices that are not about one call: threads, instruction set, algorithm.
///
/// A value, passed where it matters; `default` fills in elsewhere. Environment variables only set the
/// default: `ATTENTION_NUM_THREADS`, `ATTENTION_ISA`, `ATTENTION_ALGORITHM`.
public struct AttentionContext: Sendable {
  /// Threads to use at most, the caller's included; at least 1. The work is cut by shapes alone, so
  /// results have the same bits whatever the number.
  public var threadCount: Int
  /// The instruction set of the kernels; nil: the best one present. One that this machine lacks makes
  /// every call throw ``AttentionError`` with code `unsupported`.
  public var instructionSet: InstructionSet?
  /// The tile kernels; nil: the best for each call.
  public var algorithm: AttentionAlgorithm?
  /// Where the pieces of a call run.
  public var executor: any ParallelExecutor
  /// What was wrong with the environment; every call with this context throws it.
  package var environmentError: AttentionError?

  /// A context that differs from the default in what is given.
  public init(
    threadCount: Int? = nil, instructionSet: InstructionSet? = nil, algorithm: AttentionAlgorithm? = nil,
    executor: (any ParallelExecutor)? = nil
  ) {
    self = .default
    if let threadCount { self.threadCount = max(1, threadCount) }
    if let instructionSet { self.instructionSet = instructionSet }
    if let algorithm { self.algorithm = algorithm }
    if let executor { self.executor = executor }
  }

  /// The process's default, fixed at first use: the environment variables, else this machine.
  public static let `default` = AttentionContext(environment: environmentVariable)

  package init(environment: (String) -> String?) {
    threadCount = ThreadChoice(environment: environment).count
    executor = ThreadTeam.shared
    do throws(AttentionError) {
      instructionSet = try Self.choice("ATTENTION_ISA", environment)
      algorithm = try Self.choice("ATTENTION_ALGORITHM", environment)
      if let text = environment("ATTENTION_NUM_THREADS") {
        try requireArgument(
          Int(text).map { $0 >= 1 } ?? false, "ATTENTION_NUM_THREADS", "a number from 1 expected; got \"\(text)\"")
      }
    } catch {
      environmentError = error
    }
  }

  private static func choice<Choice>(
    _ name: String, _ environment: (String) -> String?
  ) throws(AttentionError) -> Choice? where Choice: CaseIterable & RawRepresentable<String> {
    guard let text = environment(name), !text.isEmpty else { return nil }
    if let choice = Choice(rawValue: text) { return choice }
    let names = Choice.allCases.map(\.rawValue).joined(separator: ", ")
    throw AttentionError(.invalidArgument, name, "one of \(names) expected; got \"\(text)\"")
  }
}

/// How many threads this process uses by default, and why.
package struct ThreadChoice {
  package let count: Int
  /// For people: where the number comes from.
  package let source: String

  package init(environment: (String) -> String? = environmentVariable) {
    if let text = environment("ATTENTION_NUM_THREADS"), let count = Int(text), count >= 1 {
      self.count = count
      source = "ATTENTION_NUM_THREADS"
      return
    }
    let affinity = processorCountByAffinity()
    if let quota = CPUQuota.current, Int(quota.rounded(.up)) < affinity {
      count = max(1, Int(quota.rounded(.up)))
      source = "the control group's quota of \(quota) CPUs"
    } else {
      count = affinity
      source = "the CPUs that this process may run on"
    }
  }
}

package func environmentVariable(_ name: String) -> String? {
  getenv(name).map { String(cString: $0) }
}
