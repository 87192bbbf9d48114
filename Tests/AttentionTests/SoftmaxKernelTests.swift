import Attention
import AttentionTestSupport
import CAttentionKernels
import Foundation
import Testing

/// The C kernels by themselves, once for every instruction set that this machine has.
@Suite("Softmax kernels")
struct SoftmaxKernelTests {
  private func table(_ isa: attn_isa) -> (attn_f32_kernels, attn_f64_kernels) {
    (attn_f32_kernels_for(isa)!.pointee, attn_f64_kernels_for(isa)!.pointee)
  }

  static let present = [attn_isa_portable, attn_isa_neon, attn_isa_avx2, attn_isa_avx512].filter(attn_isa_is_present).map(\.rawValue)

  @Test("instruction sets that this machine lacks are told")
  func absent() {
    let names = InstructionSet.allCases.filter { !InstructionSet.present.contains($0) }.map(\.rawValue)
    if !names.isEmpty { print("skipped, for this machine lacks them: kernels of \(names.joined(separator: ", "))") }
    #expect(InstructionSet.present.contains(.portable))
    for isa in InstructionSet.allCases where !InstructionSet.present.contains(isa) {
      #expect(Float._kernels(for: isa) == nil)
    }
  }

  @Test("2^x on [-126, 0] is within 1.5 ULP, float", arguments: present)
  func exp2ULP(isa: UInt32) {
    let exp2 = table(attn_isa(rawValue: isa)).0.exp2!
    var generator = TestGenerator(seed: 1)
    var x = (0..<400_001).map { -126 * Float($0) / 400_000 }
    x += (0..<400_000).map { _ in Float.random(in: -2...0, using: &generator) }
    for n in 0..<126 {
      let whole = -Float(n)
      x += [whole, whole.nextDown, whole - 0.5, (whole - 0.5).nextUp, (whole - 0.5).nextDown]
    }
    var y = [Float](repeating: .nan, count: x.count)
    exp2(x.count, x, &y)
    let worst = zip(x, y).map { x, y in
      let exact = Foundation.exp2(Double(x))
      return abs(Double(y) - exact) / Double(Float(exact).ulp)
    }.max()!
    print("2^x, float, instruction set \(isa): at most \(worst) ULP")
    #expect(worst <= 1.5)
  }

  #if arch(x86_64) && os(Linux)
    @Test("2^x on [-1022, 0] is within 1.5 ULP, double", arguments: present)
    func exp2ULPDouble(isa: UInt32) {
      let exp2 = table(attn_isa(rawValue: isa)).1.exp2!
      var generator = TestGenerator(seed: 2)
      var x = (0..<200_001).map { -1022 * Double($0) / 200_000 }
      x += (0..<200_000).map { _ in Double.random(in: -2...0, using: &generator) }
      var y = [Double](repeating: .nan, count: x.count)
      exp2(x.count, x, &y)
      let worst = zip(x, y).map { x, y in
        let exact = Foundation.exp2(Float80(x))
        return Double(abs(Float80(y) - exact) / Float80(Double(exact).ulp))
      }.max()!
      print("2^x, double, instruction set \(isa): at most \(worst) ULP")
      #expect(worst <= 1.5)
    }
  #endif

  @Test("2^x keeps NaN, takes −inf and what is too small to 0", arguments: present)
  func exp2Edges(isa: UInt32) {
    let (f32, f64) = table(attn_isa(rawValue: isa))
    let x: [Float] = [-.infinity, .nan, -126.001, -1e30, -200, 0, -0.0]
    for position in [0, 5, 11, 16, 30] {
      // At every lane and in tails alike.
      var input = [Float](repeating: -1, count: position) + x
      input += [-1, -1, -1]
      var y = [Float](repeating: 7, count: input.count)
      f32.exp2(input.count, input, &y)
      let got = Array(y[position..<position + x.count])
      #expect(got[0] == 0 && got[1].isNaN && got[2] == 0 && got[3] == 0 && got[4] == 0 && got[5] == 1 && got[6] == 1)
      #expect(y.enumerated().allSatisfy { (position..<position + x.count).contains($0.offset) || $0.element == 0.5 })
    }
    var y = [Double](repeating: 7, count: 5)
    f64.exp2(5, [-.infinity, .nan, -1022.5, 0, -1], &y)
    #expect(y[0] == 0 && y[1].isNaN && y[2] == 0 && y[3] == 1 && y[4] == 0.5)
  }

