internal import Attention
internal import AttentionFiles

/// A case of scaled dot-product attention. Its tensors are `query`, `key` and `value`; its options are stored as
/// metadata and as further tensors.
struct ScaledDotProductCase: ConformanceCase {
  private let query: Tensor<Float>
  private let key: Tensor<Float>
  private let value: Tensor<Float>
  private let mask: AttentionMask
  private let scale: Double?
  private let softcap: Double?
  private let sinks: Tensor<Float>?
  private let outputGradient: Tensor<Float>?
  private let extras: AttentionGradientExtras
  private let metadata: [String: String]

  init(_ file: SafeTensorsFile) throws {
    query = try file.tensor("query")
    key = try file.tensor("key")
    value = try file.tensor("value")
    func number(_ name: String) throws -> Double? {
      guard let text = file.metadata[name] else { return nil }
      guard let number = Double(text) else {
        throw AttentionError(.invalidFile, file.path, "\(name): a number expected; got \"\(text)\"")
      }
      return number
    }
    scale = try number("scale")
    softcap = try number("softcap")
    sinks = file.entry("sinks") == nil ? nil : try file.tensor("sinks")
    mask = try Self.mask(file)
    outputGradient = file.entry("grad_output") == nil ? nil : try file.tensor("grad_output")
    let wanted: [(String, AttentionGradientExtras)] = [
      ("bias", .biases), ("alibi_slopes", .alibiSlopes), ("sinks", .sinks),
    ]
    extras = AttentionGradientExtras(wanted.filter { file.entry($0.0) != nil }.map(\.1))
    metadata = file.metadata
  }

  private static func mask(_ file: SafeTensorsFile) throws -> AttentionMask {
    var mask = AttentionMask.none
    var alignment = AttentionMask.Alignment.bottomRight
    switch file.metadata["causal"] {
    case nil: break
    case "top_left":
      alignment = .topLeft
      mask = .causal(.topLeft)
    case "bottom_right": mask = .causal(.bottomRight)
    case let other?:
      throw AttentionError(.invalidFile, file.path, "causal: top_left or bottom_right expected; got \"\(other)\"")
    }
    if let window = file.metadata["window"] {
      let bounds = window.split(separator: ",", omittingEmptySubsequences: false).compactMap { Int($0) }
      guard bounds.count == 2, window.count(where: { $0 == "," }) == 1 else {
        throw AttentionError(.invalidFile, file.path, "window: \"left,right\" expected; got \"\(window)\"")
      }
      mask = mask.combined(
        with: .window(
          left: bounds[0] < 0 ? nil : bounds[0], right: bounds[1] < 0 ? nil : bounds[1], alignment: alignment))
    }
    if file.entry("kv_lengths") != nil {
      let lengths = try file.tensor("kv_lengths", as: Int32.self)
      mask = mask.combined(with: .keyLengths(lengths.array.map(Int.init)))
    }
    if file.entry("mask") != nil { mask = mask.combined(with: .attending(try file.tensor("mask"))) }
    if file.entry("bias") != nil { mask = mask.combined(with: .bias(try file.tensor("bias", as: Float.self))) }
    if file.entry("alibi_slopes") != nil {
      let slopes = try file.tensor("alibi_slopes", as: Float.self)
      mask = mask.combined(with: .alibi(slopes: slopes.array.map(Double.init)))
    }
    return mask
  }

  func compute(context: AttentionContext) throws -> [String: Tensor<Float>] {
    let result = try result(returning: [.logSumExp, .weights], context: context)
    return ["output": result.output, "weights": try result.weights, "lse": try result.logSumExp]
  }

  private var options: AttentionOptions<Float> { AttentionOptions(scale: scale, softcap: softcap, sinks: sinks) }

  private func result(returning extras: AttentionExtras, context: AttentionContext) throws -> AttentionResult<Float> {
    try scaledDotProductAttention(
      query: query, key: key, value: value, mask: mask, options: options, returning: extras, context: context)
  }

  func computeGradients(context: AttentionContext) throws -> [String: Tensor<Float>] {
    guard let outputGradient else { return [:] }
    let gradients = try scaledDotProductAttentionGradients(
      query: query, key: key, value: value, mask: mask, options: options,
      result: result(returning: .logSumExp, context: context), outputGradient: outputGradient, returning: extras,
      context: context)
    var results = ["grad_query": gradients.query, "grad_key": gradients.key, "grad_value": gradients.value]
    if extras.contains(.biases) { results["grad_bias"] = try gradients.biases[0] }
    if extras.contains(.alibiSlopes) { results["grad_alibi_slopes"] = try gradients.alibiSlopes[0] }
    if extras.contains(.sinks) { results["grad_sinks"] = try gradients.sinks }
    return results
  }

  func plan(context: AttentionContext) throws -> String? {
    let problem = try AttentionProblem(query: query, key: key, value: value, mask: mask, scale: scale)
    return try problem.plans(context: context).map(\.description).joined(separator: "; ")
  }

  func tolerance(of name: String, expected _: Tensor<Float>) throws -> Tolerance {
    // A result without a tolerance in the file is compared too: it must be equal.
    guard let text = metadata["tolerance.\(name)"] else { return Tolerance(absolute: 0) }
    guard let tolerance = Double(text), tolerance.isFinite, tolerance >= 0 else {
      throw AttentionError(.invalidFile, "tolerance.\(name)", "a finite number from 0 expected; got \"\(text)\"")
    }
    return Tolerance(absolute: tolerance)
  }
}
