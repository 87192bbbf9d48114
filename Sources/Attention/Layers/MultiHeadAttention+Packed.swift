public import AttentionTensors

extension MultiHeadAttention {
  /// Self-attention within sequences that lie one after another, without padding between them.
  ///
  /// Each projection is one product over all tokens. Neighbouring sequences of the same length share one call of
  /// attention, so sequences that are sorted by length need the fewest calls. No time is spent on padding.
  ///
  ///     let y = try layer.forward(packed: x, lengths: [3, 5, 5])   // x and y [13, d]
  ///
  /// - Parameters:
  ///   - x: `[T, d]`: the tokens of the first sequence, then those of the next.
  ///   - lengths: The number of tokens of each sequence; their sum is T.
  ///   - isCausal: Whether a token attends only to itself and to earlier tokens of its sequence.
  ///   - context: Threads, instruction set, algorithm.
  /// - Returns: `[T, d]`. Each sequence has the same bits as if it were the only one in the call. With OpenBLAS's
  ///   products, the last bits may differ.
  /// - Throws: `AttentionError` if the lengths do not sum to T, if the layer's inputs differ in dimension, or if the layer
  ///   adds keys of its own.
  public func forward(
    packed x: Tensor<Element>, lengths: [Int], isCausal: Bool = false, context: AttentionContext = .default
  ) throws -> Tensor<Element> {
    try requireShape(
      x.rank == 2 && x.shape[1] == configuration.embeddingDimension && x.shape[0] < Int(Int32.max),
      "MultiHeadAttention",
      "tokens [T, \(configuration.embeddingDimension)] expected; got \(x.shape)")
    let isWhole = lengths.allSatisfy { $0 >= 0 } && sumsTo(x.shape[0], lengths)
    try requireShape(
      isWhole, "MultiHeadAttention",
      "lengths from 0 that sum to the \(x.shape[0]) tokens expected; got \(lengths.count) of them")
    guard stackedProjection != nil, configuration.addedKeyCount == 0 else {
      throw AttentionError(
        .unsupported, "MultiHeadAttention",
        "a layer with inputs of one dimension and without keys of its own expected for packed sequences")
    }
    let tokens = try x.reshaped([1] + x.shape)
    var inputs = try project(tokens, tokens, tokens, context)
    let mask = windowed(isCausal ? .causal : .none)
    var attended = try Tensor<Element>(uninitializedShape: [x.shape[0], configuration.projectedQueryDimension])
    for group in groups(lengths) {
      if configuration.rotary != nil || configuration.normEpsilon != nil {
        let table: RotaryTable<Element>? = try configuration.rotary?.table(
          .startingAt(0), count: group.length, length: group.length)
        for (columns, norm) in [(inputs.query, queryNorm), (inputs.key, keyNorm)] {
          try inputs.products[columns.product].withMutableView { view in
            var own = view.sequences(group, rowStride: view.strides[1])
            try place(&own, columns.range, norm, table, context)
          }
        }
      }
      func heads(_ columns: ProjectedInputs<Element>.Columns) throws -> Tensor<Element> {
        let all = try self.heads(inputs, columns)
        return try all.select(0, axis: 0).slice(group.rows, axis: 0).reshaped(
          [group.count, group.length] + all.shape.suffix(2))
      }
      let (query, key, value) = (try heads(inputs.query), try heads(inputs.key), try heads(inputs.value))
      try attended.withMutableView { view in
        let own = view.sequences(group, rowStride: view.strides[0])
        var output = MutableTensorView(
          base: own.base, shape: query.shape,
          strides: [own.strides[0], own.strides[1], configuration.headDimension * own.strides[2], own.strides[2]])
        try scaledDotProductAttention(
          query: query, key: key, value: value, mask: mask, options: options, into: &output, context: context)
      }
    }
    return try outputProjection(attended, context: context)
  }

  private func sumsTo(_ total: Int, _ lengths: [Int]) -> Bool {
    var rest = total
    for length in lengths {
      if length > rest { return false }
      rest -= length
    }
    return rest == 0
  }

  /// Consecutive sequences of the same length.
  fileprivate struct SequenceGroup {
    let rows: Range<Int>
    let count: Int
    let length: Int
  }

  private func groups(_ lengths: [Int]) -> [SequenceGroup] {
    var groups: [SequenceGroup] = []
    var row = 0
    var index = 0
    while index < lengths.count {
      let length = lengths[index]
      let count = lengths[index...].prefix { $0 == length }.count
      if length > 0 { groups.append(SequenceGroup(rows: row..<row + count * length, count: count, length: length)) }
      row += count * length
      index += count
    }
    return groups
  }
}

extension MutableTensorView where Element: AttentionElement {
  /// Some of the rows of `[…, T, columns]` as `[sequences, length, columns]`.
  fileprivate func sequences(
    _ group: MultiHeadAttention<Element>.SequenceGroup, rowStride: Int
  ) -> MutableTensorView {
    MutableTensorView(
      base: base + group.rows.lowerBound * rowStride, shape: [group.count, group.length, shape[shape.count - 1]],
      strides: [group.length * rowStride, rowStride, strides[strides.count - 1]])
  }
}
