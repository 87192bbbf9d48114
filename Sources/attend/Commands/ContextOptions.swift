import ArgumentParser
import Attention

/// Options that force the algorithm, the instruction set, the precision and the number of threads.
struct ContextOptions: ParsableArguments {
  @Option(help: ArgumentHelp("Force what computes products: packed, openblas or matrix.", valueName: "name"))
  var algorithm: String?

  @Option(help: ArgumentHelp("Force an instruction set, such as avx2; attend info lists them.", valueName: "name"))
  var isa: String?

  @Option(
    help: ArgumentHelp(
      "The least accuracy of products: full, or bfloat16 for one product each with --algorithm matrix.",
      valueName: "name"))
  var precision: String?

  @Option(help: ArgumentHelp("Threads at most (default: CPUs that this process may use).", valueName: "count"))
  var threads: Int?

  func validate() throws {
    if let threads, threads < 1 { throw ValidationError("--threads: a number from 1 expected; got \(threads)") }
    if let algorithm, AttentionAlgorithm(rawValue: algorithm) == nil {
      throw ValidationError(
        "--algorithm: \"\(algorithm)\" is not present; present: \(names(AttentionAlgorithm.allCases))")
    }
    if let precision, AttentionPrecision(rawValue: precision) == nil {
      throw ValidationError(
        "--precision: one of \(names(AttentionPrecision.allCases)) expected; got \"\(precision)\"")
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
      algorithm: algorithm.flatMap(AttentionAlgorithm.init), precision: precision.flatMap(AttentionPrecision.init))
    // A wrong environment variable is reported before the work begins.
    _ = try context.resolvedInstructionSet()
    return context
  }
}
