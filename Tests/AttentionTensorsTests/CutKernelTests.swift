import AttentionTensors
import AttentionTestSupport
import Testing

/// An edge of a mask may cut the blocks of a pass. These tests check that results with and without a cut are
/// exactly equal.
@Suite("Products and softmaxes that are cut into parts give exactly the same results as in one piece")
struct CutKernelTests {
  private func forEachKernels(
    _ isa: InstructionSet, _ float: (Kernels<Float>) -> Void, _ double: (Kernels<Double>) -> Void
  ) {
    float(Kernels<Float>(isa)!)
    double(Kernels<Double>(isa)!)
  }

  private func expectSame<T: BinaryFloatingPoint>(_ a: [T], _ b: [T], _ what: @autoclosure () -> String) {
    let places = a.indices.filter { a[$0] != b[$0] && !(a[$0].isNaN && b[$0].isNaN) }
    #expect(places.isEmpty, "\(what()): \(places.count) of \(a.count) differ")
  }

  @Test("a product cut along its depth", arguments: InstructionSet.present, [1, 4, 6, 8, 9, 64, 67])
  func depth(isa: InstructionSet, rowCount: Int) {
    forEachKernels(isa, { checkDepth($0, rowCount) }, { checkDepth($0, rowCount) })
  }

  private func checkDepth<T: RealTensorElement & BinaryFloatingPoint>(_ kernels: Kernels<T>, _ rowCount: Int) {
    let depth = 75
    for vectorCount in 1...kernels.productVectorCount {
      for isTransposed in [false, true] {
        let seed = UInt64(rowCount * 10 + vectorCount)
        var generator = TestGenerator(seed: seed)
        let lanes = vectorCount * kernels.laneCount
        let a = generator.numbers(rowCount * depth).map { T($0) }
        let b = generator.numbers(depth * lanes).map { T($0) }
        let before = generator.numbers(rowCount * lanes).map { T($0) }
        let rescale = generator.numbers(lanes).map { T($0) }
        func multiply(_ steps: Range<Int>, into c: inout [T], rescale: [T]?, continues: Bool) {
          a.withUnsafeBufferPointer { a in
            b.withUnsafeBufferPointer { b in
              let matrix = StridedMatrix(
                base: a.baseAddress!, rowCount: rowCount, columnCount: depth, rowStride: isTransposed ? 1 : depth,
                columnStride: isTransposed ? rowCount : 1)
              kernels.multiply(
                vectorCount: vectorCount, matrix.columns(steps), b.baseAddress! + steps.lowerBound * lanes,
                bStride: lanes, into: &c, stride: lanes, rescale: rescale, continues: continues)
            }
          }
        }
        var whole = before
        multiply(0..<depth, into: &whole, rescale: rescale, continues: false)
        for cuts in [[0, 1, depth], [0, 30, 31, 64, depth], [0, 37, 37, depth]] {
          var sum = [T](repeating: .nan, count: rowCount * lanes)
          for (first, end) in zip(cuts, cuts.dropFirst()) where first < end {
            multiply(first..<end, into: &sum, rescale: nil, continues: first > 0)
          }
          var result = before
          kernels.addRescaled(
            vectorCount: vectorCount, rowCount: rowCount, into: &result, stride: lanes, rescale: rescale, sum,
            xStride: lanes)
          expectSame(result, whole, "cut at \(cuts), seed \(seed)")
        }
      }
    }
  }

  @Test(
    "values summed from any key on, if the keys before it have weight 0", arguments: InstructionSet.present,
    [1, 2, 3, 7])
  func firstIndex(isa: InstructionSet, rowCount: Int) {
    forEachKernels(isa, { checkFirstIndex($0, rowCount) }, { checkFirstIndex($0, rowCount) })
  }

  private func checkFirstIndex<T: RealTensorElement & BinaryFloatingPoint>(_ kernels: Kernels<T>, _ rowCount: Int) {
    let (keyCount, width) = (110, 37)
    for first in [0, 1, 31, 32, 33, 70] {
      let seed = UInt64(first * 10 + rowCount)
      var generator = TestGenerator(seed: seed)
      var weights = generator.numbers(rowCount * keyCount).map { T($0) }
      for row in 0..<rowCount {
        for key in 0..<first { weights[row * keyCount + key] = 0 }
      }
      let values = generator.numbers(keyCount * width).map { T($0) }
      let before = generator.numbers(rowCount * width).map { T($0) }
      func accumulate(from key: Int) -> [T] {
        var result = before
        weights.withUnsafeBufferPointer { weights in
          values.withUnsafeBufferPointer { values in
            kernels.accumulateRows(
              weights: StridedMatrix(
                base: weights.baseAddress! + key, rowCount: rowCount, columnCount: keyCount - key, rowStride: keyCount,
                columnStride: 1),
              value: StoredMatrix(
                StridedMatrix(
                  base: values.baseAddress! + key * width, rowCount: keyCount - key, columnCount: width,
                  rowStride: width, columnStride: 1)), firstIndex: key, into: &result, stride: width)
          }
        }
        return result
      }
      expectSame(accumulate(from: first), accumulate(from: 0), "from key \(first), seed \(seed)")
    }
  }

  @Test("a softmax that knows the maximum of the keys that all lanes attend to", arguments: InstructionSet.present)
  func commonMaximum(isa: InstructionSet) {
    forEachKernels(isa, { checkCommonMaximum($0) }, { checkCommonMaximum($0) })
  }

  private func checkCommonMaximum<T: RealTensorElement & BinaryFloatingPoint>(_ kernels: Kernels<T>) {
    let keyCount = 50
    for vectorCount in 1...kernels.panelVectorCount {
      for common in [0..<0, 20..<40, 0..<30, 30..<50, 25..<26, 0..<50] {
        let seed = UInt64(common.lowerBound * 100 + common.upperBound + vectorCount)
        var generator = TestGenerator(seed: seed)
        let lanes = vectorCount * kernels.laneCount
        let scores = generator.numbers(keyCount * lanes, bound: 10).map { T($0) }
        let begin = (0..<lanes).map { T(common.isEmpty ? $0 % 9 : common.lowerBound * ($0 % 3) / 2) }.map {
          common.isEmpty ? $0 : min($0, T(common.lowerBound))
        }
        let end = (0..<lanes).map {
          common.isEmpty ? T(9 + $0 % 40) : T(common.upperBound + ($0 % 7) * (keyCount - common.upperBound) / 6)
        }
        let before = generator.numbers(lanes).map { T($0) }
        func weights(isKnown: Bool) -> [T] {
          var (weights, maximum) = (scores, before)
          var sum = [T](repeating: 1, count: lanes)
          var rescale = [T](repeating: .nan, count: lanes)
          let known = (0..<lanes).map { lane in common.reduce(before[lane]) { max($0, scores[$1 * lanes + lane]) } }
          kernels.softmaxLanes(
            vectorCount: vectorCount, keyCount: keyCount, stride: lanes, scores: &weights, begin: begin, end: end,
            common: isKnown ? common : 0..<0, maximum: &maximum, newMaximum: isKnown ? known : nil, sum: &sum,
            rescale: &rescale)
          return weights + maximum + sum + rescale
        }
        expectSame(weights(isKnown: true), weights(isKnown: false), "common keys \(common), seed \(seed)")
      }
    }
  }
}
