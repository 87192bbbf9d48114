package import Attention
package import AttentionFiles

/// A stored problem: inputs and options and, if it is a test, the expected results.
package protocol ConformanceCase {
  /// The results by name.
  func compute(context: AttentionContext) throws -> [String: Tensor<Float>]
  /// The gradients by name; none if the case has no gradient of its output.
  func computeGradients(context: AttentionContext) throws -> [String: Tensor<Float>]
  /// A description for people of how the attention is computed; nil if the case has none.
  func plan(context: AttentionContext) throws -> String?
  /// The error allowed in a result.
  func tolerance(of name: String, expected: Tensor<Float>) throws -> Tolerance
}

/// The largest absolute error allowed in an element: `absolute + relative · |expected|`.
package struct Tolerance {
  var absolute: Double
  var relative = 0.0
}

/// Opens a case. The names of its tensors tell which kind of case it is.
package func openCase(_ file: SafeTensorsFile) throws -> any ConformanceCase {
  let names = file.entries.map(\.name)
  if names.contains(where: { $0.hasPrefix("state.") || $0 == "query_projection.weight" }) { return try LayerCase(file) }
  if names.contains(where: { $0.hasPrefix("in.") }) { return try openOnnxCase(file) }
  if names.contains("query") { return try ScaledDotProductCase(file) }
  throw AttentionError(
    .unsupported, file.path, "no form of case is known with tensors \(names.prefix(20).joined(separator: ", "))")
}

/// The comparison of one result with the expected one.
package struct Comparison: Encodable {
  package let name: String
  /// The error of the element whose error is the largest share of what is allowed, as ``worstError(_:_:_:_:)`` returns
  /// it; infinite if an infinity does not match or an element is NaN. ``tolerance`` is the error allowed in this
  /// element.
  package let error: Double
  package let tolerance: Double

  package var passes: Bool { error.isFinite && error <= tolerance }
}

extension ConformanceCase {
  package func plan(context _: AttentionContext) throws -> String? { nil }

  package func computeGradients(context _: AttentionContext) throws -> [String: Tensor<Float>] { [:] }

  /// Compares each computed result with the expected one, if `file` holds it. With `includingGradients`, throws if
  /// `file` expects a gradient that is not computed.
  package func compare(
    with file: SafeTensorsFile, includingGradients: Bool, context: AttentionContext
  ) throws -> [Comparison] {
    var results = try compute(context: context)
    if includingGradients && file.entry("grad_output") != nil {
      results.merge(try computeGradients(context: context)) { old, _ in old }
      let isExpected = { (name: String) in (name.hasPrefix("grad_") || name.hasPrefix("grad.")) && name != "grad_output"
      }
      if let other = file.entries.first(where: { isExpected($0.name) && results[$0.name] == nil }) {
        throw AttentionError(.unsupported, file.path, "the gradient \(other.name) is not supported")
      }
    }
    return try results.keys.sorted().compactMap { name in
      guard file.entry(name) != nil else { return nil }
      let expected = try file.tensor(name, convertingTo: Float.self)
      let (error, tolerance) = try worstError(
        results[name]!, expected, try tolerance(of: name, expected: expected), name)
      return Comparison(name: name, error: error, tolerance: tolerance)
    }
  }
}

/// The error of the element whose error is the largest share of what is allowed, and the error allowed in this element.
/// Infinities must match exactly; a NaN matches nothing.
func worstError(
  _ result: Tensor<Float>, _ expected: Tensor<Float>, _ tolerance: Tolerance, _ name: String
) throws -> (error: Double, allowed: Double) {
  guard result.shape == expected.shape else {
    throw AttentionError(
      .shapeMismatch, name, "the case expects a result of shape \(expected.shape); got \(result.shape)")
  }
  var worst = (error: 0.0, allowed: tolerance.absolute)
  for (a, b) in zip(result.array, expected.array) where a != b {
    let error = abs(Double(a) - Double(b))
    if !error.isFinite { return (.infinity, tolerance.absolute) }
    let allowed = tolerance.absolute + tolerance.relative * abs(Double(b))
    if error * worst.allowed >= worst.error * allowed { worst = (error, allowed) }
  }
  return worst
}
