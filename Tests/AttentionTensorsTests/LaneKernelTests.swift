import AttentionTensors
import AttentionTestSupport
import Foundation
import Testing

/// Tests of single kernels: those for tiles whose queries lie in the lanes of vectors, and those for a few rows. They
/// run for every instruction set that this machine has and for both element types.
@Suite("Kernels of tiles")
struct LaneKernelTests {
  /// Calls `float` with the Float kernels of an instruction set, and `double` with its Double kernels.
  private func forEachKernels(
    _ isa: InstructionSet, _ float: (Kernels<Float>) -> Void, _ double: (Kernels<Double>) -> Void
  ) {
    float(Kernels<Float>(isa)!)
    double(Kernels<Double>(isa)!)
  }

  private static let counts = [1, 2, 3, 5, 8, 13, 16, 17, 31, 32, 33, 48, 50]

  // MARK: Rows into lanes and back

  @Test("pack brings rows into lanes, and unpack brings them back", arguments: InstructionSet.present, counts)
  func packing(isa: InstructionSet, rowCount: Int) {
    // With 17 rows, the test also takes 600 columns, which are more than a kernel masks at once.
    for columnCount in Self.counts + (rowCount == 17 ? [600] : []) {
      for columnStride in columnCount == 600 ? [1] : [1, 3] {
        forEachKernels(
          isa, { checkPacking($0, rowCount, columnCount, columnStride) },
          { checkPacking($0, rowCount, columnCount, columnStride) })
      }
    }
  }

  private func checkPacking<T: RealTensorElement & BinaryFloatingPoint>(
    _ kernels: Kernels<T>, _ rowCount: Int, _ columnCount: Int, _ columnStride: Int
  ) {
    let seed = UInt64(rowCount * 1000 + columnCount * 10 + columnStride)
    var generator = TestGenerator(seed: seed)
    let lanes = kernels.laneCount
    // The stride is a whole number of vectors and a gap of one element.
    let stride = (rowCount + lanes - 1) / lanes * lanes + 1
    let rowLength = (columnCount - 1) * columnStride + 1
    let x = generator.numbers(rowCount * rowLength).map { T($0) }
    let attends = generator.flags(rowCount * rowLength, trueShare: 0.6).map { UInt8($0 ? 1 : 0) }
    func value(_ row: Int, _ column: Int) -> T { x[row * rowLength + column * columnStride] }
    func flag(_ row: Int, _ column: Int) -> Bool { attends[row * rowLength + column * columnStride] != 0 }

    func packed(_ packing: Packing, into y: inout [T]) {
      var maximum = [T](repeating: 0.25, count: stride)
      x.withUnsafeBytes { x in
        attends.withUnsafeBytes { attends in
          let isBoolean = if case .boolean = packing { true } else { false }
          let size = isBoolean ? 1 : MemoryLayout<T>.stride
          let base = isBoolean ? attends.baseAddress! : x.baseAddress!
          let rows = (0..<rowCount).map { base + $0 * rowLength * size }
          kernels.pack(
            packing, rowCount: rowCount, columnCount: columnCount, rows: rows, columnStride: columnStride, into: &y,
            stride: stride, maximum: &maximum)
        }
      }
      expectMaxima(maximum, of: y, stride: stride, lanes: stride - 1, before: 0.25, "\(packing) seed \(seed)")
    }
    func expect(_ y: [T], _ what: String, _ expected: (_ row: Int, _ column: Int) -> T) {
      for column in 0..<columnCount {
        for lane in 0..<stride - 1 {
          let wanted = expected(min(lane, rowCount - 1), column)
          let got = y[column * stride + lane]
          #expect(got == wanted, "\(what) seed \(seed) row \(lane) column \(column)")
          if got != wanted { return }
        }
        #expect(y[column * stride + stride - 1].isNaN, "\(what): the gap must stay untouched, seed \(seed)")
      }
    }
    let empty = [T](repeating: .nan, count: columnCount * stride)
    var y = empty
    packed(.scaled(by: 0.5), into: &y)
    expect(y, "scaled") { value($0, $1) * 0.5 }

    // Unpack the rows again, each with a factor of its own.
    let factors = (0..<stride).map { T($0 + 1) }
    var back = [T](repeating: .nan, count: rowCount * rowLength)
    back.withUnsafeMutableBytes { back in
      let rows = (0..<rowCount).map { back.baseAddress! + $0 * rowLength * MemoryLayout<T>.stride }
      kernels.unpack(
        rowCount: rowCount, columnCount: columnCount, y, stride: stride, factor: factors, rows: rows,
        columnStride: columnStride)
    }
    for row in 0..<rowCount {
      for place in 0..<rowLength {
        let got = back[row * rowLength + place]
        let isElement = place % columnStride == 0
        #expect(isElement ? got == value(row, place / columnStride) * 0.5 * factors[row] : got.isNaN, "seed \(seed)")
      }
    }

    let scaled = y
    func before(_ row: Int, _ column: Int) -> T { scaled[column * stride + row] }
    packed(.bias, into: &y)
    expect(y, "bias added") { before($0, $1) + value($0, $1) }
    y = scaled
    packed(.boolean, into: &y)
    expect(y, "boolean") { flag($0, $1) ? before($0, $1) : -.infinity }
    packed(.bias, into: &y)
    expect(y, "bias after boolean") { flag($0, $1) ? before($0, $1) + value($0, $1) : -.infinity }
    // Scores that the mask forbids may be NaN.
    for index in y.indices where y[index] == -.infinity { y[index] = .nan }
    packed(.boolean, into: &y)
    expect(y, "boolean over NaN") { flag($0, $1) ? before($0, $1) + value($0, $1) : -.infinity }
  }

