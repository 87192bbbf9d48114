internal import AttentionBLAS
public import AttentionTensors

extension MultiHeadAttention {
  /// Self-attention within sequences that lie one after another, without padding between them.
  ///
  /// The projections are products of all tokens; attention is computed for every run of sequences of one length at once.
  /// So sequences that are sorted by length take the fewest calls, and no time is spent on padding.
  ///
  ///     let y = try layer.forward(packed: x, lengths: [3, 5, 5])   // x and y [13, d]
  ///
  /// - Parameters:
  ///   - x: `[T, d]`: the tokens of the first sequence, then those of the next.
  ///   - lengths: How many tokens each sequence has; T together.
  ///   - isCausal: Whether a token attends only to itself and those before it in its sequence.
  ///   - context: Threads, instruction set, algorithm.
  /// - Returns: `[T, d]`; each sequence has the bits that it has alone (with OpenBLAS's products, nearly).
  /// - Throws: `AttentionError` where the lengths do not sum to T, and for layers whose inputs differ in width or that add
  ///   keys of their own.
  public func forward(
    packed x: Tensor<Element>, lengths: [Int], isCausal: Bool = false, context: AttentionContext = .default
  ) throws -> Tensor<Element> {
    try requireShape(
      x.rank == 2 && x.shape[1] == configuration.embeddingWidth && x.shape[0] < Int(Int32.max), "MultiHeadAttention",
      "tokens [T, \(configuration.embeddingWidth)] expected; got \(x.shape)")
    let isWhole = lengths.allSatisfy { $0 >= 0 } && sumsTo(x.shape[0], lengths)
    try requireShape(
      isWhole, "MultiHeadAttention",
      "lengths from 0 that sum to the \(x.shape[0]) tokens expected; got \(lengths.count) of them")
    guard let stackedProjection, configuration.addedKeyCount == 0 else {
      throw AttentionError(
        .unsupported, "MultiHeadAttention",
        "a layer with inputs of one width and without keys of its own expected for packed sequences")
    }
    let (queryWidth, keyValueWidth) = (configuration.queryWidth, configuration.keyValueWidth)
    let keys = queryWidth..<queryWidth + keyValueWidth
    let values = keys.upperBound..<keys.upperBound + keyValueWidth
    var projected = try Tensor<Element>(uninitializedShape: [x.shape[0], stackedProjection.outputWidth])
    try projected.withMutableView { try stackedProjection.apply(to: x, into: &$0, context: context) }
    var mask = isCausal ? AttentionMask.causal : .none
    if let window = configuration.window { mask = mask.intersection(.window(left: window - 1, right: nil)) }

    var attended = try Tensor<Element>(uninitializedShape: [x.shape[0], queryWidth])
    for run in runs(lengths) {
      if configuration.rotary != nil || configuration.normEpsilon != nil {
        let table: RotaryTable<Element>? = try configuration.rotary?.table(
          .startingAt(0), count: run.length, length: run.length)
        try projected.withMutableView { view in
          var part = view.sequences(run)
          try place(&part, 0..<queryWidth, run.length, queryNorm, table, context)
          try place(&part, keys, run.length, keyNorm, table, context)
        }
      }
      func heads(_ columns: Range<Int>) throws -> Tensor<Element> {
        try projected.slice(run.rows, axis: 0).slice(columns, axis: 1).reshaped([
          run.count, run.length, columns.count / configuration.headWidth, configuration.headWidth,
        ])
      }
      let (query, key, value) = (try heads(0..<queryWidth), try heads(keys), try heads(values))
      try attended.withMutableView { view in
        var part = view.sequences(run)
        part = MutableTensorView(
          base: part.base, shape: query.shape,
          strides: [part.strides[0], part.strides[1], configuration.headWidth * part.strides[2], part.strides[2]])
        try scaledDotProductAttention(
          query: query, key: key, value: value, mask: mask, scale: configuration.scale, softcap: configuration.softcap,
          sinks: sinks, layout: .lengthFirst, into: &part, context: context)
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

  /// Sequences of one length that lie one after another.
  fileprivate struct Run {
    let rows: Range<Int>
    let count: Int
    let length: Int
  }

  private func runs(_ lengths: [Int]) -> [Run] {
    var runs: [Run] = []
    var row = 0
    var index = 0
    while index < lengths.count {
      let length = lengths[index]
      let count = lengths[index...].prefix { $0 == length }.count
      if length > 0 { runs.append(Run(rows: row..<row + count * length, count: count, length: length)) }
      row += count * length
      index += count
    }
    return runs
  }
}

extension MutableTensorView where Element: AttentionElement {
  /// Some rows of `[T, columns]` as `[sequences, length, columns]`.
  fileprivate func sequences(_ run: MultiHeadAttention<Element>.Run) -> MutableTensorView {
    MutableTensorView(
      base: base + run.rows.lowerBound * strides[0], shape: [run.count, run.length, shape[1]],
      strides: [run.length * strides[0], strides[0], strides[1]])
  }
}
