import Attention
import AttentionTestSupport
import Foundation
import Testing

@Suite("softmax and logSumExp")
struct SoftmaxTests {
  @Test("agree with the formula in Double", arguments: [1, 2, 16, 17, 100, 4097], InstructionSet.present)
  func agree(count: Int, isa: InstructionSet) throws {
    var generator = TestGenerator(seed: UInt64(count))
    let rowCount = 5
    let numbers = generator.numbers(rowCount * count, bound: 30)
    let x = try Tensor<Float>(numbers.map { Float($0) }, shape: [rowCount, 1, count])
    let context = AttentionContext(instructionSet: isa)
    var exact: [Double] = []
    var logarithms: [Double] = []
    for row in 0..<rowCount {
      let slice = numbers[row * count..<(row + 1) * count]
      let most = slice.max()!
      let sum = slice.reduce(0) { $0 + exp($1 - most) }
      exact += slice.map { exp($0 - most) / sum }
      logarithms.append(most + log(sum))
    }
    #expect(mismatch(try softmax(x, context: context).array, exact, tolerance: 1e-6) == nil)
    let lse = try logSumExp(x, context: context)
    #expect(lse.shape == [rowCount, 1])
    #expect(mismatch(lse.array, logarithms, tolerance: 4e-6) == nil)
    let wide = try Tensor<Double>(converting: x)
    #expect(mismatch(try softmax(wide, context: context).array, exact, tolerance: 1e-14) == nil)
    #expect(mismatch(try logSumExp(wide, context: context).array, logarithms, tolerance: 1e-13) == nil)
  }

  @Test("strided input, many rows, several threads")
  func strided() throws {
    let x = try Tensor<Float>(uniform: -5..<5, shape: [300, 700], seed: 3)
    let numbers = x.array.map(Double.init)
    var exact: [Double] = []
    var logarithms: [Double] = []
    for column in 0..<700 {
      let row = (0..<300).map { numbers[$0 * 700 + column] }
      let sum = row.reduce(0) { $0 + exp($1) }
      exact += row.map { exp($0) / sum }
      logarithms.append(log(sum))
    }
    for isa in InstructionSet.present {
      let context = AttentionContext(threadCount: 3, instructionSet: isa)
      let columns = try softmax(x.transposed(), context: context)
      #expect(columns.shape == [700, 300])
      #expect(mismatch(columns.array, exact, tolerance: 2e-8, "\(isa)") == nil)
      #expect(mismatch(try logSumExp(x.transposed(), context: context).array, logarithms, tolerance: 2e-6) == nil)
      let one = try softmax(x.transposed(), context: AttentionContext(threadCount: 1, instructionSet: isa))
      #expect(sameBits(columns.array, one.array))
      let wide = try Tensor<Double>(converting: x).transposed()
      #expect(mismatch(try softmax(wide, context: context).array, exact, tolerance: 1e-16, "\(isa)") == nil)
    }
  }

  @Test("the error of small exponentials is within the documented bound", arguments: InstructionSet.present)
  func smallExponentials(isa: InstructionSet) throws {
    let x = (0..<8000).map { -Float($0) / 92 }
    let y = try softmax(Tensor(x, shape: [1, x.count]), context: AttentionContext(instructionSet: isa)).array
    // Each result is divided by the largest one, which belongs to exp(0), so the sum cancels. The two divisions add an
    // error of one ULP each.
    for (x, y) in zip(x, y.map { Double($0) / Double(y[0]) }) {
      let exact = exp(Double(x))
      #expect(abs(y - exact) <= (2 + 1.25 * Double(-x) + 2) * Double(Float(exact).ulp), "exp(\(x))")
    }
  }

  #if !os(macOS) && arch(x86_64)
    @Test("the error of small exponentials in Double is within the documented bound", arguments: InstructionSet.present)
    func smallExponentialsOfDouble(isa: InstructionSet) throws {
      let x = (0..<8000).map { -Double($0) / 11.3 }
      let y = try softmax(Tensor(x, shape: [1, x.count]), context: AttentionContext(instructionSet: isa)).array
      for (x, y) in zip(x, y.map { Float80($0) / Float80(y[0]) }) {
        let exact = exp(Float80(x))
        #expect(abs(y - exact) <= Float80((2 + 1.25 * -x + 2) * Double(exact).ulp), "exp(\(x))")
      }
    }
  #endif

  @Test("rows of −∞ only, with NaN, with infinity, and without elements")
  func edges() throws {
    let x = try Tensor<Float>(
      [-.infinity, -.infinity, 1, .nan, .nan, .nan, .infinity, 0, -.infinity, 5], shape: [5, 2])
    let y = try softmax(x).array
    #expect(Array(y[0...1]) == [0, 0])
    #expect(y[2].isNaN && y[3].isNaN && y[4].isNaN && y[5].isNaN && y[6].isNaN)
    #expect(Array(y[8...9]) == [0, 1])
    let lse = try logSumExp(x).array
    #expect(lse[0] == -.infinity && lse[1].isNaN && lse[2].isNaN && lse[3].isNaN && lse[4] == 5)
    #expect(try softmax(Tensor<Float>(repeating: 1, shape: [3, 0])).shape == [3, 0])
    #expect(try logSumExp(Tensor<Float>(repeating: 1, shape: [3, 0])).array == [-.infinity, -.infinity, -.infinity])
    #expect(throws: AttentionError.self) { try softmax(Tensor<Float>([1], shape: [])) }
    #expect(throws: AttentionError.self) { try logSumExp(Tensor<Float>([1], shape: [])) }
    #expect(try softmax(Tensor<Float>([], shape: [.max, 0])).count == 0)
    #expect(try logSumExp(Tensor<Float>([], shape: [0, .max])).count == 0)
    let endless = try Tensor<Float>([1], shape: [1]).broadcast(to: [1 << 61])
    #expect(throws: AttentionError.self) { try logSumExp(endless) }
  }
}
