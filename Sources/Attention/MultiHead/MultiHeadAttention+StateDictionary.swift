public import AttentionTensors

extension MultiHeadAttention {
  /// The names under which a layer's tensors are stored.
  public enum Naming: Sendable, Hashable {
    /// `in_proj_weight` (or `q_proj_weight` …), `in_proj_bias`, `out_proj.weight` …: PyTorch's.
    case pyTorch
    /// `query_projection.weight`, `query_projection.bias` …
    case perProjection
  }

  /// A layer from stored tensors, under either naming; widths and options follow from the shapes.
  ///
  /// - Parameters:
  ///   - tensors: The state dictionary. Names that are not this layer's are ignored.
  ///   - prefix: What stands before each name, for instance `"encoder.layer.0.attention."`.
  ///   - headCount: H.
  ///   - addsZeroAttention: PyTorch's `add_zero_attn`, of which no tensor tells.
  /// - Throws: `AttentionError` where a tensor is missing or shapes disagree.
  public init(
    stateDictionary tensors: [String: Tensor<Element>], prefix: String = "", headCount: Int,
    addsZeroAttention: Bool = false
  ) throws {
    func find(_ name: String) -> Tensor<Element>? { tensors[prefix + name] }
    func get(_ name: String) throws(AttentionError) -> Tensor<Element> {
      if let tensor = find(name) { return tensor }
      let names = tensors.keys.sorted().prefix(20).joined(separator: ", ")
      throw AttentionError(.notFound, "MultiHeadAttention", "no tensor \"\(prefix + name)\"; there are \(names)")
    }
    let isPerProjection = find("query_projection.weight") != nil
    let output = Projection(
      weight: try get(isPerProjection ? "output_projection.weight" : "out_proj.weight"),
      bias: find(isPerProjection ? "output_projection.bias" : "out_proj.bias"))
    try requireShape(
      output.weight.rank == 2 && output.weight.shape[0] == output.weight.shape[1] && headCount > 0
        && (1...Int(Int32.max)).contains(output.weight.shape[0]) && output.weight.shape[0] % headCount == 0,
      "MultiHeadAttention",
      "a square output projection that divides by \(headCount) heads expected; got \(output.weight.shape)")
    let width = output.weight.shape[0]

    var stacked: Projection?
    let query: Projection
    let key: Projection
    let value: Projection
    if isPerProjection {
      func projection(_ name: String) throws -> Projection {
        Projection(weight: try get(name + "_projection.weight"), bias: find(name + "_projection.bias"))
      }
      (query, key, value) = (try projection("query"), try projection("key"), try projection("value"))
    } else {
      let bias = find("in_proj_bias")
      let weight = find("in_proj_weight")
      let keyRows = try weight ?? get("k_proj_weight")
      try requireShape(
        keyRows.rank == 2 && keyRows.shape[0] <= 2 * Int(Int32.max)
          && (weight == nil || keyRows.shape[0] > width && (keyRows.shape[0] - width) % 2 == 0),
        "MultiHeadAttention", "in_proj_weight of [3·\(width), \(width)] expected; got \(keyRows.shape)")
      let keyValueWidth = weight == nil ? keyRows.shape[0] : (keyRows.shape[0] - width) / 2
      let ranges = [
        0..<width, width..<width + keyValueWidth, width + keyValueWidth..<width + 2 * keyValueWidth,
      ]
      if let bias {
        try requireShape(
          bias.shape == [ranges[2].upperBound], "MultiHeadAttention",
          "in_proj_bias of [\(ranges[2].upperBound)] expected; got \(bias.shape)")
      }
      if let weight { stacked = Projection(weight: weight, bias: bias) }
      func projection(_ letter: String, _ range: Range<Int>) throws -> Projection {
        if let stacked { return try stacked.outputs(range) }
        return Projection(weight: try get("\(letter)_proj_weight"), bias: try bias?.slice(range, axis: 0))
      }
      query = try projection("q", ranges[0])
      key = try projection("k", ranges[1])
      value = try projection("v", ranges[2])
    }

    try requireShape(
      key.weight.rank == 2 && value.weight.rank == 2 && query.weight.rank == 2
        && key.weight.shape[0] > 0 && key.weight.shape[0] % (width / headCount) == 0, "MultiHeadAttention",
      "projections of rank 2 whose outputs divide by the head width \(width / headCount) expected; got query "
        + "\(query.weight.shape), key \(key.weight.shape), value \(value.weight.shape)")
    let configuration = Configuration(
      embeddingWidth: width, headCount: headCount, keyValueHeadCount: key.weight.shape[0] / (width / headCount),
      keyWidth: key.weight.shape[1], valueWidth: value.weight.shape[1], hasBias: query.bias != nil,
      addsBiasKeyValue: find("bias_k") != nil, addsZeroAttention: addsZeroAttention)
    try configuration.check()
    func check(_ name: String, _ tensor: Tensor<Element>?, _ shape: [Int]) throws(AttentionError) {
      guard let tensor else { return }
      try requireShape(tensor.shape == shape, "MultiHeadAttention", "\(name) of \(shape) expected; got \(tensor.shape)")
    }
    let keyValueWidth = configuration.keyValueWidth
    try check("query weight", query.weight, [width, width])
    try check("key weight", key.weight, [keyValueWidth, configuration.keyWidth])
    try check("value weight", value.weight, [keyValueWidth, configuration.valueWidth])
    try check("query bias", query.bias, [width])
    try check("key bias", key.bias, [keyValueWidth])
    try check("value bias", value.bias, [keyValueWidth])
    try check("output bias", output.bias, [width])
    try requireShape(
      (query.bias == nil) == (key.bias == nil) && (key.bias == nil) == (value.bias == nil), "MultiHeadAttention",
      "biases for all of query, key and value, or for none, expected")
    func appended(_ name: String) throws -> Tensor<Element>? {
      guard configuration.addsBiasKeyValue else { return nil }
      let tensor = try get(name)
      try requireShape(
        tensor.count == keyValueWidth, "MultiHeadAttention",
        "\(name) of [1, 1, \(keyValueWidth)] expected; got \(tensor.shape)")
      return try tensor.reshaped([keyValueWidth])
    }
    try self.init(
      configuration: configuration, stacked: stacked, query: query, key: key, value: value, output: output,
      biasKey: appended("bias_k"), biasValue: appended("bias_v"))
  }

