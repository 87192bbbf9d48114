public import Attention

extension ParameterGradients {
  /// Scales all gradients down if their norm is greater than `maximum`. The same as PyTorch's `clip_grad_norm_` with
  /// `error_if_nonfinite=True`.
  ///
  ///     g ← g · min(1, maximum / (norm + 1e-6)),  norm = √Σ g² over all gradients
  ///
  /// - Parameters:
  ///   - maximum: The greatest norm.
  ///   - context: Threads, instruction set.
  /// - Returns: The norm of the gradients before they were scaled.
  /// - Throws: `AttentionError` if `maximum` is not above 0, or with the code `.notFinite` if the norm is not finite;
  ///   then no gradient has changed.
  @discardableResult
  public mutating func clip(toNorm maximum: Double, context: AttentionContext = .default) throws -> Double {
    try requireArgument(maximum > 0, "ParameterGradients.clip", "a norm above 0 expected; got \(maximum)")
    let norm = try norm()
    guard norm.isFinite else {
      let name = try names.first { name in
        try self[name]!.withUnsafeBufferPointer { $0.contains { !$0.isFinite } }
      }
      throw AttentionError(
        .notFinite, "ParameterGradients.clip",
        "finite gradients expected; \(name.map { "that of \($0) is not" } ?? "their norm overflows")")
    }
    let factor = maximum / (norm + 1e-6)
    if factor < 1 { try scale(by: Element(_nearest: factor), context: context) }
    return norm
  }
}
