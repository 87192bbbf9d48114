internal import Attention
internal import AttentionFiles

/// A case of the ONNX operator Attention, opsets 23 to 25: inputs are `in.Q` and so on, attributes are `attr.NAME`.
///
/// The operator differs from this library. Without a cache, its causal mask and its window are aligned at the top left.
/// With a cache, they are shifted: by the number of past keys if the case has `past_key`, or by the number of valid
/// keys minus the number of queries if it has `nonpad_kv_seqlen`. If a mask is shorter than the keys, the remaining
/// keys are forbidden. Operands of rank 3 hold their heads side by side.
struct OnnxAttentionCase<Stored: AttentionStorage>: ConformanceCase {
  private let query: Tensor<Stored>
  private let key: Tensor<Stored>
  private let value: Tensor<Stored>
  private let mask: AttentionMask
  private let scale: Double?
  private let softcap: Double?
  private let scoreOutput: Int
  private let hasPast: Bool
  private let isPacked: Bool
  private let attributes: OnnxAttributes

  init(_ file: SafeTensorsFile) throws {
    let attributes = OnnxAttributes(file)
    self.attributes = attributes
    let whole = try file.tensor("in.Q", as: Stored.self)
    isPacked = whole.rank == 3
    // Operands [B, L, H·E] become [B, H, L, E].
    func operand(_ name: String, _ heads: String) throws -> Tensor<Stored> {
      let tensor = try file.tensor("in.\(name)", convertingTo: Stored.self)
      if tensor.rank != 3 { return tensor }
      guard let count = try attributes.integer(heads) else {
        throw AttentionError(.invalidFile, file.path, "\(heads) expected with operands of rank 3")
      }
      return try tensor.splitHeads(count)
    }
    let query = try operand("Q", "q_num_heads")
    self.query = query
    var key = try operand("K", "kv_num_heads")
    var value = try operand("V", "kv_num_heads")
    try requireRank4(file, query.shape, key.shape, value.shape)
    hasPast = file.entry("in.past_key") != nil
    var pastCount = 0
    if hasPast {
      let past = try file.tensor("in.past_key", convertingTo: Stored.self)
      try requireRank4(file, past.shape)
      pastCount = past.shape[2]
      key = try concatenated(past, key)
      value = try concatenated(try file.tensor("in.past_value", convertingTo: Stored.self), value)
    }
    self.key = key
    self.value = value

    let (batchCount, queryCount, keyCount) = (query.shape[0], query.shape[2], key.shape[2])
    var mask = AttentionMask.none
    var alignment =
      pastCount == 0 ? AttentionMask.Alignment.topLeft : .offsets(Array(repeating: pastCount, count: batchCount))
    if file.entry("in.nonpad_kv_seqlen") != nil {
      let lengths = try file.tensor("in.nonpad_kv_seqlen", as: Int64.self).array.map { Int($0) }
      try requireArgument(
        lengths.allSatisfy { (0...keyCount).contains($0) }, file.path,
        "nonpad_kv_seqlen from 0 to the \(keyCount) keys expected; got \(lengths)")
      mask = .keyLengths(lengths)
      alignment = .offsets(lengths.map { $0 - queryCount })
    }
    if try attributes.integer("is_causal") ?? 0 != 0 { mask = mask.combined(with: .causal(alignment)) }
    func bound(_ name: String) throws -> Int? { try attributes.integer(name).flatMap { $0 < 0 ? nil : $0 } }
    let (left, right) = (try bound("left_window_size"), try bound("right_window_size"))
    if left != nil || right != nil {
      mask = mask.combined(with: .window(left: left, right: right, alignment: alignment))
    }
    switch file.entry("in.attn_mask")?.dataType {
    case nil: break
    case .bool:
      let attended = try file.tensor("in.attn_mask", as: Bool.self)
      mask = mask.combined(with: .attending(try padded(attended, to: keyCount, with: false)))
    default:
      let bias = try file.tensor("in.attn_mask", convertingTo: Stored.self)
      mask = mask.combined(with: .bias(try padded(bias, to: keyCount, with: Stored(_nearest: -.infinity))))
    }
    self.mask = mask
    scale = try attributes.number("scale")
    softcap = try attributes.number("softcap").flatMap { $0 == 0 ? nil : $0 }
    scoreOutput = try attributes.integer("qk_matmul_output_mode") ?? 0
    try requireArgument(
      (0...3).contains(scoreOutput), file.path, "qk_matmul_output_mode from 0 to 3 expected; got \(scoreOutput)")
  }

