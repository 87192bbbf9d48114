import AttentionTensors
import AttentionTestSupport
import Foundation
import Testing

/// Tests of the kernels by themselves, for both element types and for every instruction set that this machine has.
@Suite("Softmax kernels")
struct SoftmaxKernelTests {
  @Test("instruction sets that this machine does not have are reported and have no kernels")
  func absent() {
    let absent = InstructionSet.allCases.filter { !InstructionSet.present.contains($0) }
    if !absent.isEmpty { print("skipped, as this machine does not have them: kernels of \(absent.map(\.rawValue))") }
    #expect(InstructionSet.present.contains(.portable))
    for isa in absent { #expect(Kernels<Float>(isa) == nil && Kernels<Double>(isa) == nil) }
  }

  // MARK: 2^x

  @Test("2^x is within 1.5 ULP above -125.5 in Float and -1021.5 in Double", arguments: InstructionSet.present)
  func exp2ULP(isa: InstructionSet) {
    let single = worstULP(Kernels<Float>(isa)!.exp2, lowest: -125.5) { Foundation.exp2(Double($0)) }
    print("2^x, Float, \(isa): at most \(single) ULP")
    #expect(single <= 1.5)
    #if arch(x86_64) && os(Linux)
      let double = worstULP(Kernels<Double>(isa)!.exp2, lowest: -1021.5) { Foundation.exp2(Float80($0)) }
      print("2^x, Double, \(isa): at most \(double) ULP")
      #expect(double <= 1.5)
    #else
      print("skipped, for this machine has no type wider than Double: 2^x, Double")
    #endif
  }

  private func worstULP<T: BinaryFloatingPoint, Wide: BinaryFloatingPoint>(
    _ exp2: (Int, UnsafePointer<T>, UnsafeMutablePointer<T>) -> Void, lowest: T, _ exact: (T) -> Wide
  ) -> Double where T.RawSignificand: FixedWidthInteger {
    var generator = TestGenerator(seed: 1)
    var x = (0..<300_000).map { lowest * T($0) / 300_000 }
    x += (0..<300_000).map { _ in T.random(in: -2...0, using: &generator) }
    for n in 0..<Int(-lowest) {
      let whole = -T(n)
      let half = whole - 0.5
      x += [whole, whole.nextDown, half, half.nextUp, half.nextDown]
    }
    var y = [T](repeating: .nan, count: x.count)
    exp2(x.count, x, &y)
    return zip(x, y).map { x, y in
      let exact = exact(x)
      return Double(abs(Wide(y) - exact) / Wide(T(exact).ulp))
    }.max()!
  }

  @Test(
    "2^x of NaN is NaN, and 2^x of −inf and of numbers too small is 0, in every lane and in tails",
    arguments: InstructionSet.present)
  func exp2Edges(isa: InstructionSet) {
    check(Kernels<Float>(isa)!.exp2, lowest: -125.5)
    check(Kernels<Double>(isa)!.exp2, lowest: -1021.5)

    func check<T: BinaryFloatingPoint>(
      _ exp2: (Int, UnsafePointer<T>, UnsafeMutablePointer<T>) -> Void, lowest: T
    ) {
      let edges: [(x: T, y: T)] = [
        (-.infinity, 0), (.nan, .nan), (lowest, 0), (lowest.nextDown, 0), (-1e30, 0), (lowest * 2, 0), (0, 1),
        (-0.0, 1),
      ]
      for position in 0..<34 {
        let x = [T](repeating: -1, count: position) + edges.map(\.x) + [-1, -1, -1]
        let expected = [T](repeating: 0.5, count: position) + edges.map(\.y) + [0.5, 0.5, 0.5]
        var y = [T](repeating: 7, count: x.count)
        exp2(x.count, x, &y)
        #expect(mismatch(y, expected.map { Double($0) }, tolerance: 0, "at \(position)") == nil)
      }
    }
  }

  // MARK: Rows

  static let lengths = [0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 64, 65, 97, 257]

  @Test(
    "row operations agree with plain code for any length and touch nothing after it", arguments: InstructionSet.present,
    lengths)
  func rows(isa: InstructionSet, count: Int) {
    checkRows(Kernels<Float>(isa)!, count, tolerance: 1e-6)
    checkRows(Kernels<Double>(isa)!, count, tolerance: 1e-14)
  }

  private func checkRows<T: RealTensorElement & BinaryFloatingPoint>(
    _ kernels: Kernels<T>, _ count: Int, tolerance: Double
  ) {
    var generator = TestGenerator(seed: UInt64(count))
    let numbers = generator.numbers(count, bound: 20)
    // An infinity follows the row, so a kernel that reads past the row gives a wrong result.
    let x = numbers.map { T($0) } + [.infinity]
    let most = numbers.max() ?? -.infinity
    #expect(Double(kernels.maximum(count, x)) == most)
    #expect(kernels.isFinite(count, x))

    var y = [T](repeating: .nan, count: count + 1)
    func expectRow(_ expected: [Double], _ factor: Double, _ what: String) {
      #expect(mismatch(Array(y.dropLast()), expected, tolerance: tolerance * factor, what) == nil)
      #expect(y[count].isNaN, "\(what) must not write after the row")
    }
    let shift = T(max(most, -1000))
    let sum = kernels.exponentialSum(count, x, shift, &y)
    let exponentials = numbers.map { exp($0 - Double(shift)) }
    expectRow(exponentials, 1, "exponentialSum")
    #expect(abs(Double(sum) - exponentials.reduce(0, +)) <= tolerance * Double(count + 1))

    y = [T](repeating: .nan, count: count + 1)
    kernels.scale(count, x, -3, &y)
    expectRow(numbers.map { -3 * $0 }, 60, "scale")

    let bias = generator.numbers(count).enumerated().map { $0.offset % 3 == 1 ? -T.infinity : T($0.element) }
    y = numbers.enumerated().map { $0.offset % 3 == 1 ? T.nan : T($0.element) } + [T.nan]
    kernels.addBias(count, &y, bias)
    expectRow((0..<count).map { $0 % 3 == 1 ? -.infinity : numbers[$0] + Double(bias[$0]) }, 20, "addBias")

    let attend = generator.flags(count, trueShare: 0.5)
    y = zip(numbers, attend).map { $1 ? T($0) : T.nan } + [T.nan]
    kernels.mask(count, &y, attend.map { $0 ? 1 : 0 })
    expectRow(zip(numbers, attend).map { $1 ? $0 : -.infinity }, 20, "mask")

    for bad in [T.nan, .infinity, -.infinity] where count > 0 {
      for index in [0, count / 2, count - 1] {
        var z = x
        z[index] = bad
        #expect(!kernels.isFinite(count, z))
        if bad.isNaN {
          let rest = numbers.enumerated().filter { $0.offset != index }.map(\.element).max() ?? -.infinity
          #expect(Double(kernels.maximum(count, z)) == rest, "the maximum must leave NaN out")
        }
      }
    }
  }

  // MARK: Tiles

  /// The state that the online softmax carries over from tile to tile. It owns its memory.
  private struct Tiles<T: RealTensorElement & BinaryFloatingPoint> {
    let kernels: Kernels<T>
    var maximum: [T]
    var sum: [T]
    var rescale: [T]

    init(_ kernels: Kernels<T>, rowCount: Int) {
      self.kernels = kernels
      maximum = [T](repeating: -.infinity, count: rowCount)
      sum = [T](repeating: 0, count: rowCount)
      rescale = [T](repeating: .nan, count: rowCount)
    }

    /// Runs the kernel on one tile. Each row of the tile has a gap of one element after it.
    mutating func run(_ scores: inout [T], columnCount: Int, intervals: [Range<Int>]? = nil) {
      let begin = intervals?.map { T($0.lowerBound) }
      let end = intervals?.map { T($0.upperBound) }
      scores.withUnsafeMutableBufferPointer { scores in
        maximum.withUnsafeMutableBufferPointer { maximum in
          sum.withUnsafeMutableBufferPointer { sum in
            rescale.withUnsafeMutableBufferPointer { rescale in
              func call(_ begin: UnsafePointer<T>?, _ end: UnsafePointer<T>?) {
                kernels.softmaxRows(
                  rowCount: maximum.count, columnCount: columnCount, scores: scores.baseAddress!,
                  stride: columnCount + 1, begin: begin, end: end, maximum: maximum.baseAddress!,
                  sum: sum.baseAddress!, rescale: rescale.baseAddress!)
              }
              if let begin, let end { call(begin, end) } else { call(nil, nil) }
            }
          }
        }
      }
    }
  }

  @Test(
    "the online softmax over tiles agrees with the softmax of the whole row", arguments: InstructionSet.present,
    [1, 15, 16, 17, 64, 100])
  func onlineSoftmax(isa: InstructionSet, tileWidth: Int) {
    checkOnline(Kernels<Float>(isa)!, tileWidth, tolerance: 2e-6)
    checkOnline(Kernels<Double>(isa)!, tileWidth, tolerance: 1e-14)
  }

  private func checkOnline<T: RealTensorElement & BinaryFloatingPoint>(
    _ kernels: Kernels<T>, _ tileWidth: Int, tolerance: Double
  ) {
    var generator = TestGenerator(seed: UInt64(tileWidth))
    let (rowCount, columnCount) = (5, 230)
    // exp(x) of many scores overflows Float, but exp(x − max) does not. The largest score of row 0 comes last. Row 2
    // attends to nothing.
    var rows = (0..<rowCount).map { _ in generator.numbers(columnCount, bound: 10).map { Double(Float($0 + 90)) } }
    rows[0][columnCount - 1] = 140
    rows[2] = [Double](repeating: -.infinity, count: columnCount)
    var tiles = Tiles(kernels, rowCount: rowCount)
    var weights = [[T]](repeating: [], count: rowCount)
    for low in stride(from: 0, to: columnCount, by: tileWidth) {
      let width = min(tileWidth, columnCount - low)
      var scores = rows.flatMap { $0[low..<low + width].map { T($0) } + [.nan] }
      tiles.run(&scores, columnCount: width)
      for row in 0..<rowCount {
        let start = row * (width + 1)
        weights[row] = weights[row].map { $0 * tiles.rescale[row] } + scores[start..<start + width]
        #expect(scores[start + width].isNaN, "the gap after row \(row) must stay untouched")
      }
    }
    for (row, x) in rows.enumerated() {
      let most = x.max()!
      let exact = x.map { most == -.infinity ? 0 : exp($0 - most) }
      let total = exact.reduce(0, +)
      #expect(mismatch(weights[row], exact, tolerance: tolerance, "row \(row)") == nil)
      #expect(Double(tiles.maximum[row]) == most)
      #expect(abs(Double(tiles.sum[row]) - total) <= tolerance * max(total, 1))
    }
  }

  @Test("columns outside a row's interval get weight 0, whatever they hold", arguments: InstructionSet.present)
  func intervals(isa: InstructionSet) {
    let columnCount = 37
    let intervals = [0..<37, 5..<6, 0..<0, 37..<37, 20..<37, 3..<33]
    var scores = intervals.flatMap { interval in (0...columnCount).map { interval.contains($0) ? Float(1) : .nan } }
    var tiles = Tiles(Kernels<Float>(isa)!, rowCount: intervals.count)
    tiles.run(&scores, columnCount: columnCount, intervals: intervals)
    for (row, interval) in intervals.enumerated() {
      let start = row * (columnCount + 1)
      #expect((0..<columnCount).allSatisfy { scores[start + $0] == (interval.contains($0) ? 1 : 0) })
      #expect(tiles.sum[row] == Float(interval.count))
      #expect(tiles.rescale[row] == 1)
    }
  }
}
