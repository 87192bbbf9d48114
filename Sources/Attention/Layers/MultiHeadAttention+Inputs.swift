internal import AttentionTensors

/// The projected queries, keys and values of one call. They are columns of as few products as the inputs allow.
struct ProjectedInputs<Element: AttentionElement> {
  /// Some columns of a product.
  struct Columns {
    let product: Int
    let range: Range<Int>
  }

  /// The products, each `[B, L or S, columns]`: one for query, key and value together, or one for the query and one for
  /// key and value together, or one for each of the three.
  var products: [Tensor<Element>]
  /// The queries, `[B, L, H·E]`.
  let query: Columns
  /// The keys, `[B, S, Hk·E]`. S includes the keys that the layer adds.
  let key: Columns
  /// The values, `[B, S, Hk·E]`.
  let value: Columns
}

extension MultiHeadAttention {
  /// Projects the inputs `[B, L, d]`, `[B, S, kdim]` and `[B, S, vdim]`, and appends the keys and values that the layer
  /// adds.
  func project(
    _ query: Tensor<Element>, _ key: Tensor<Element>, _ value: Tensor<Element>, _ context: AttentionContext
  ) throws -> ProjectedInputs<Element> {
    let added = configuration.addedKeyCount
    func product(_ x: Tensor<Element>, _ projection: Linear<Element>, added: Int = 0) throws -> Tensor<Element> {
      var result = try Tensor<Element>(
        uninitializedShape: [x.shape[0], x.shape[1] + added, projection.outputDimension])
      try result.withMutableView { view in
        try view.withSlice(0..<x.shape[1], axis: 1) { try projection.apply(to: x, into: &$0, context: context) }
      }
      return result
    }
    let (queries, keysAndValues) = (configuration.projectedQueryDimension, configuration.projectedKeyValueDimension)
    func columns(_ product: Int, from first: Int, _ count: Int) -> ProjectedInputs<Element>.Columns {
      .init(product: product, range: first..<first + count)
    }
    if let stackedProjection, added == 0, query.isSameView(as: key), key.isSameView(as: value) {
      return ProjectedInputs(
        products: [try product(query, stackedProjection)], query: columns(0, from: 0, queries),
        key: columns(0, from: queries, keysAndValues), value: columns(0, from: queries + keysAndValues, keysAndValues))
    }
    var inputs: ProjectedInputs<Element>
    if let keyValueProjection, key.isSameView(as: value) {
      inputs = ProjectedInputs(
        products: [try product(query, queryProjection), try product(key, keyValueProjection, added: added)],
        query: columns(0, from: 0, queries), key: columns(1, from: 0, keysAndValues),
        value: columns(1, from: keysAndValues, keysAndValues))
    } else {
      inputs = ProjectedInputs(
        products: [
          try product(query, queryProjection), try product(key, keyProjection, added: added),
          try product(value, valueProjection, added: added),
        ],
        query: columns(0, from: 0, queries), key: columns(1, from: 0, keysAndValues),
        value: columns(2, from: 0, keysAndValues))
    }
    try appendKeys(&inputs.products[inputs.key.product], inputs.key.range, biasKey)
    try appendKeys(&inputs.products[inputs.value.product], inputs.value.range, biasValue)
    return inputs
  }

  /// Writes the rows that the layer adds after the projected keys or values: first the bias, then zeros.
  private func appendKeys(_ projected: inout Tensor<Element>, _ columns: Range<Int>, _ bias: Tensor<Element>?) throws {
    if configuration.addedKeyCount == 0 { return }
    let end = projected.shape[1]
    let zeros = configuration.addsZeroAttention ? 1 : 0
    try projected.withMutableView { view in
      try view.withSlice(columns, axis: 2) { own in
        if let bias { try own.withSlice(end - zeros - 1..<end - zeros, axis: 1) { try $0.copy(from: bias) } }
        try own.withSlice(end - zeros..<end, axis: 1) { $0.fill(0) }
      }
    }
  }

  /// Normalises queries and keys and turns them by their positions, in place. Keys that the layer adds are neither
  /// normalised nor turned.
  func place(
    _ inputs: inout ProjectedInputs<Element>, query queryTable: RotaryTable<Element>?,
    key keyTable: RotaryTable<Element>?, _ context: AttentionContext
  ) throws {
    if configuration.normEpsilon == nil && configuration.rotary == nil { return }
    for (columns, norm, table, added) in [
      (inputs.query, queryNorm, queryTable, 0), (inputs.key, keyNorm, keyTable, configuration.addedKeyCount),
    ] {
      let tokenCount = inputs.products[columns.product].shape[1] - added
      try inputs.products[columns.product].withMutableView { view in
        try view.withSlice(0..<tokenCount, axis: 1) { try place(&$0, columns.range, norm, table, context) }
      }
    }
  }

  /// Normalises and turns the heads in some columns of `[B, L, columns]`, in place.
  func place(
    _ tokens: inout MutableTensorView<Element>, _ columns: Range<Int>, _ norm: RMSNorm<Element>?,
    _ table: RotaryTable<Element>?, _ context: AttentionContext
  ) throws {
    let dimension = configuration.headDimension
    var heads = MutableTensorView(
      base: tokens.base + columns.lowerBound * tokens.strides[2],
      shape: [tokens.shape[0], tokens.shape[1], columns.count / dimension, dimension],
      strides: [tokens.strides[0], tokens.strides[1], dimension * tokens.strides[2], tokens.strides[2]])
    if let norm { try normalize(&heads, norm, context) }
    try table?.rotate(&heads, layout: .lengthFirst, context: context)
  }

  /// Normalises every row of `[B, L, heads, E]`, in place. The elements of a row are contiguous.
  private func normalize(
    _ x: inout MutableTensorView<Element>, _ norm: RMSNorm<Element>, _ context: AttentionContext
  ) throws {
    let (shape, strides) = (x.shape, x.strides)
    let kernels = try context.kernels(for: Element.self)
    let base = UncheckedSendable(x.base)
    // An estimate that sets the size of tasks: one thread takes 0.35 ns for each element.
    context.parallelFor(
      count: shape[0] * shape[1], nanosecondsPerItem: 0.35 * Double(shape[2] * shape[3])
    ) { tokens, _ in
      for token in tokens {
        let (batch, place) = token.quotientAndRemainder(dividingBy: shape[1])
        let rows = base.value + (batch * strides[0] + place * strides[1])
        norm.rows.apply(
          rowCount: shape[2], rows, stride: strides[2], residual: nil, residualStride: 0, into: rows,
          stride: strides[2],
          kernels)
      }
    }
  }

  /// Some of the projected columns as `[B, L, heads, E]`: a view.
  func heads(
    _ inputs: ProjectedInputs<Element>, _ columns: ProjectedInputs<Element>.Columns
  ) throws -> Tensor<Element> {
    let tokens = try inputs.products[columns.product].slice(columns.range, axis: 2)
    return try tokens.reshaped([
      tokens.shape[0], tokens.shape[1], columns.range.count / configuration.headDimension, configuration.headDimension,
    ])
  }
}
