import ArgumentParser
import Attention

/// Options that force the algorithm, the instruction set and the number of threads.
struct ContextOptions: ParsableArguments {
  @Option(help: ArgumentHelp("Force who computes products: packed or openblas.", valueName: "name"))
  var algorithm: String?

  @Option(help: ArgumentHelp("Force an instruction set: portable, neon, avx2 or avx512.", valueName: "name"))
  var isa: String?

  @Option(help: ArgumentHelp("Threads at most (default: CPUs that this process may use).", valueName: "count"))
  var threads: Int?

  func validate() throws {
    if let threads, threads < 1 { throw ValidationError("--threads: a number from 1 expected; got \(threads)") }
    if let algorithm, AttentionAlgorithm(rawValue: algorithm) == nil {
      throw ValidationError(
        "--algorithm: \"\(algorithm)\" is not present; present: \(names(AttentionAlgorithm.allCases))")
    }
    let present = InstructionSet.present
    if let isa, !present.contains(where: { $0.rawValue == isa }) {
      throw ValidationError("--isa: \"\(isa)\" is not present on this machine; present: \(names(present))")
    }
  }

  private func names<Choice: RawRepresentable<String>>(_ choices: [Choice]) -> String {
    choices.map(\.rawValue).joined(separator: ", ")
  }

  func context() throws -> AttentionContext {
    let context = AttentionContext(
      threadCount: threads, instructionSet: isa.flatMap(InstructionSet.init),
      algorithm: algorithm.flatMap(AttentionAlgorithm.init))
    // A wrong environment variable is reported before the work begins.
    _ = try context.resolvedInstructionSet()
    return context
  }
}
