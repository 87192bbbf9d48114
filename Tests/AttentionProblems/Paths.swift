import Attention
public import AttentionTensors

extension AttentionContext {
  /// One context for each path that a call can take on this machine: the packed algorithm with the kernels of each
  /// instruction set, OpenBLAS, and products of BFloat16 parts with each instruction set.
  public static let everyPath =
    InstructionSet.presentVectors.map { AttentionContext(instructionSet: $0, algorithm: .packed) }
    + [AttentionContext(algorithm: .openBLAS)]
    + InstructionSet.present.map { AttentionContext(instructionSet: $0, algorithm: .matrix) }

  public var path: String { "\(resolvedAlgorithm.rawValue) \(instructionSet?.rawValue ?? "")" }
}

extension InstructionSet {
  /// The instruction sets of this machine, apart from those that differ from another one only in their matrix unit.
  public static let presentVectors = present.filter { $0 != .avx512BF16 && $0 != .amx }
}
