import ArgumentParser
import Attention
import AttentionBLAS
import AttentionTensors

struct Info: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Show what this process computes with, and why.")

  @Flag(help: "Print JSON instead of lines.")
  var json = false

  @OptionGroup var options: ContextOptions

  private struct Facts: Encodable {
    let version: String
    let openblasVersion: String
    let openblasConfiguration: String
    let openblasCoreAsFound: String
    let openblasCore: String
    let openblasCoreReason: String
    let openblasThreading: String
    let openblasThreads: String
    let isa: String
    let isaReason: String
    let isaPresent: [String]
    let algorithm: String
    let algorithmReason: String
    let algorithmsPresent: [String]
    let matrixUnit: String
    let precision: String
    let threads: Int
    let threadsReason: String
  }

  func run() throws {
    let context = try options.context()
    let isFromEnvironment = AttentionContext.default.instructionSet != nil
    let choice = ThreadChoice()
    let facts = Facts(
      version: Attend.configuration.version,
      openblasVersion: OpenBLAS.version,
      openblasConfiguration: OpenBLAS.configuration,
      openblasCoreAsFound: OpenBLAS.coreAsFound,
      openblasCore: OpenBLAS.core,
      openblasCoreReason: OpenBLAS.coreDecision,
      openblasThreading: OpenBLAS.threading.rawValue,
      openblasThreads: OpenBLAS.keepsThreads
        ? "left alone (ATTENTION_OPENBLAS_KEEP_THREADS): \(OpenBLAS.threadCount)"
        : OpenBLAS.threading == .serial
          ? "1; calls wait for one another, for a serial build is not safe from several threads"
          : "1 per call; calls run side by side",
      isa: try context.resolvedInstructionSet().rawValue,
      isaReason: options.isa != nil ? "--isa" : isFromEnvironment ? "ATTENTION_ISA" : "the best present",
      isaPresent: InstructionSet.present.map(\.rawValue),
      algorithm: context.resolvedAlgorithm.rawValue,
      algorithmReason: options.algorithm != nil
        ? "--algorithm"
        : AttentionContext.default.algorithm != nil ? "ATTENTION_ALGORITHM" : "the faster one with these kernels",
      algorithmsPresent: AttentionAlgorithm.allCases.map(\.rawValue),
      matrixUnit: Self.matrixUnit(of: try context.resolvedInstructionSet()),
      precision: context.precision.rawValue,
      threads: context.threadCount,
      threadsReason: options.threads != nil ? "--threads" : choice.source)
    if json { return try printJSON(facts) }
    let lines = [
      ("attend", facts.version),
      ("OpenBLAS", facts.openblasConfiguration),
      ("  core as found", facts.openblasCoreAsFound),
      ("  core as used", "\(facts.openblasCore) (\(facts.openblasCoreReason))"),
      ("  threads", "\(facts.openblasThreads) (built: \(facts.openblasThreading))"),
      ("instruction set", "\(facts.isa) (\(facts.isaReason); present: \(facts.isaPresent.joined(separator: ", ")))"),
      (
        "algorithm",
        "\(facts.algorithm) (\(facts.algorithmReason); present: \(facts.algorithmsPresent.joined(separator: ", ")))"
      ),
      ("  matrix unit", facts.matrixUnit),
      ("precision", facts.precision),
      ("threads", "\(facts.threads) (\(facts.threadsReason))"),
    ]
    for (name, value) in lines { print("\(name.padded(to: 17))\(value)") }
  }

  /// What computes the products of the algorithm `matrix`.
  private static func matrixUnit(of set: InstructionSet) -> String {
    switch set {
    case .amx: "AMX"
    case .avx512BF16: "none; AVX512-BF16 instead (AMX is not present, or Linux does not let this process use it)"
    default: "none; vectors with the results of AMX instead, which is slow"
    }
  }
}