  /// Expects each lane's maximum to be the largest of `before` and the numbers in the lane's column of `y`, except NaN.
  private func expectMaxima<T: RealTensorElement & BinaryFloatingPoint>(
    _ maximum: [T], of y: [T], stride: Int, lanes: Int, before: T, _ what: String
  ) {
    for lane in 0..<lanes {
      let column = Swift.stride(from: lane, to: y.count, by: stride).map { y[$0] }
      let expected = column.reduce(before) { $1 > $0 ? $1 : $0 }
      #expect(maximum[lane] == expected, "\(what) lane \(lane)")
    }
  }

  // MARK: Products

  @Test(
    "multiply agrees with plain code for any number of rows and depth, in either layout",
    arguments: InstructionSet.present, [0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 25, 40])
  func multiply(isa: InstructionSet, rowCount: Int) {
    for depth in [0, 1, 2, 9, 40] {
      forEachKernels(
        isa, { checkMultiply($0, rowCount, depth, tolerance: 1e-5) },
        { checkMultiply($0, rowCount, depth, tolerance: 1e-13) })
    }
  }

  @Test(
    "an addend gives the same bits as a bias that is added after the product", arguments: InstructionSet.present,
    [0, 1, 4, 7, 8, 12, 16, 17, 31, 48, 49, 66, 131])
  func addend(isa: InstructionSet, rowCount: Int) {
    for depth in [0, 3, 17, 64, 200] {
      forEachKernels(isa, { checkAddend($0, rowCount, depth) }, { checkAddend($0, rowCount, depth) })
    }
  }

