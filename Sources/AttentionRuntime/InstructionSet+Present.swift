internal import CAttentionKernels

extension InstructionSet {
  var isa: attn_isa {
    switch self {
    case .portable: attn_isa_portable
    case .neon: attn_isa_neon
    case .avx2: attn_isa_avx2
    case .avx512: attn_isa_avx512
    case .avx512BF16: attn_isa_avx512_bf16
    case .amx: attn_isa_amx
    }
  }

  /// The position of this instruction set among all of them, from 0 on.
  package var ordinal: Int { Int(isa.rawValue) }

  /// The instruction sets that this machine can run, worst first. Never empty.
  public static let present: [InstructionSet] = allCases.filter { attn_isa_is_present($0.isa) }
}

extension AttentionContext {
  /// The instruction set that calls with this context use.
  /// - Throws: `AttentionError` if this machine does not have the instruction set that is set, or if an environment
  ///   variable was invalid.
  public func resolvedInstructionSet() throws(AttentionError) -> InstructionSet {
    if let environmentError { throw environmentError }
    let present = InstructionSet.present
    guard let wanted = instructionSet else { return present[present.count - 1] }
    if present.contains(wanted) { return wanted }
    let names = present.map(\.rawValue).joined(separator: ", ")
    throw AttentionError(
      .unsupported, "instruction set", "this machine has no \(wanted.rawValue); it has \(names)")
  }

  /// The algorithm that calls with this context use: ``algorithm`` if it is set, else `packed` or `openBLAS`, whichever
  /// is faster with the instruction set. Calls that `matrix` does not serve use `packed` instead of it.
  public var resolvedAlgorithm: AttentionAlgorithm {
    // This property cannot throw if the instruction set is not present. The call throws when it looks up its kernels.
    algorithm ?? (usesOpenBLAS(with: instructionSet ?? InstructionSet.present.last!) ? .openBLAS : .packed)
  }

  /// True if OpenBLAS computes the products of a call whose kernels are those of `instructionSet`.
  package func usesOpenBLAS(with instructionSet: InstructionSet) -> Bool {
    (algorithm ?? (instructionSet == .portable ? .openBLAS : .packed)) == .openBLAS
  }
}
