/// Settings that apply to more than one call: threads, instruction set, algorithm, precision, executor.
///
/// A context is a value that calls take as an argument. Calls without that argument use ``default``. Environment
/// variables affect only the default: `ATTENTION_NUM_THREADS`, `ATTENTION_ISA`, `ATTENTION_ALGORITHM`.
public struct AttentionContext: Sendable {
  /// The most threads that a call uses, including the caller's. A number outside 1 to ``threadLimit`` is replaced by
  /// the nearest of these two. The number of threads does not change the bits of results, because the work is cut into
  /// tasks only by shapes.
  public var threadCount: Int {
    didSet { threadCount = Self.clamped(threadCount) }
  }
  /// The most threads that one call can use.
  public static let threadLimit = 256
  /// The instruction set of the kernels; nil: the best one present. If this machine does not have the one that is set,
  /// every call that uses kernels throws ``AttentionError`` with code `unsupported`.
  public var instructionSet: InstructionSet?
  /// What computes products; nil: `packed` or `openBLAS`, whichever is faster with the instruction set.
  /// ``resolvedAlgorithm`` tells which of them that is.
  public var algorithm: AttentionAlgorithm?
  /// The least accuracy of products.
  public var precision = AttentionPrecision.full
  /// The constants, such as sizes of tiles, from which the plan of a call is made. Only benchmarks and tests change
  /// them.
  package var tuning = Tuning()
  /// Where the tasks of a call run.
  public var executor: any ParallelExecutor
  /// The error of an environment variable that has an invalid value. Every call with this context throws it.
  package var environmentError: AttentionError?

  /// A context that differs from the default only in the arguments that are given.
  public init(
    threadCount: Int? = nil, instructionSet: InstructionSet? = nil, algorithm: AttentionAlgorithm? = nil,
    precision: AttentionPrecision? = nil, executor: (any ParallelExecutor)? = nil
  ) {
    self = .default
    if let threadCount { self.threadCount = Self.clamped(threadCount) }
    if let instructionSet { self.instructionSet = instructionSet }
    if let algorithm { self.algorithm = algorithm }
    if let precision { self.precision = precision }
    if let executor { self.executor = executor }
  }

  /// The default of this process. It is made at first use, from the environment variables; what they do not set is
  /// chosen for this machine.
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

  /// Runs the tasks of one call on ``executor``, with floating-point exceptions untrapped. Every use of an executor in this
  /// package goes through this method.
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