  private func checkAddend<T: RealTensorElement & BinaryFloatingPoint>(
    _ kernels: Kernels<T>, _ rowCount: Int, _ depth: Int
  ) {
    for (vectorCount, isTransposed, isHazardous) in (1...kernels.panelVectorCount).flatMap({ count in
      [(count, false, false), (count, false, true), (count, true, true)]
    }) {
      let seed = UInt64(rowCount * 1000 + depth + vectorCount)
      var generator = TestGenerator(seed: seed)
      let lanes = vectorCount * kernels.laneCount
      let (bStride, cStride) = (lanes + 2, lanes + 1)
      var a = generator.numbers(rowCount * depth).map { T($0) }
      let b = generator.numbers(depth * bStride).map { T($0) }
      var addend = generator.numbers(rowCount * lanes).map { T($0) }
      if isHazardous {
        for index in addend.indices where index % 11 == 3 { addend[index] = -.infinity }
        for index in addend.indices where index % 37 == 5 { addend[index] = index % 2 == 0 ? .infinity : .nan }
        for index in a.indices where index % 501 == 7 { a[index] = index % 2 == 0 ? -.infinity : .nan }
      }
      func computed(_ body: (StridedMatrix<T>, UnsafePointer<UnsafeRawPointer>, inout [T], inout [T]) -> Void) -> [T] {
        var c = [T](repeating: .nan, count: rowCount * cStride)
        var maximum = [T](repeating: 0.25, count: lanes)
        a.withUnsafeBufferPointer { a in
          addend.withUnsafeBytes { addend in
            let empty = UnsafeRawPointer(bitPattern: 64)!
            let matrix = StridedMatrix(
              base: a.baseAddress ?? empty.assumingMemoryBound(to: T.self), rowCount: rowCount, columnCount: depth,
              rowStride: isTransposed ? 1 : depth, columnStride: isTransposed ? rowCount : 1)
            // The rows are in reverse order: the first lane has the last row of `addend`.
            let rows = (0..<lanes).reversed().map {
              (addend.baseAddress ?? empty) + $0 * rowCount * MemoryLayout<T>.stride
            }
            body(matrix, rows, &c, &maximum)
          }
        }
        return c + maximum
      }
      let expected = computed { a, rows, c, maximum in
        kernels.multiply(vectorCount: vectorCount, a, b, bStride: bStride, into: &c, stride: cStride, rescale: nil)
        kernels.pack(
          .bias, rowCount: lanes, columnCount: rowCount, rows: rows, columnStride: 1, into: &c, stride: cStride,
          maximum: &maximum)
      }
      let got = computed { a, rows, c, maximum in
        kernels.multiply(
          vectorCount: vectorCount, a, b, bStride: bStride, into: &c, stride: cStride, rescale: nil, addend: rows,
          maximum: &maximum)
      }
      let wrong = zip(got, expected).filter { $0 != $1 && !($0.isNaN && $1.isNaN) }.count
      #expect(wrong == 0, "\(rowCount) rows, depth \(depth), \(vectorCount) vectors, seed \(seed)")
    }
  }

  private func checkMultiply<T: RealTensorElement & BinaryFloatingPoint>(
    _ kernels: Kernels<T>, _ rowCount: Int, _ depth: Int, tolerance: Double
  ) {
    for vectorCount in 1...kernels.productVectorCount {
      for (isTransposed, isAdded) in [(false, false), (true, false), (false, true), (true, true)] {
        var generator = TestGenerator(seed: UInt64(rowCount * 100 + depth))
        let lanes = vectorCount * kernels.laneCount
        let (bStride, cStride) = (lanes + 2, lanes + 1)
        let a = generator.numbers(rowCount * depth)
        let b = generator.numbers(depth * bStride)
        let rescale = generator.numbers(lanes)
        let before = generator.numbers(rowCount * cStride)
        var c = before.map { isAdded ? T($0) : .nan }
        for row in 0..<rowCount { c[row * cStride + lanes] = .nan }
        var maximum = [T](repeating: 0.25, count: lanes)
        let stored = a.map { T($0) }
        stored.withUnsafeBufferPointer { stored in
          let base = stored.baseAddress ?? UnsafePointer(bitPattern: 64)!
          kernels.multiply(
            vectorCount: vectorCount,
            StridedMatrix(
              base: base, rowCount: rowCount, columnCount: depth, rowStride: isTransposed ? 1 : depth,
              columnStride: isTransposed ? rowCount : 1),
            b.map { T($0) }, bStride: bStride, into: &c, stride: cStride,
            rescale: isAdded ? rescale.map { T($0) } : nil, maximum: &maximum)
        }
        if !isAdded {
          expectMaxima(maximum, of: c, stride: cStride, lanes: lanes, before: 0.25, "\(rowCount) rows, depth \(depth)")
        }
        let product = referenceProduct(
          m: rowCount, n: lanes, k: depth, alpha: 1,
          { isTransposed ? a[$1 * rowCount + $0] : a[$0 * depth + $1] }, { b[$0 * bStride + $1] }, adding: nil)
        var expected: [Double] = []
        for row in 0..<rowCount {
          for lane in 0..<lanes {
            let old = isAdded ? before[row * cStride + lane] * rescale[lane] : 0
            expected.append(product[row * lanes + lane] + old)
          }
          #expect(c[row * cStride + lanes].isNaN, "the gap after a row must stay untouched")
        }
        let got = (0..<rowCount).flatMap { Array(c[$0 * cStride..<$0 * cStride + lanes]) }
        #expect(mismatch(got, expected, tolerance: tolerance, "\(rowCount) rows, depth \(depth)") == nil)
      }
    }
  }

