extension AttentionContext {
  /// The kernels that calls with this context use.
  /// - Throws: `AttentionError` if this machine does not have the instruction set that the context requires, or if an
  ///   environment variable was invalid.
  package func kernels<Element: RealTensorElement>(for _: Element.Type) throws(AttentionError) -> Kernels<Element> {
    let instructionSet = try resolvedInstructionSet()
    guard let kernels = Kernels<Element>(instructionSet) else {
      preconditionFailure("\(instructionSet) is present but has no kernels")
    }
    return kernels
  }
}
