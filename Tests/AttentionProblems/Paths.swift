import Attention
public import AttentionTensors

extension AttentionContext {
  /// One context for each way that a call can take here: every algorithm, and the kernels of every instruction set.
  public static let everyPath =
    InstructionSet.present.map { AttentionContext(instructionSet: $0, algorithm: .packed) }
    + [AttentionContext(algorithm: .openBLAS)]

  public var path: String { "\(resolvedAlgorithm.rawValue) \(instructionSet?.rawValue ?? "")" }
}
