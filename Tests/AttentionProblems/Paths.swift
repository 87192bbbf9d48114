import Attention
public import AttentionTensors

extension AttentionContext {
  /// One context for each path that a call can take on this machine: the packed algorithm with the kernels of each
  /// instruction set, and OpenBLAS.
  public static let everyPath =
    InstructionSet.present.map { AttentionContext(instructionSet: $0, algorithm: .packed) }
    + [AttentionContext(algorithm: .openBLAS)]

  public var path: String { "\(resolvedAlgorithm.rawValue) \(instructionSet?.rawValue ?? "")" }
}