  static let lengths = [0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 64, 65, 97, 257]

  @Test("row operations agree with plain code for any length and touch nothing beyond", arguments: present, lengths)
  func rows(isa: UInt32, count: Int) {
    let (f32, f64) = table(attn_isa(rawValue: isa))
    checkRows(f32.maximum, f32.exponential_sum, f32.scale, f32.add_bias, f32.mask, f32.is_finite, count, 1e-6)
    checkRows(f64.maximum, f64.exponential_sum, f64.scale, f64.add_bias, f64.mask, f64.is_finite, count, 1e-14)
  }

  private func checkRows<T: BinaryFloatingPoint>(
    _ maximum: (Int, UnsafePointer<T>?) -> T, _ exponentialSum: (Int, UnsafePointer<T>?, T, UnsafeMutablePointer<T>?) -> T,
    _ scale: (Int, UnsafePointer<T>?, T, UnsafeMutablePointer<T>?) -> Void,
    _ addBias: (Int, UnsafeMutablePointer<T>?, UnsafePointer<T>?) -> Void,
    _ mask: (Int, UnsafeMutablePointer<T>?, UnsafePointer<UInt8>?) -> Void,
    _ isFinite: (Int, UnsafePointer<T>?) -> Bool, _ count: Int, _ tolerance: Double
  ) {
    var generator = TestGenerator(seed: UInt64(count))
    let numbers = generator.numbers(count, bound: 20)
    let x = numbers.map { T($0) } + [T.infinity]  // a fence: whoever reads it shows it
    let most = numbers.max() ?? -.infinity
    #expect(Double(maximum(count, x)) == most)
    #expect(isFinite(count, x))

    var y = [T](repeating: .nan, count: count + 1)
    let shift = T(max(most, -1000))
    let sum = exponentialSum(count, x, shift, &y)
    let expected = numbers.map { exp($0 - Double(shift)) }
    #expect(mismatch(Array(y.dropLast()), expected, tolerance: tolerance) == nil)
    #expect(abs(Double(sum) - expected.reduce(0, +)) <= tolerance * Double(count + 1))
    #expect(y[count].isNaN)

    y = [T](repeating: .nan, count: count + 1)
    scale(count, x, -3, &y)
    #expect(mismatch(Array(y.dropLast()), numbers.map { -3 * $0 }, tolerance: tolerance * 60) == nil)
    #expect(y[count].isNaN)

    let bias = generator.numbers(count).enumerated().map { $0.offset % 3 == 1 ? -T.infinity : T($0.element) }
    var scores = numbers.enumerated().map { $0.offset % 3 == 1 ? T.nan : T($0.element) } + [T.nan]
    addBias(count, &scores, bias)
    let biased = (0..<count).map { $0 % 3 == 1 ? -.infinity : numbers[$0] + Double(bias[$0]) }
    #expect(mismatch(Array(scores.dropLast()), biased, tolerance: tolerance * 20) == nil)
    #expect(scores[count].isNaN)

    let attend = generator.flags(count, trueShare: 0.5)
    scores = zip(numbers, attend).map { $1 ? T($0) : T.nan } + [T.nan]
    mask(count, &scores, attend.map { $0 ? 1 : 0 })
    let masked = zip(numbers, attend).map { $1 ? $0 : -.infinity }
    #expect(mismatch(Array(scores.dropLast()), masked, tolerance: tolerance * 20) == nil)
    #expect(scores[count].isNaN)

    for bad in [T.nan, .infinity, -.infinity] where count > 0 {
      for index in [0, count / 2, count - 1] {
        var z = x
        z[index] = bad
        #expect(!isFinite(count, z))
        // NaN is left out of the maximum.
        if bad.isNaN, count > 1 {
          let rest = numbers.enumerated().filter { $0.offset != index }.map(\.element).max()!
          #expect(Double(maximum(count, z)) == rest)
        }
      }
    }
  }