  func compute(context: AttentionContext) throws -> [String: Tensor<Float>] {
    typealias Result = AttentionResult<Stored>
    let modes: [(AttentionExtras, (Result) throws -> Tensor<Stored.Arithmetic>)] = [
      (.rawScores, { try $0.rawScores }), (.cappedScores, { try $0.cappedScores }),
      (.maskedScores, { try $0.maskedScores }), (.weights, { try $0.weights }),
    ]
    let (extra, scores) = modes[scoreOutput]
    let result = try scaledDotProductAttention(
      query: query, key: key, value: value, mask: mask, options: AttentionOptions(scale: scale, softcap: softcap),
      returning: extra, context: context)
    var results = ["out.Y": try Tensor<Float>(converting: isPacked ? result.output.mergedHeads() : result.output)]
    results["out.qk_matmul_output"] = try Tensor<Float>(converting: Tensor<Stored>(converting: scores(result)))
    if hasPast {
      results["out.present_key"] = try Tensor<Float>(converting: key)
      results["out.present_value"] = try Tensor<Float>(converting: value)
    }
    return results
  }

  func tolerance(of _: String, expected _: Tensor<Float>) throws -> Tolerance { try attributes.tolerance(Stored.self) }
}

/// A case of the ONNX operator RotaryEmbedding.
struct OnnxRotaryCase<Stored: AttentionStorage>: ConformanceCase {
  private let input: Tensor<Stored>
  private let headCount: Int?
  private let table: RotaryTable<Stored.Arithmetic>
  private let attributes: OnnxAttributes

  init(_ file: SafeTensorsFile) throws {
    let attributes = OnnxAttributes(file)
    self.attributes = attributes
    input = try file.tensor("in.X", as: Stored.self)
    headCount = input.rank == 3 ? try attributes.integer("num_heads") ?? 0 : nil
    if let headCount {
      try requireArgument(
        headCount > 0 && input.shape[2] % headCount == 0, file.path,
        "num_heads of which the width \(input.shape[2]) is a multiple expected; got \(headCount)")
    }
    func table(_ name: String) throws -> Tensor<Stored.Arithmetic> {
      let cache = try file.tensor(name, convertingTo: Stored.Arithmetic.self)
      guard file.entry("in.position_ids") != nil else { return cache }
      let positions = try file.tensor("in.position_ids", as: Int64.self)
      try requireShape(
        cache.rank == 2 && positions.rank == 2
          && positions.array.allSatisfy { (0..<Int64(cache.shape[0])).contains($0) },
        file.path, "\(name) [positions, R/2] and position_ids [B, L] within it expected; got \(cache.shape)")
      return try Tensor(
        positions.array.flatMap { try cache.select(Int($0), axis: 0).array }, shape: positions.shape + [cache.shape[1]])
    }
    let whole = try RotaryTable(
      cosines: table("in.cos_cache"), sines: table("in.sin_cache"),
      pairing: try attributes.integer("interleaved") ?? 0 == 0 ? .halves : .interleaved)
    self.table = whole
    if let width = try attributes.integer("rotary_embedding_dim"), width != 0 {
      try requireShape(
        width == whole.dimension, file.path,
        "caches of rotary_embedding_dim / 2 = \(width / 2) expected; got \(whole.dimension / 2)")
    }
  }

  func compute(context: AttentionContext) throws -> [String: Tensor<Float>] {
    // An input [B, L, H·E] is split into heads, which become an axis of their own. After the rotation, the heads are
    // put side by side again.
    let split = try headCount.map { try input.reshaped(Array(input.shape.prefix(2)) + [$0, input.shape[2] / $0]) }
    let output = try table.rotated(split ?? input, layout: split == nil ? .headsFirst : .lengthFirst, context: context)
    return ["out.Y": try Tensor<Float>(converting: output.reshaped(input.shape))]
  }