  @Test(
    "products of a few rows agree with plain code", arguments: InstructionSet.present, [1, 2, 3, 4, 5, 6, 7, 9])
  func fewRows(isa: InstructionSet, rowCount: Int) {
    for (keyCount, width) in [(1, 1), (3, 7), (15, 16), (16, 64), (17, 40), (40, 33), (70, 129), (33, 200), (5, 0)] {
      forEachKernels(
        isa, { checkFewRows($0, rowCount, keyCount, width, tolerance: 1e-5) },
        { checkFewRows($0, rowCount, keyCount, width, tolerance: 1e-13) })
    }
  }

  private func checkFewRows<T: RealTensorElement & BinaryFloatingPoint>(
    _ kernels: Kernels<T>, _ rowCount: Int, _ keyCount: Int, _ width: Int, tolerance: Double
  ) {
    var generator = TestGenerator(seed: UInt64(rowCount * 10_000 + keyCount * 100 + width))
    let (rowStride, keyStride, scoreStride) = (width + 1, width + 2, keyCount + 3)
    let query = generator.numbers(rowCount * rowStride)
    let key = generator.numbers(keyCount * keyStride)
    func matrix(_ x: UnsafeBufferPointer<T>, _ rows: Int, _ columns: Int, _ stride: Int) -> StridedMatrix<T> {
      StridedMatrix(base: x.baseAddress!, rowCount: rows, columnCount: columns, rowStride: stride, columnStride: 1)
    }
    var scores = [T](repeating: .nan, count: rowCount * scoreStride)
    query.map { T($0) }.withUnsafeBufferPointer { query in
      key.map { T($0) }.withUnsafeBufferPointer { key in
        kernels.dotRows(
          query: matrix(query, rowCount, width, rowStride),
          key: StoredMatrix(matrix(key, keyCount, width, keyStride)), factor: 0.5, into: &scores, stride: scoreStride)
      }
    }
    let expected = referenceProduct(
      m: rowCount, n: keyCount, k: width, alpha: 0.5, { query[$0 * rowStride + $1] }, { key[$1 * keyStride + $0] },
      adding: nil)
    let got = (0..<rowCount).flatMap { Array(scores[$0 * scoreStride..<$0 * scoreStride + keyCount]) }
    #expect(mismatch(got, expected, tolerance: tolerance, "dotRows") == nil)
    #expect((0..<rowCount).allSatisfy { scores[$0 * scoreStride + keyCount].isNaN }, "gaps must stay untouched")

    let weights = generator.numbers(rowCount * scoreStride)
    let before = generator.numbers(rowCount * width)
    var result = (0..<rowCount).flatMap { row in before[row * width..<(row + 1) * width].map { T($0) } + [T.nan] }
    weights.map { T($0) }.withUnsafeBufferPointer { weights in
      key.map { T($0) }.withUnsafeBufferPointer { value in
        kernels.accumulateRows(
          weights: matrix(weights, rowCount, keyCount, scoreStride),
          value: StoredMatrix(matrix(value, keyCount, width, keyStride)), firstIndex: 7, into: &result,
          stride: rowStride)
      }
    }
    let sums = referenceProduct(
      m: rowCount, n: width, k: keyCount, alpha: 1, { weights[$0 * scoreStride + $1] }, { key[$0 * keyStride + $1] },
      adding: before)
    let output = (0..<rowCount).flatMap { Array(result[$0 * rowStride..<$0 * rowStride + width]) }
    #expect(mismatch(output, sums, tolerance: tolerance * 4, "accumulateRows") == nil)
    #expect((0..<rowCount).allSatisfy { result[$0 * rowStride + width].isNaN }, "gaps must stay untouched")
  }

  // MARK: The softmax of each lane

  @Test(
    "the online softmax over several tiles gives the softmax of each lane's column", arguments: InstructionSet.present,
    [1, 7, 16, 50, 200])
  func softmax(isa: InstructionSet, tileLength: Int) {
    forEachKernels(
      isa, { checkSoftmax($0, tileLength, tolerance: 2e-6) }, { checkSoftmax($0, tileLength, tolerance: 1e-14) })
  }