  @Test("the online softmax over tiles is the softmax of the whole row", arguments: present, [1, 15, 16, 17, 64, 100])
  func onlineSoftmax(isa: UInt32, tileWidth: Int) {
    let softmaxTile = table(attn_isa(rawValue: isa)).0.softmax_tile!
    var generator = TestGenerator(seed: UInt64(tileWidth))
    let (rowCount, columnCount) = (5, 230)
    var numbers = generator.numbers(rowCount * columnCount, bound: 95)
    // exp overflows here, but exp(x − max) does not; and the largest comes late.
    for i in numbers.indices { numbers[i] = Double(Float(90 + numbers[i] / 10)) }
    numbers[columnCount - 1] = 140
    for j in 0..<columnCount { numbers[2 * columnCount + j] = -.infinity }
    var maximum = [Float](repeating: -.infinity, count: rowCount)
    var sum = [Float](repeating: 0, count: rowCount)
    var rescale = [Float](repeating: .nan, count: rowCount)
    var weights = [[Float]](repeating: [], count: rowCount)
    for low in stride(from: 0, to: columnCount, by: tileWidth) {
      let width = min(tileWidth, columnCount - low)
      var scores = (0..<rowCount).flatMap { row in
        (0..<width).map { Float(numbers[row * columnCount + low + $0]) } + [Float.nan]
      }
      scores.withUnsafeMutableBufferPointer { scores in
        maximum.withUnsafeMutableBufferPointer { maximum in
          sum.withUnsafeMutableBufferPointer { sum in
            rescale.withUnsafeMutableBufferPointer { rescale in
              var tile = attn_f32_softmax_tile(
                row_count: rowCount, column_count: width, stride: width + 1, scores: scores.baseAddress, begin: nil,
                end: nil, maximum: maximum.baseAddress, sum: sum.baseAddress, rescale: rescale.baseAddress)
              softmaxTile(&tile)
            }
          }
        }
      }
      for row in 0..<rowCount {
        weights[row] = weights[row].map { $0 * rescale[row] } + scores[row * (width + 1)..<row * (width + 1) + width]
        #expect(scores[row * (width + 1) + width].isNaN, "the gap behind row \(row) must stay untouched")
      }
    }
    for row in 0..<rowCount {
      let x = numbers[row * columnCount..<(row + 1) * columnCount]
      let most = x.max()!
      let exact = x.map { most == -.infinity ? 0 : exp($0 - most) }
      let total = exact.reduce(0, +)
      #expect(mismatch(weights[row], exact, tolerance: 2e-6, "row \(row)") == nil)
      #expect(Double(maximum[row]) == most)
      #expect(abs(Double(sum[row]) - total) <= 2e-6 * max(total, 1))
    }
  }

  @Test("columns outside a row's interval get weight 0, whatever they hold", arguments: present)
  func intervals(isa: UInt32) {
    let softmaxTile = table(attn_isa(rawValue: isa)).0.softmax_tile!
    let columnCount = 37
    let intervals: [(Int64, Int64)] = [(0, 37), (5, 6), (0, 0), (37, 37), (20, 37), (3, 33)]
    var scores = [Float](repeating: .nan, count: intervals.count * columnCount)
    for (row, (begin, end)) in intervals.enumerated() {
      for j in Int(begin)..<Int(end) { scores[row * columnCount + j] = 1 }
    }
    var begin = intervals.map(\.0)
    var end = intervals.map(\.1)
    var (maximum, sum, rescale) = ([Float](repeating: -.infinity, count: 6), [Float](repeating: 0, count: 6), [Float](repeating: .nan, count: 6))
    scores.withUnsafeMutableBufferPointer { scores in
      begin.withUnsafeMutableBufferPointer { begin in
        end.withUnsafeMutableBufferPointer { end in
          maximum.withUnsafeMutableBufferPointer { maximum in
            sum.withUnsafeMutableBufferPointer { sum in
              rescale.withUnsafeMutableBufferPointer { rescale in
                var tile = attn_f32_softmax_tile(
                  row_count: 6, column_count: columnCount, stride: columnCount, scores: scores.baseAddress,
                  begin: begin.baseAddress, end: end.baseAddress, maximum: maximum.baseAddress, sum: sum.baseAddress,
                  rescale: rescale.baseAddress)
                softmaxTile(&tile)
              }
            }
          }
        }
      }
    }
    for (row, (begin, end)) in intervals.enumerated() {
      for j in 0..<columnCount {
        #expect(scores[row * columnCount + j] == ((begin..<end).contains(Int64(j)) ? 1 : 0))
      }
      #expect(sum[row] == Float(end - begin))
      #expect(rescale[row] == 1)
    }
  }
}
