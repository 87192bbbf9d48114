import Attention
import AttentionProblems
import AttentionTestSupport
import Testing

@Suite("Norms of rows")
struct NormTests {
  /// The formulas of layer norm and RMS norm, in Double.
  private func reference(
    _ x: [Double], _ residual: [Double], _ weight: [Double], _ bias: [Double], epsilon: Double, isCentred: Bool
  ) -> [Double] {
    let d = weight.count
    return stride(from: 0, to: x.count, by: d).flatMap { row in
      let z = (0..<d).map { x[row + $0] + residual[row + $0] }
      let mean = isCentred ? z.reduce(0, +) / Double(d) : 0
      let square = z.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(d)
      return (0..<d).map { (z[$0] - mean) / (square + epsilon).squareRoot() * weight[$0] + bias[$0] }
    }
  }

  // 5000 rows of 100 elements are more than one task.
  @Test(
    "norms agree with their formulas, with and without a residual, for any strides",
    arguments: [[3, 7], [2, 5, 33], [5000, 100]])
  func formula(shape: [Int]) throws {
    for context in AttentionContext.everyPath {
      try formula(Float.self, shape, context)
      try formula(Double.self, shape, context)
    }
  }

  private func formula<Element: AttentionElement>(_: Element.Type, _ shape: [Int], _ context: AttentionContext) throws {
    let d = shape[shape.count - 1]
    func random(_ shape: [Int], _ seed: UInt64) throws -> Tensor<Element> {
      try Tensor(uniform: -1..<1, shape: shape, seed: seed)
    }
    let (x, residual) = (try random(shape, 1), try random(shape, 2))
    let (weight, bias) = (try random([d], 3), try random([d], 4))
    // The same numbers, with rows and columns exchanged in memory.
    var axes = Array(shape.indices)
    axes.swapAt(shape.count - 1, shape.count - 2)
    let strided = try x.permuted(axes).contiguous().permuted(axes)
    func doubles(_ tensor: Tensor<Element>) -> [Double] { tensor.array.map { Double($0) } }
    func check(_ got: Tensor<Element>, _ residual: [Double], _ bias: [Double], isCentred: Bool, _ name: String) {
      let want = reference(doubles(x), residual, doubles(weight), bias, epsilon: 1e-3, isCentred: isCentred)
      #expect(got.shape == shape && got.isContiguous)
      let bound = tolerance(ofFloat: 4e-6, as: Element.self)
      #expect(mismatch(got.array, want, tolerance: bound, "\(name) \(Element.self) \(context.path)") == nil)
    }
    let zeros = [Double](repeating: 0, count: x.count)
    let none = [Double](repeating: 0, count: d)
    let layer = try LayerNorm(weight: weight, bias: bias, epsilon: 1e-3)
    let plain = try LayerNorm(weight: weight, epsilon: 1e-3)
    let root = try RMSNorm(weight: weight, epsilon: 1e-3)
    for x in [x, strided] {
      check(try layer(x, context: context), zeros, doubles(bias), isCentred: true, "layer norm")
      check(
        try layer(x, adding: residual, context: context), doubles(residual), doubles(bias), isCentred: true, "residual")
      check(try plain(x, context: context), zeros, none, isCentred: true, "without bias")
      check(try root(x, context: context), zeros, none, isCentred: false, "RMS norm")
      var own = x
      try root.apply(to: &own, adding: residual, context: context)
      check(own, doubles(residual), none, isCentred: false, "RMS norm in place")
    }
  }

  @Test("a row gives the same bits alone and among other rows, and on any number of threads")
  func sameBitsAnywhere() throws {
    let x = try Tensor<Float>(uniform: -1..<1, shape: [4000, 96], seed: 1)
    let norm = try LayerNorm<Float>(weight: Tensor(uniform: 0..<2, shape: [96], seed: 2))
    let one = try norm(x, context: AttentionContext(threadCount: 1))
    let four = try norm(x, context: AttentionContext(threadCount: 4))
    #expect(sameBits(one.array, four.array))
    let last = try norm(x.slice(3999..<4000, axis: 0))
    #expect(sameBits(last.array, Array(one.array.suffix(96))))
  }

  @Test("writing to a tensor does not change its copy; empty tensors stay empty")
  func copies() throws {
    let x = try Tensor<Float>(uniform: -1..<1, shape: [3, 8], seed: 1)
    let before = x.array
    let norm = try RMSNorm<Float>(weight: Tensor(repeating: 1, shape: [8]))
    var y = x
    try norm.apply(to: &y)
    #expect(x.array == before && y.array != before)
    #expect(try norm(x.slice(0..<0, axis: 0)).shape == [0, 8])
  }

  @Test("shapes that do not fit, and an epsilon that is negative or NaN, are errors")
  func errors() throws {
    let x = try Tensor<Float>(repeating: 1, shape: [2, 4])
    func weight(_ count: Int) throws -> Tensor<Float> { try Tensor(repeating: 1, shape: [count]) }
    let shape = try #require(throws: AttentionError.self) { try LayerNorm(weight: weight(3))(x) }
    #expect(shape.description == "LayerNorm: [..., 3], and a residual of its shape, expected; got [2, 4], none")
    #expect(throws: AttentionError.self) { try LayerNorm(weight: weight(4), bias: weight(3)) }
    #expect(throws: AttentionError.self) { try RMSNorm(weight: x) }
    #expect(throws: AttentionError.self) { try RMSNorm(weight: weight(4), epsilon: -1) }
    #expect(throws: AttentionError.self) { try RMSNorm(weight: weight(4), epsilon: .nan) }
    #expect(throws: AttentionError.self) { try RMSNorm(weight: weight(4))(x, adding: x.slice(0..<1, axis: 0)) }
  }
}
