/// Choices that are not about one call: threads, instruction set, algorithm.
///
/// A value, passed where it matters; `default` fills in elsewhere. Environment variables only set the
/// default: `ATTENTION_NUM_THREADS`, `ATTENTION_ISA`, `ATTENTION_ALGORITHM`.
public struct AttentionContext: Sendable {
  /// Threads to use at most, the caller's included: from 1 to ``threadLimit``, to which other numbers are
  /// brought. The work is cut by shapes alone, so results have the same bits whatever the number.
  public var threadCount: Int {
    didSet { threadCount = Self.clamped(threadCount) }
  }
  /// The most threads that one call can use.
  public static let threadLimit = 256
  /// The instruction set of the kernels; nil: the best one present. One that this machine lacks makes
  /// every call that uses kernels throw ``AttentionError`` with code `unsupported`.
  public var instructionSet: InstructionSet?
  /// Who computes products; nil: the faster one for the instruction set, which ``resolvedAlgorithm`` tells.
  public var algorithm: AttentionAlgorithm?
  /// The constants of plans: for measurements to change, and nobody else.
  package var tuning = Tuning()
  /// Where the tasks of a call run.
  public var executor: any ParallelExecutor
  /// What was wrong with the environment; every call with this context throws it.
  package var environmentError: AttentionError?

  /// A context that differs from the default in what is given.
  public init(
    threadCount: Int? = nil, instructionSet: InstructionSet? = nil, algorithm: AttentionAlgorithm? = nil,
    executor: (any ParallelExecutor)? = nil
  ) {
    self = .default
    if let threadCount { self.threadCount = Self.clamped(threadCount) }
    if let instructionSet { self.instructionSet = instructionSet }
    if let algorithm { self.algorithm = algorithm }
    if let executor { self.executor = executor }
  }

  /// The process's default, fixed at first use: the environment variables, else this machine.
  public static let `default` = AttentionContext(environment: environmentVariable)

  package init(environment: (String) -> String?) {
    threadCount = Self.clamped(ThreadChoice(environment: environment).count)
    executor = ThreadTeam.shared
    do throws(AttentionError) {
      instructionSet = try Self.choice("ATTENTION_ISA", environment)
      algorithm = try Self.choice("ATTENTION_ALGORITHM", environment)
      if let text = environment("ATTENTION_NUM_THREADS"), !text.isEmpty {
        try requireArgument(
          Int(text).map { $0 >= 1 } ?? false, "ATTENTION_NUM_THREADS", "a number from 1 expected; got \"\(text)\"")
      }
    } catch {
      environmentError = error
    }
  }

  /// Runs the tasks of one call on ``executor``, floating-point exceptions untrapped. Every call of an executor in this
  /// package goes through here.
  package func execute(taskCount: Int, threadCount: Int, _ body: (_ task: Int, _ worker: Int) -> Void) {
    FloatingPointEnvironment.withoutTraps { executor.execute(taskCount: taskCount, threadCount: threadCount, body) }
  }

  private static func clamped(_ count: Int) -> Int { min(max(count, 1), threadLimit) }

  private static func choice<Choice>(
    _ name: String, _ environment: (String) -> String?
  ) throws(AttentionError) -> Choice? where Choice: CaseIterable & RawRepresentable<String> {
    guard let text = environment(name), !text.isEmpty else { return nil }
    if let choice = Choice(rawValue: text) { return choice }
    let names = Choice.allCases.map(\.rawValue).joined(separator: ", ")
    throw AttentionError(.invalidArgument, name, "one of \(names) expected; got \"\(text)\"")
  }
}