  func tolerance(of _: String, expected _: Tensor<Float>) throws -> Tolerance { try attributes.tolerance(Stored.self) }
}

/// Opens a case of an ONNX operator. The element type of the case is that of its first input.
func openOnnxCase(_ file: SafeTensorsFile) throws -> any ConformanceCase {
  func open<Stored: AttentionStorage>(_: Stored.Type) throws -> any ConformanceCase {
    switch file.metadata["op_type"] {
    case "Attention": return try OnnxAttentionCase<Stored>(file)
    case "RotaryEmbedding": return try OnnxRotaryCase<Stored>(file)
    case let other:
      throw AttentionError(
        .unsupported, file.path,
        "op_type: Attention or RotaryEmbedding expected; got \(other.map { "\"\($0)\"" } ?? "none")")
    }
  }
  let dataType = (file.entry("in.Q") ?? file.entry("in.X"))?.dataType
  switch dataType {
  case .float32: return try open(Float.self)
  case .float64: return try open(Double.self)
  case .bfloat16: return try open(BFloat16.self)
  #if !(os(macOS) && arch(x86_64))
    case .float16: return try open(Float16.self)
  #endif
  default:
    throw AttentionError(
      .unsupported, file.path, "in.Q or in.X of F32, F64, F16 or BF16 expected; got \(dataType?.rawValue ?? "none")")
  }
}

/// The attributes and tolerances of a case.
private struct OnnxAttributes {
  private let metadata: [String: String]
  private let path: String

  init(_ file: SafeTensorsFile) {
    metadata = file.metadata
    path = file.path
  }

  func integer(_ name: String) throws -> Int? { try parse("attr.\(name)", "an integer") { Int($0) } }

  func number(_ name: String) throws -> Double? { try parse("attr.\(name)", "a number") { Double($0) } }

  func tolerance<Stored: AttentionStorage>(_: Stored.Type) throws -> Tolerance {
    func number(_ name: String) throws -> Double { try parse(name, "a number") { Double($0) } ?? 0 }
    let relative = try number(Stored._dataType == .bfloat16 ? "bf16_rtol" : "rtol")
    return Tolerance(absolute: try number("atol"), relative: relative)
  }

  private func parse<Value>(_ name: String, _ what: String, _ read: (String) -> Value?) throws -> Value? {
    guard let text = metadata[name] else { return nil }
    guard let value = read(text) else {
      throw AttentionError(.invalidFile, path, "\(name): \(what) expected; got \"\(text)\"")
    }
    return value
  }
}

private func requireRank4(_ file: SafeTensorsFile, _ shapes: [Int]...) throws {
  for shape in shapes {
    try requireShape(shape.count == 4, file.path, "[batch, heads, length, width] expected; got \(shape)")
  }
}

/// The concatenation of `a` and `b` along the length axis of `[B, H, L, E]`.
private func concatenated<Element: TensorElement>(_ a: Tensor<Element>, _ b: Tensor<Element>) throws -> Tensor<Element>
{
  try requireShape(
    a.rank == 4 && a.shape[0] == b.shape[0] && a.shape[1] == b.shape[1] && a.shape[3] == b.shape[3], "past",
    "a past of the same batch, heads and width expected; got \(a.shape) before \(b.shape)")
  var result = try Tensor<Element>(
    uninitializedShape: [a.shape[0], a.shape[1], a.shape[2] + b.shape[2], a.shape[3]])
  try result.withMutableView { view in
    try view.withSlice(0..<a.shape[2], axis: 2) { try $0.copy(from: a) }
    try view.withSlice(a.shape[2]..<a.shape[2] + b.shape[2], axis: 2) { try $0.copy(from: b) }
  }
  return result
}

/// `mask`, with its last axis extended to the number of keys. The added elements are `element`.
private func padded<Element: TensorElement>(
  _ mask: Tensor<Element>, to keyCount: Int, with element: Element
) throws -> Tensor<Element> {
  guard let count = mask.shape.last, count < keyCount else { return mask }
  var result = try Tensor(repeating: element, shape: mask.shape.dropLast() + [keyCount])
  try result.withMutableView { view in
    try view.withSlice(0..<count, axis: mask.rank - 1) { try $0.copy(from: mask) }
  }
  return result
}
