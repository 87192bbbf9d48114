package import Attention
internal import AttentionFiles

/// A stored multi-head attention with its inputs.
///
/// The weights are either PyTorch's state dictionary, with the prefix `state.` before its names, or tensors such as
/// `query_projection.weight`, for the projections of query, key, value and output. If the file holds a tensor `input`,
/// it is query, key and value at once.
package struct LayerCase: ConformanceCase {
  package let layer: MultiHeadAttention<Float>
  package let query: Tensor<Float>
  private let key: Tensor<Float>
  private let value: Tensor<Float>
  private let mask: AttentionMask
  private let outputGradient: Tensor<Float>?

  init(_ file: SafeTensorsFile) throws {
    guard let headCount = file.metadata["num_heads"].flatMap(Int.init), headCount > 0 else {
      throw AttentionError(
        .invalidFile, file.path,
        "num_heads: a number from 1 expected in the metadata; got \(file.metadata["num_heads"].map { "\"\($0)\"" } ?? "none")"
      )
    }
    let isPyTorch = file.entry("query_projection.weight") == nil
    let prefix = isPyTorch ? "state." : ""
    var tensors: [String: Tensor<Float>] = [:]
    for entry in file.entries where isPyTorch ? entry.name.hasPrefix(prefix) : entry.name.contains("_projection.") {
      tensors[entry.name] = try file.tensor(entry.name, convertingTo: Float.self)
    }
    layer = try MultiHeadAttention(
      stateDictionary: tensors, prefix: prefix, headCount: headCount,
      addsZeroAttention: file.metadata["add_zero_attn"] == "true")

    func input(_ name: String) throws -> Tensor<Float> { try file.tensor(name, convertingTo: Float.self) }
    if file.entry("input") != nil {
      query = try input("input")
      key = query
      value = query
    } else {
      query = try input("query")
      // A file stores equal inputs separately. If they become one tensor here, the layer can compute their projections
      // in one product.
      func same(_ name: String, as other: Tensor<Float>) throws -> Tensor<Float> {
        let tensor = try input(name)
        return tensor == other ? other : tensor
      }
      key = try same("key", as: query)
      value = try same("value", as: key)
    }
    mask = try Self.mask(file, headCount: headCount)
    outputGradient = file.entry("grad_output") == nil ? nil : try input("grad_output")
  }

  private static func mask(_ file: SafeTensorsFile, headCount: Int) throws -> AttentionMask {
    var mask = AttentionMask.none
    if file.entry("lengths") != nil {
      mask = .keyLengths(try file.tensor("lengths", as: Int32.self).array.map(Int.init))
    }
    if let entry = file.entry("key_padding_mask") {
      mask = mask.combined(
        with: entry.dataType == .bool
          ? try .pyTorchKeyPadding(try file.tensor(entry.name, as: Bool.self))
          : try .pyTorchKeyPadding(try file.tensor(entry.name, as: Float.self)))
    }
    if let entry = file.entry("attn_mask") {
      mask = mask.combined(
        with: entry.dataType == .bool
          ? try .pyTorchAttention(try file.tensor(entry.name, as: Bool.self), headCount: headCount)
          : try .pyTorchAttention(try file.tensor(entry.name, as: Float.self), headCount: headCount))
    }
    return mask
  }

  package func forward(weights: MultiHeadWeights, context: AttentionContext) throws -> MultiHeadResult<Float> {
    try layer.forward(query: query, key: key, value: value, mask: mask, weights: weights, context: context)
  }

  package func compute(context: AttentionContext) throws -> [String: Tensor<Float>] {
    let result = try forward(weights: .perHead, context: context)
    return [
      "output": result.output, "context": result.context, "weights": try result.weights,
      "weights_averaged": try forward(weights: .averaged, context: context).weights,
    ]
  }

  package func computeGradients(context: AttentionContext) throws -> [String: Tensor<Float>] {
    guard let outputGradient else { return [:] }
    let (_, pullback) = try layer.valueWithPullback(query: query, key: key, value: value, mask: mask, context: context)
    var gradients = ParameterGradients<Float>()
    let inputs = try pullback(outputGradient, adding: &gradients, prefix: "grad.")
    return gradients.tensors.merging(
      ["grad_query": inputs.query, "grad_key": inputs.key, "grad_value": inputs.value]) { old, _ in old }
  }

  package func tolerance(of name: String, expected: Tensor<Float>) -> Tolerance {
    Tolerance(absolute: 1e-5 * expected.array.filter(\.isFinite).reduce(1) { max($0, Double(abs($1))) })
  }
}
