internal import AttentionBLAS
public import AttentionTensors

extension MultiHeadAttention {
  /// The names under which a layer's tensors are stored.
  public enum Naming: Sendable, Hashable {
    /// `in_proj_weight` (or `q_proj_weight` …), `in_proj_bias`, `out_proj.weight` …: PyTorch's.
    case pyTorch
    /// `query_projection.weight`, `query_projection.bias` …: this library's own names, one weight for each projection.
    case perProjection
    /// `q_proj.weight`, `o_proj.weight`, `q_norm.weight` …: decoders of Hugging Face's transformers.
    case huggingFace
    /// `self.query.weight`, `output.dense.weight` …: BERT of Hugging Face's transformers.
    case bert
    /// `query/kernel` `[d, H, E]`, `attention_output/kernel` `[H, E, d]` …: Keras's MultiHeadAttention and
    /// GroupedQueryAttention.
    case keras

    enum Role: String { case query, key, value, output }

    /// The naming of the given tensors; PyTorch's if no other is recognised.
    init(_ tensors: [String: Tensor<Element>], prefix: String) {
      let others: [Naming] = [.perProjection, .huggingFace, .bert, .keras]
      self = others.first { tensors[prefix + $0.weight(.query)] != nil } ?? .pyTorch
    }

    func weight(_ role: Role) -> String { name(role, self == .keras ? "/kernel" : ".weight") }
    func bias(_ role: Role) -> String { name(role, self == .keras ? "/bias" : ".bias") }

    private func name(_ role: Role, _ end: String) -> String {
      switch self {
      case .pyTorch: (role == .output ? "out_proj" : "in_proj_\(role.rawValue)") + end
      case .perProjection: "\(role.rawValue)_projection" + end
      case .huggingFace: "\(role.rawValue.prefix(1))_proj" + end
      case .bert: (role == .output ? "output.dense" : "self.\(role.rawValue)") + end
      case .keras: (role == .output ? "attention_output" : role.rawValue) + end
      }
    }

    func norm(_ letter: String) -> String {
      self == .huggingFace ? "\(letter)_norm.weight" : "\(letter == "q" ? "query" : "key")_norm.weight"
    }
  }

