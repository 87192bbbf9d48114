public import AttentionTensors

// MARK: - PyTorch's nn.MultiheadAttention

extension AttentionMask {
  /// `key_padding_mask` of PyTorch's `nn.MultiheadAttention`, in which true means *ignore*.
  /// - Parameter mask: `[B, S]`, or `[S]` without a batch.
  /// - Returns: The mask.
  /// - Throws: `AttentionError` for other shapes.
  public static func pyTorchKeyPadding(_ mask: Tensor<Bool>) throws -> AttentionMask {
    .attending(try inverted(try keyPadding(mask)))
  }

  /// A floating-point `key_padding_mask` of PyTorch's `nn.MultiheadAttention`, which is added to the scores.
  /// - Parameter mask: `[B, S]`, or `[S]` without a batch.
  /// - Returns: The mask.
  /// - Throws: `AttentionError` for other shapes.
  public static func pyTorchKeyPadding<Element: AttentionStorage>(_ mask: Tensor<Element>) throws -> AttentionMask {
    .bias(try keyPadding(mask))
  }

  /// `attn_mask` of PyTorch's `nn.MultiheadAttention`, in which true means *ignore*.
  /// - Parameters:
  ///   - mask: `[L, S]` or `[B·H, L, S]`, batch-major.
  ///   - headCount: H.
  /// - Returns: The mask.
  /// - Throws: `AttentionError` for other shapes.
  public static func pyTorchAttention(_ mask: Tensor<Bool>, headCount: Int) throws -> AttentionMask {
    .attending(try inverted(try splitBatch(mask, headCount: headCount)))
  }

  /// A floating-point `attn_mask` of PyTorch's `nn.MultiheadAttention`, which is added to the scores.
  /// - Parameters:
  ///   - mask: `[L, S]` or `[B·H, L, S]`, batch-major.
  ///   - headCount: H.
  /// - Returns: The mask.
  /// - Throws: `AttentionError` for other shapes.
  public static func pyTorchAttention<Element: AttentionStorage>(
    _ mask: Tensor<Element>, headCount: Int
  ) throws -> AttentionMask {
    .bias(try splitBatch(mask, headCount: headCount))
  }

  private static func keyPadding<Element>(_ mask: Tensor<Element>) throws -> Tensor<Element> {
    try requireShape(
      mask.rank == 1 || mask.rank == 2, "key padding mask", "[B, S] or [S] expected; got \(mask.shape)")
    return try mask.reshaped([mask.rank == 2 ? mask.shape[0] : 1, 1, 1, mask.shape[mask.rank - 1]])
  }

  private static func splitBatch<Element>(_ mask: Tensor<Element>, headCount: Int) throws -> Tensor<Element> {
    if mask.rank == 2 { return mask }
    try requireShape(
      mask.rank == 3 && headCount > 0 && mask.shape[0] % headCount == 0, "attention mask",
      "[L, S] or [B·H, L, S] with H = \(headCount) expected; got \(mask.shape)")
    return try mask.reshaped([mask.shape[0] / headCount, headCount, mask.shape[1], mask.shape[2]])
  }

  private static func inverted(_ mask: Tensor<Bool>) throws -> Tensor<Bool> {
    try Tensor(shape: mask.shape) { target in
      try mask.withUnsafeBufferPointer { source in
        for i in source.indices { target[i] = !source[i] }
      }
    }
  }
}
