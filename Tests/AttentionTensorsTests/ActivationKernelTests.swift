import AttentionTensors
import AttentionTestSupport
import Testing

@Suite("Kernels for activations and layer norms")
struct ActivationKernelTests {
  static let instructionSets = InstructionSet.present

  @Test("the error of activations is at most 4 ULP of x", arguments: instructionSets)
  func geluULP(set: InstructionSet) {
    func check<Element: RealTensorElement & BinaryFloatingPoint>(_: Element.Type) {
      let kernels = Kernels<Element>(set)!
      var generator = TestGenerator(seed: 21)
      var x = (0..<40_003).map { i in Element(Double.random(in: -1...1, using: &generator) * (i % 3 == 0 ? 1 : 7)) }
      // Numbers at and near the ends of GELU's approximation, ±5.5, and far from them.
      x += [5.5, -5.5, 5.499, -5.499, 5.501, -5.501, 0, 1e4, -1e4, 1e30, -1e30, 1e-30, -1e-30]
      for activation in Activation.allCases {
        var y = x
        kernels.activate(activation, y.count, &y)
        var worst = 0.0
        for i in x.indices {
          let want = referenceActivation("\(activation)", Double(x[i]))
          worst = max(worst, abs(Double(y[i]) - want) / Double(x[i].magnitude.ulp))
        }
        #expect(worst <= 4, "\(Element.self) \(set) \(activation): \(worst) ULP")
        var special: [Element] = [.infinity, .nan, -0.0]
        kernels.activate(activation, 3, &special)
        #expect(special[0] == .infinity && special[1].isNaN && special[2] == 0, "\(activation): \(special)")
      }
    }
    check(Float.self)
    check(Double.self)
  }

  @Test("an activation changes only as many elements as it is given", arguments: instructionSets)
  func tails(set: InstructionSet) {
    for count in 0..<40 {
      var x = [Float](repeating: -3, count: 41)
      Kernels<Float>(set)!.activate(.relu, count, &x)
      #expect(x[..<count].allSatisfy { $0 == 0 } && x[count...].allSatisfy { $0 == -3 })
    }
  }

  @Test(
    "layer norm and RMS norm agree with their formulas for every row length, with and without residual and bias",
    arguments: instructionSets)
  func norm(set: InstructionSet) {
    func check<Element: RealTensorElement & BinaryFloatingPoint>(_: Element.Type) {
      let kernels = Kernels<Element>(set)!
      for width in [1, 2, 7, 15, 16, 17, 48, 100, 384] {
        for options in 0..<8 {
          let (hasResidual, isCentred, hasBias) = (options & 1 != 0, options & 2 != 0, options & 4 != 0)
          var generator = TestGenerator(seed: UInt64(width))
          let (rowCount, stride) = (3, width + 5)
          // Numbers far from 0: a variance that is computed as a difference of sums of squares would be inaccurate.
          let x = generator.numbers(rowCount * stride).map { Double(Float($0 + 30)) }
          let residual = generator.numbers(rowCount * width)
          let (weight, bias) = (generator.numbers(width, bound: 2), generator.numbers(width))
          var y = [Element](repeating: .nan, count: rowCount * stride)
          let parts = [x, residual, weight, bias].map { $0.map { Element($0) } }
          kernels.norm(
            rowCount: rowCount, columnCount: width, isCentred: isCentred, parts[0], stride: stride,
            residual: hasResidual ? parts[1] : nil,
            residualStride: width, weight: parts[2], bias: hasBias ? parts[3] : nil, epsilon: 1e-3, into: &y,
            stride: stride)
          for row in 0..<rowCount {
            let sum = (0..<width).map { x[row * stride + $0] + (hasResidual ? residual[row * width + $0] : 0) }
            let mean = isCentred ? sum.reduce(0, +) / Double(width) : 0
            let variance = sum.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(width)
            let factor = 1 / (variance + 1e-3).squareRoot()
            let want = (0..<width).map { (sum[$0] - mean) * factor * weight[$0] + (hasBias ? bias[$0] : 0) }
            // The tolerance has two parts. The first is six times the rounding error of the mean, divided by the
            // standard deviation and multiplied by 2, the largest weight. The second allows for the rounding errors of
            // the last operations.
            let rounding = Double(Element(31).ulp) / (variance + 1e-3).squareRoot() * 2
            let tolerance = 6 * rounding + 4 * Double(Element.ulpOfOne) * want.map(\.magnitude).max()!
            let got = Array(y[row * stride..<row * stride + width])
            #expect(mismatch(got, want, tolerance: tolerance, "\(set) width \(width) row \(row)") == nil)
            #expect(y[(row * stride + width)..<((row + 1) * stride)].allSatisfy { $0.isNaN })
          }
        }
      }
    }
    check(Float.self)
    check(Double.self)
  }
}