  /// A layer from stored tensors, under any ``Naming``.
  ///
  /// The dimensions and options are taken from the names and shapes of the tensors, as far as these determine them.
  ///
  ///     let layer = try MultiHeadAttention(stateDictionary: tensors, prefix: "model.layers.0.self_attn.", headCount: 9) {
  ///       $0.rotary = try RotaryEmbedding(dimension: 64, base: 100_000)
  ///     }
  ///
  /// - Parameters:
  ///   - tensors: The state dictionary. Names that are not this layer's are ignored.
  ///   - prefix: The text before each name, for instance `"encoder.layer.0.attention."`.
  ///   - headCount: H, the number of heads of the query.
  ///   - addsZeroAttention: PyTorch's `add_zero_attn`. The tensors do not show it.
  ///   - configure: Sets the options that the tensors do not show: rotary positions, window, softcap, scale, and the
  ///     norm's epsilon (1e-6 if it is not set).
  /// - Throws: `AttentionError` if a tensor is missing, if shapes disagree, or if `configure` changes an extent. Also
  ///   throws what `configure` throws.
  public init(
    stateDictionary tensors: [String: Tensor<Element>], prefix: String = "", headCount: Int,
    addsZeroAttention: Bool = false, configure: (inout Configuration) throws -> Void = { _ in }
  ) throws {
    let naming = Naming(tensors, prefix: prefix)
    func find(_ name: String) -> Tensor<Element>? { tensors[prefix + name] }
    func get(_ name: String) throws(AttentionError) -> Tensor<Element> {
      if let tensor = find(name) { return tensor }
      let names = tensors.keys.sorted().prefix(20).joined(separator: ", ")
      throw AttentionError(.notFound, "MultiHeadAttention", "no tensor \"\(prefix + name)\"; there are \(names)")
    }
    func projection(_ role: Naming.Role) throws -> Projection {
      let weight = try get(naming.weight(role))
      let bias = find(naming.bias(role))
      guard naming == .keras else { return Projection(weight: weight, bias: bias) }
      try requireShape(
        weight.rank == 3, "MultiHeadAttention",
        "\(prefix + naming.weight(role)) of rank 3 expected; got \(weight.shape)")
      try requireShape(
        role == .key || role == .value || weight.shape[role == .output ? 0 : 1] == headCount, "MultiHeadAttention",
        "\(prefix + naming.weight(role)) of \(headCount) heads expected; got \(weight.shape)")
      // Keras stores the transpose: [in, heads, E], or [H, E, out] for the output.
      if let bias {
        try requireShape(
          bias.shape == (role == .output ? [weight.shape[2]] : Array(weight.shape.suffix(2))), "MultiHeadAttention",
          "\(prefix + naming.bias(role)) that fits \(weight.shape) expected; got \(bias.shape)")
      }
      let rows = role == .output ? weight.shape[0] * weight.shape[1] : weight.shape[0]
      let matrix = try weight.reshaped([rows, weight.count / max(rows, 1)]).transposed().contiguous()
      return Projection(weight: matrix, bias: try bias.map { try $0.reshaped([$0.count]) })
    }
    let output = try projection(.output)
    try requireShape(
      output.weight.rank == 2 && headCount > 0 && output.weight.shape.allSatisfy { (1...Int(Int32.max)).contains($0) }
        && output.weight.shape[1] % headCount == 0, "MultiHeadAttention",
      "an output projection whose inputs divide by \(headCount) heads expected; got \(output.weight.shape)")
    let width = output.weight.shape[0]
    let projectedQueryDimension = output.weight.shape[1]
    let headDimension = projectedQueryDimension / headCount

    var stacked: Projection?
    let query: Projection
    let key: Projection
    let value: Projection
    if naming != .pyTorch {
      (query, key, value) = (try projection(.query), try projection(.key), try projection(.value))
    } else {
      let bias = find("in_proj_bias")
      let weight = find("in_proj_weight")
      let keyRows = try weight ?? get("k_proj_weight")
      try requireShape(
        keyRows.rank == 2 && keyRows.shape[0] <= 2 * Int(Int32.max)
          && (weight == nil
            || keyRows.shape[0] > projectedQueryDimension && (keyRows.shape[0] - projectedQueryDimension) % 2 == 0),
        "MultiHeadAttention", "in_proj_weight of [3·\(width), \(width)] expected; got \(keyRows.shape)")
      let projectedKeyValueDimension =
        weight == nil ? keyRows.shape[0] : (keyRows.shape[0] - projectedQueryDimension) / 2
      let ranges = [
        0..<projectedQueryDimension, projectedQueryDimension..<projectedQueryDimension + projectedKeyValueDimension,
        projectedQueryDimension + projectedKeyValueDimension..<projectedQueryDimension + 2 * projectedKeyValueDimension,
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
        && key.weight.shape[0] > 0 && key.weight.shape[0] % headDimension == 0, "MultiHeadAttention",
      "projections of rank 2 whose outputs divide by the head dimension \(headDimension) expected; got query "
        + "\(query.weight.shape), key \(key.weight.shape), value \(value.weight.shape)")
    if naming == .keras {
      for role in [Naming.Role.query, .key, .value] {
        let shape = try get(naming.weight(role)).shape
        try requireShape(
          shape[2] == headDimension, "MultiHeadAttention",
          "\(prefix + naming.weight(role)) of heads of \(headDimension) expected; got \(shape)")
      }
    }
    let (queryNorm, keyNorm) = (find(naming.norm("q")), find(naming.norm("k")))
    let sinks = find("sinks")
    var configuration = Configuration(
      embeddingDimension: width, headCount: headCount, keyValueHeadCount: key.weight.shape[0] / headDimension,
      keyInputDimension: key.weight.shape[1], valueInputDimension: value.weight.shape[1], hasBias: query.bias != nil,
      addsBiasKeyValue: find("bias_k") != nil, addsZeroAttention: addsZeroAttention, headDimension: headDimension,
      normEpsilon: queryNorm == nil ? nil : 1e-6, hasSinks: sinks != nil)
    let extents = configuration
    try configure(&configuration)
    try requireArgument(
      configuration.hasExtents(of: extents), "MultiHeadAttention",
      "extents as the tensors have them expected; got \(configuration) for \(extents)")
    try configuration.check()
    func check(_ name: String, _ tensor: Tensor<Element>?, _ shape: [Int]) throws(AttentionError) {
      guard let tensor else { return }
      try requireShape(tensor.shape == shape, "MultiHeadAttention", "\(name) of \(shape) expected; got \(tensor.shape)")
    }
    let projectedKeyValueDimension = configuration.projectedKeyValueDimension
    try check("query weight", query.weight, [projectedQueryDimension, width])
    try check("key weight", key.weight, [projectedKeyValueDimension, configuration.keyInputDimension])
    try check("value weight", value.weight, [projectedKeyValueDimension, configuration.valueInputDimension])
    try check("query bias", query.bias, [projectedQueryDimension])
    try check("key bias", key.bias, [projectedKeyValueDimension])
    try check("value bias", value.bias, [projectedKeyValueDimension])
    try check("output bias", output.bias, [width])
    try check("query norm", queryNorm, [headDimension])
    try check("key norm", keyNorm, [headDimension])
    try check("sinks", sinks, [headCount])
    try requireShape(
      (queryNorm == nil) == (keyNorm == nil), "MultiHeadAttention", "norms for both query and key, or neither, expected"
    )
    try requireShape(
      (query.bias == nil) == (key.bias == nil) && (key.bias == nil) == (value.bias == nil), "MultiHeadAttention",
      "biases for all of query, key and value, or for none, expected")
    func appended(_ name: String) throws -> Tensor<Element>? {
      guard configuration.addsBiasKeyValue else { return nil }
      let tensor = try get(name)
      try requireShape(
        tensor.count == projectedKeyValueDimension, "MultiHeadAttention",
        "\(name) of [1, 1, \(projectedKeyValueDimension)] expected; got \(tensor.shape)")
      return try tensor.reshaped([projectedKeyValueDimension])
    }
    try self.init(
      configuration: configuration, stacked: stacked, query: query, key: key, value: value, output: output,
      biasKey: appended("bias_k"), biasValue: appended("bias_v"), queryNorm: queryNorm, keyNorm: keyNorm, sinks: sinks)
  }

  /// The layer's tensors by name, for storage. ``init(stateDictionary:prefix:headCount:addsZeroAttention:configure:)``
  /// reads them.
  /// - Throws: `AttentionError` if memory runs out.
  public func stateDictionary(naming: Naming = .pyTorch, prefix: String = "") throws -> [String: Tensor<Element>] {
    var tensors: [String: Tensor<Element>] = [:]
    let inputs: [(Naming.Role, Linear<Element>)] = [
      (.query, queryProjection), (.key, keyProjection), (.value, valueProjection),
    ]
    func store(_ role: Naming.Role, _ projection: Linear<Element>) throws {
      guard naming == .keras else {
        tensors[naming.weight(role)] = projection.weight
        tensors[naming.bias(role)] = projection.bias
        return
      }
      let headDimension = configuration.headDimension
      let (rows, columns) = (projection.weight.shape[0], projection.weight.shape[1])
      let kernel = try projection.weight.transposed().contiguous()
      tensors[naming.weight(role)] = try kernel.reshaped(
        role == .output
          ? [columns / headDimension, headDimension, rows] : [columns, rows / headDimension, headDimension])
      tensors[naming.bias(role)] = try projection.bias.map {
        role == .output ? $0 : try $0.reshaped([rows / headDimension, headDimension])
      }
    }
    if naming == .pyTorch {
      if let stackedProjection {
        tensors["in_proj_weight"] = stackedProjection.weight
      } else {
        for (role, projection) in inputs { tensors["\(role.rawValue.prefix(1))_proj_weight"] = projection.weight }
      }
      let biases = inputs.compactMap { $0.1.bias }
      if !biases.isEmpty {
        tensors["in_proj_bias"] = try Tensor(biases.flatMap(\.array), shape: [biases.map(\.count).reduce(0, +)])
      }
    } else {
      for (role, projection) in inputs { try store(role, projection) }
    }
    try store(.output, outputProjection)
    tensors["bias_k"] = try biasKey?.reshaped([1, 1, configuration.projectedKeyValueDimension])
    tensors["bias_v"] = try biasValue?.reshaped([1, 1, configuration.projectedKeyValueDimension])
    tensors[naming.norm("q")] = queryNorm?.weight
    tensors[naming.norm("k")] = keyNorm?.weight
    tensors["sinks"] = sinks
    return Dictionary(uniqueKeysWithValues: tensors.map { (prefix + $0, $1) })
  }
}