  /// The layer's tensors by name, to be stored; ``init(stateDictionary:prefix:headCount:addsZeroAttention:)``
  /// reads them back.
  /// - Throws: `AttentionError` where memory is lacking.
  public func stateDictionary(naming: Naming = .pyTorch, prefix: String = "") throws -> [String: Tensor<Element>] {
    var tensors: [String: Tensor<Element>] = [:]
    let inputs = [("query", "q", queryProjection), ("key", "k", keyProjection), ("value", "v", valueProjection)]
    switch naming {
    case .perProjection:
      for (name, _, projection) in inputs {
        tensors["\(name)_projection.weight"] = projection.weight
        tensors["\(name)_projection.bias"] = projection.bias
      }
      tensors["output_projection.weight"] = outputProjection.weight
      tensors["output_projection.bias"] = outputProjection.bias
    case .pyTorch:
      if let stackedProjection {
        tensors["in_proj_weight"] = stackedProjection.weight
      } else {
        for (_, letter, projection) in inputs { tensors["\(letter)_proj_weight"] = projection.weight }
      }
      let biases = inputs.compactMap { $0.2.bias }
      if !biases.isEmpty {
        tensors["in_proj_bias"] = try Tensor(biases.flatMap(\.array), shape: [biases.map(\.count).reduce(0, +)])
      }
      tensors["out_proj.weight"] = outputProjection.weight
      tensors["out_proj.bias"] = outputProjection.bias
    }
    tensors["bias_k"] = try biasKey?.reshaped([1, 1, configuration.keyValueWidth])
    tensors["bias_v"] = try biasValue?.reshaped([1, 1, configuration.keyValueWidth])
    return Dictionary(uniqueKeysWithValues: tensors.map { (prefix + $0, $1) })
  }
}
