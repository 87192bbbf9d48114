import AttentionTensors
import AttentionTestSupport
import CLibrary
import Testing

@Suite("Kernels for scores and types of two bytes")
struct ScoreKernelTests {
  static let instructionSets = InstructionSet.present

  @Test(
    "softcap has an error of at most 4 ULP (5 in Double), limits infinities to ±cap, and keeps NaN",
    arguments: instructionSets)
  func softcapULP(set: InstructionSet) {
    func check<Element: RealTensorElement & BinaryFloatingPoint>(_: Element.Type) {
      let kernels = Kernels<Element>(set)!
      var generator = TestGenerator(seed: 11)
      for cap in [Element(1), 30, 0.37] {
        var x = (0..<4099).map { i in
          Element(Double.random(in: -1...1, using: &generator) * (i % 2 == 0 ? 1 : 40)) * cap
        }
        x[7] = .infinity
        x[8] = -.infinity
        x[9] = .nan
        x[10] = 0
        x[11] = Element.leastNormalMagnitude * 4
        var y = x
        kernels.softcap(y.count, &y, cap)
        #expect(y[7] == cap && y[8] == -cap && y[9].isNaN && y[10] == 0 && y[11].magnitude <= x[11])
        var worst = 0.0
        for i in y.indices where x[i].isFinite && i != 11 {
          // For Double, the reference has an error of its own: it is tanh of the C library.
          let exact = softcapped(Double(x[i]), Double(cap))
          worst = max(worst, abs(Double(y[i]) - exact) / Double(Element(exact).ulp))
        }
        #expect(worst <= (Element.self == Float.self ? 4 : 5), "\(Element.self) \(set): \(worst) ULP")
      }
    }
    check(Float.self)
    check(Double.self)
  }

  private func softcapped(_ x: Double, _ cap: Double) -> Double { cap * tanh(x / cap) }

  #if !(os(macOS) && arch(x86_64))
    @Test("every Float16 and BFloat16 becomes the Float of the same value", arguments: instructionSets)
    func widen(set: InstructionSet) {
      let kernels = Kernels<Float>(set)!
      let bits = (0...UInt16.max).map { $0 }
      var floats = [Float](repeating: .nan, count: bits.count)
      kernels.widen(.float16, bits.count, bits, stride: 1, &floats)
      #expect(zip(bits, floats).allSatisfy { same(Float(Float16(bitPattern: $0)), $1) })
      kernels.widen(.bfloat16, bits.count, bits, stride: 1, &floats)
      #expect(zip(bits, floats).allSatisfy { same(BFloat16(bitPattern: $0).floatValue, $1) })
      // Counts that do not fill a vector, and elements that are not contiguous.
      for count in 0..<40 {
        var row = [Float](repeating: 7, count: 41)
        kernels.widen(.float16, count, Array(bits[1000..<1200]), stride: 3, &row)
        #expect((0..<count).allSatisfy { row[$0] == Float(Float16(bitPattern: bits[1000 + 3 * $0])) })
        #expect(row[count...].allSatisfy { $0 == 7 })
      }
    }

    @Test("Floats are rounded to the nearest Float16 and BFloat16, ties to even", arguments: instructionSets)
    func narrow(set: InstructionSet) {
      let kernels = Kernels<Float>(set)!
      var generator = TestGenerator(seed: 12)
      var x = (0..<200_000).map { _ in Float(bitPattern: UInt32.random(in: 0...UInt32.max, using: &generator)) }
      // For each pair of neighbouring Float16 numbers from 0 on: the middle between them, its negative, and the Floats
      // just above and below the middle.
      for bits in stride(from: UInt16(0), to: 0x7c00, by: 1) {
        let middle = (Float(Float16(bitPattern: bits)) + Float(Float16(bitPattern: bits + 1))) / 2
        x += [middle, middle.nextUp, middle.nextDown, -middle]
      }
      x += [65504, 65519.99, 65520, -65520, .infinity, .nan, 0, -0.0, 2.9e-8, 2.98e-8, 5.9e-8]
      var halves = [UInt16](repeating: 0, count: x.count)
      kernels.narrow(.float16, x.count, x, &halves, stride: 1)
      let wrong = zip(x, halves).first { !same(Float(Float16($0)), Float(Float16(bitPattern: $1))) }
      #expect(wrong == nil, "\(set)")
      kernels.narrow(.bfloat16, x.count, x, &halves, stride: 1)
      let wrongBrain = zip(x, halves).first { !same(BFloat16($0).floatValue, BFloat16(bitPattern: $1).floatValue) }
      #expect(wrongBrain == nil, "\(set)")
      for count in 0..<40 {
        var row = [UInt16](repeating: 7, count: 121)
        kernels.narrow(.float16, count, Array(x[0..<40]), &row, stride: 3)
        #expect((0..<count).allSatisfy { same(Float(Float16(bitPattern: row[3 * $0])), Float(Float16(x[$0]))) })
        #expect(row.indices.allSatisfy { $0 % 3 == 0 && $0 < 3 * count || row[$0] == 7 })
      }
    }

    private func same(_ a: Float, _ b: Float) -> Bool { a.bitPattern == b.bitPattern || (a.isNaN && b.isNaN) }
  #endif
}
