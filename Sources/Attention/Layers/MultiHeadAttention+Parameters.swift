public import AttentionTensors

extension MultiHeadAttention: TrainableLayer {
  /// Calls `body` with every parameter under PyTorch's name: `in_proj_weight` (or `q_proj_weight`, `k_proj_weight` and
  /// `v_proj_weight` if the inputs differ in dimension), `in_proj_bias`, `out_proj.weight`, `out_proj.bias`, `bias_k` and
  /// `bias_v`; then with `query_norm.weight`, `key_norm.weight` and `sinks`, which PyTorch's layer does not have.
  public mutating func forEachParameter(
    prefix: String, _ body: (_ name: String, _ value: inout Tensor<Element>) throws -> Void
  ) throws {
    if stackedProjection == nil {
      try forEachProjection(prefix, body)
    } else {
      try forStackedProjection(prefix, body)
    }
    try outputProjection.forEachParameter(prefix: prefix + "out_proj.", body)
    try Self.forAddedRow(prefix + "bias_k", &biasKey, body)
    try Self.forAddedRow(prefix + "bias_v", &biasValue, body)
    try queryNorm?.forEachParameter(prefix: prefix + "query_norm.", body)
    try keyNorm?.forEachParameter(prefix: prefix + "key_norm.", body)
    try visit(prefix + "sinks", &sinks, body)
  }

  private mutating func forStackedProjection(
    _ prefix: String, _ body: (String, inout Tensor<Element>) throws -> Void
  ) throws {
    // The views of the stacked projection are removed first, so that `body` changes its tensors in place. A tensor that
    // shares its memory with a view is copied before it is changed.
    let nothing = try Linear<Element>(weight: Tensor(uninitializedShape: [0, 0]))
    (queryProjection, keyProjection, valueProjection, keyValueProjection) = (nothing, nothing, nothing, nothing)
    let result = Result {
      try visit(prefix + "in_proj_weight", &stackedProjection!.weight, body)
      try visit(prefix + "in_proj_bias", &stackedProjection!.bias, body)
    }
    stackedProjection!.forgetPacking()
    let views = try Views(of: stackedProjection!, configuration)
    keyValueProjection = views.keyValue
    queryProjection = views.query
    keyProjection = views.key
    valueProjection = views.value
    try result.get()
  }

  /// Calls `body` with the projections of a layer whose inputs differ in dimension: a weight for each input, and one
  /// bias for all three.
  private mutating func forEachProjection(
    _ prefix: String, _ body: (String, inout Tensor<Element>) throws -> Void
  ) throws {
    defer {
      queryProjection.forgetPacking()
      keyProjection.forgetPacking()
      valueProjection.forgetPacking()
    }
    try visit(prefix + "q_proj_weight", &queryProjection.weight, body)
    try visit(prefix + "k_proj_weight", &keyProjection.weight, body)
    try visit(prefix + "v_proj_weight", &valueProjection.weight, body)
    let biases = [queryProjection.bias, keyProjection.bias, valueProjection.bias].compactMap(\.self)
    guard biases.count == 3 else { return }
    var bias = try Tensor(biases.flatMap(\.array), shape: [biases.map(\.count).reduce(0, +)])
    try visit(prefix + "in_proj_bias", &bias, body)
    let rows = configuration.stackedRows
    queryProjection.bias = try bias.slice(rows.query, axis: 0)
    keyProjection.bias = try bias.slice(rows.key, axis: 0)
    valueProjection.bias = try bias.slice(rows.value, axis: 0)
  }

  /// Calls `body` with a key or value that the layer adds, in the shape of PyTorch's `bias_k` and `bias_v`:
  /// `[1, 1, Hk·E]`.
  private static func forAddedRow(
    _ name: String, _ row: inout Tensor<Element>?, _ body: (String, inout Tensor<Element>) throws -> Void
  ) throws {
    guard let shape = row?.shape else { return }
    var value = try row!.reshaped([1, 1] + shape)
    row = nil
    let result = Result { try visit(name, &value, body) }
    row = try value.reshaped(shape)
    try result.get()
  }
}