  private func checkSoftmax<T: RealTensorElement & BinaryFloatingPoint>(
    _ kernels: Kernels<T>, _ tileLength: Int, tolerance: Double
  ) {
    for vectorCount in 1...kernels.panelVectorCount {
      for (hasIntervals, knowsMaximum) in [(false, false), (false, true), (true, false)] {
        var generator = TestGenerator(seed: UInt64(tileLength * 10 + vectorCount))
        let (lanes, keyCount) = (vectorCount * kernels.laneCount, 150)
        let stride = lanes + 1
        // For many of these scores x, exp(x) overflows Float, but exp(x − max) does not. The largest score of lane 0 is
        // its last one.
        var scores = generator.numbers(keyCount * lanes, bound: 10).map { Double(Float($0 + 90)) }
        scores[(keyCount - 1) * lanes] = 140
        func interval(_ lane: Int) -> Range<Int> {
          if !hasIntervals { return 0..<keyCount }
          return lane % 4 == 3 ? 7..<7 : min(lane * 3, 100)..<keyCount - lane
        }
        func exact(_ key: Int, _ lane: Int) -> Double {
          interval(lane).contains(key) ? scores[key * lanes + lane] : -.infinity
        }
        var maximum = [T](repeating: -.infinity, count: lanes)
        var sum = [T](repeating: 0, count: lanes)
        var rescale = [T](repeating: .nan, count: lanes)
        var weights = [[T]](repeating: [], count: lanes)
        for low in Swift.stride(from: 0, to: keyCount, by: tileLength) {
          let keys = low..<min(low + tileLength, keyCount)
          var tile = [T](repeating: .nan, count: keys.count * stride)
          for key in keys {
            for lane in 0..<lanes {
              // Masked scores are NaN, which must not change the results.
              let isMasked = exact(key, lane) == -.infinity
              tile[(key - low) * stride + lane] = isMasked ? .nan : T(scores[key * lanes + lane])
            }
          }
          func bounds(_ bound: (Range<Int>) -> Int) -> [T]? {
            hasIntervals ? (0..<lanes).map { T(bound(interval($0).clamped(to: keys)) - low) } : nil
          }
          let newMaximum = (0..<lanes).map { lane in
            keys.indices.reduce(maximum[lane]) { max($0, tile[($1 - low) * stride + lane]) }
          }
          kernels.softmaxLanes(
            vectorCount: vectorCount, keyCount: keys.count, stride: stride, scores: &tile, begin: bounds(\.lowerBound),
            end: bounds(\.upperBound), maximum: &maximum, newMaximum: knowsMaximum ? newMaximum : nil, sum: &sum,
            rescale: &rescale)
          for lane in 0..<lanes {
            weights[lane] = weights[lane].map { $0 * rescale[lane] }
            weights[lane] += (0..<keys.count).map { tile[$0 * stride + lane] }
          }
          #expect((0..<keys.count).allSatisfy { tile[$0 * stride + lanes].isNaN }, "gaps must stay untouched")
        }
        for lane in 0..<lanes {
          let column = (0..<keyCount).map { exact($0, lane) }
          let most = column.max()!
          let expected = column.map { most == -.infinity ? 0 : exp($0 - most) }
          #expect(mismatch(weights[lane], expected, tolerance: tolerance, "lane \(lane) tile \(tileLength)") == nil)
          let total = expected.reduce(0, +)
          #expect(abs(Double(sum[lane]) - total) <= tolerance * max(total, 1) * 2)
          #expect(Double(maximum[lane]) == most)
        }
      }
    }
  }

  @Test("a lane that attends to NaN has sum NaN, whatever came before", arguments: InstructionSet.present)
  func nanLanes(isa: InstructionSet) {
    let kernels = Kernels<Float>(isa)!
    let lanes = kernels.laneCount
    for first in [Float(1), .nan, -.infinity] {
      var maximum = [Float](repeating: -.infinity, count: lanes)
      var sum = [Float](repeating: 0, count: lanes)
      var rescale = sum
      for value in [first, .nan, 3] {
        var scores = [Float](repeating: 1, count: lanes)
        scores[lanes - 1] = value
        kernels.softmaxLanes(
          vectorCount: 1, keyCount: 1, stride: lanes, scores: &scores, begin: nil, end: nil,
          maximum: &maximum, newMaximum: nil, sum: &sum, rescale: &rescale)
        #expect(scores[lanes - 1].isNaN == value.isNaN)
      }
      #expect(sum[lanes - 1].isNaN)
      #expect(sum.dropLast().allSatisfy { $0 == 3 })
    }
  }
}
