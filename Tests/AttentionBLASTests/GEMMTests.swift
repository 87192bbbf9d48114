import AttentionBLAS
import AttentionProblems
import AttentionTensors
import AttentionTestSupport
import Foundation
import Testing

@Suite("GEMM")
struct GEMMTests {
  /// A matrix of random numbers in memory, with gaps between its rows. The gaps hold NaN.
  private struct Stored<Element: BLASElement> {
    var elements: [Element]
    let rows: Int
    let columns: Int
    let stride: Int
    let isTransposed: Bool

    init(_ rows: Int, _ columns: Int, gap: Int, isTransposed: Bool, _ generator: inout TestGenerator) {
      (self.rows, self.columns, self.isTransposed) = (rows, columns, isTransposed)
      let (storedRows, storedColumns) = isTransposed ? (columns, rows) : (rows, columns)
      stride = max(1, storedColumns + gap)
      elements = [Element](repeating: .nan, count: storedRows * stride)
      for i in 0..<storedRows {
        for j in 0..<storedColumns { elements[i * stride + j] = Element(generator.numbers(1)[0]) }
      }
    }

    subscript(i: Int, j: Int) -> Double { Double(isTransposed ? elements[j * stride + i] : elements[i * stride + j]) }

    func withMatrix<R>(_ body: (UnsafeMatrix<Element>) throws -> R) throws -> R {
      try elements.withUnsafeBufferPointer {
        try body(
          UnsafeMatrix($0, rowCount: rows, columnCount: columns, leadingDimension: stride, isTransposed: isTransposed))
      }
    }
  }

  static let extents = [0, 1, 2, 7, 16, 33]

  @Test("agrees with the reference for transposes, strides and zero sizes", arguments: extents, extents)
  func agrees(m: Int, n: Int) throws {
    for k in [0, 1, 5, 17, 64] {
      for variant in 0..<16 {
        try check(m, n, k, variant, Float.self)
        try check(m, n, k, variant, Double.self)
      }
    }
  }

  @Test(
    "agrees with the reference for several panels, several parts of the depth, and edges",
    arguments: [(40, 100, 600), (5, 70, 1100), (70, 200, 33), (3, 9, 520), (2, 700, 33)])
  func large(m: Int, n: Int, k: Int) throws {
    for variant in 0..<16 {
      try check(m, n, k, variant, Float.self)
      try check(m, n, k, variant, Double.self)
    }
  }

  private func check<Element: BLASElement>(_ m: Int, _ n: Int, _ k: Int, _ variant: Int, _: Element.Type) throws {
    for context in AttentionContext.everyPath { try check(m, n, k, variant, Element.self, context) }
  }

  private func check<Element: BLASElement>(
    _ m: Int, _ n: Int, _ k: Int, _ variant: Int, _: Element.Type, _ context: AttentionContext
  ) throws {
    let seed = UInt64(((m * 100 + n) * 100 + k) * 16 + variant)
    var generator = TestGenerator(seed: seed)
    let gap = variant & 4 == 0 ? 0 : 3
    let a = Stored<Element>(m, k, gap: gap, isTransposed: variant & 1 != 0, &generator)
    let b = Stored<Element>(k, n, gap: gap, isTransposed: variant & 2 != 0, &generator)
    let mode = variant & 8 == 0 ? ResultMode.replacing : .accumulating
    // Float cannot represent −0.7 exactly, so the test fails if a Double product rounds its α to Float.
    let alpha: Element = variant % 3 == 0 ? 1 : -0.7
    // A result that is replaced starts as NaN. If the product reads it, the NaN reaches the new result.
    var c = [Element](repeating: .nan, count: m * (n + gap))
    let before = generator.numbers(m * n)
    if mode == .accumulating {
      for i in 0..<m { for j in 0..<n { c[i * (n + gap) + j] = Element(before[i * n + j]) } }
    }
    try a.withMatrix { a in
      try b.withMatrix { b in
        try c.withUnsafeMutableBufferPointer { c in
          try gemm(
            alpha: alpha, a, b, mode,
            into: UnsafeMutableMatrix(c, rowCount: m, columnCount: n, leadingDimension: max(1, n + gap)),
            context: context)
        }
      }
    }
    let expected = referenceProduct(
      m: m, n: n, k: k, alpha: Double(alpha), { a[$0, $1] }, { b[$0, $1] }, adding: mode == .accumulating ? before : nil
    )
    let got = (0..<m).flatMap { i in (0..<n).map { c[i * (n + gap) + $0] } }
    // Allows for k roundings of products of at most 1.
    let tolerance = Double(k + 2) * Double(Element.ulpOfOne)
    #expect(mismatch(got, expected, tolerance: tolerance, "seed \(seed) \(Element.self) \(context.path)") == nil)
    let gaps = (0..<m).flatMap { i in (n..<n + gap).map { c[i * (n + gap) + $0] } }
    #expect(gaps.allSatisfy { $0.isNaN }, "gaps between rows must stay untouched, seed \(seed)")
  }

  @Test("α = 0 reads neither operand")
  func alphaZero() throws {
    let nan = [Float](repeating: .nan, count: 9)
    var c: [Float] = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    for (mode, expected) in [(ResultMode.accumulating, c), (.replacing, [Float](repeating: 0, count: 9))] {
      try nan.withUnsafeBufferPointer { nan in
        try c.withUnsafeMutableBufferPointer { c in
          let a = try UnsafeMatrix(nan, rowCount: 3, columnCount: 3)
          try gemm(alpha: 0, a, a, mode, into: UnsafeMutableMatrix(c, rowCount: 3, columnCount: 3))
        }
      }
      #expect(c == expected)
    }
  }

  @Test("large products have the same bits on one thread and on many", arguments: [(700, 900, 300), (64, 5000, 300)])
  func bitsDoNotDependOnThreads(m: Int, n: Int, k: Int) throws {
    let a = try Tensor<Float>(uniform: -1..<1, shape: [m, k], seed: 1)
    let b = try Tensor<Float>(uniform: -1..<1, shape: [k, n], seed: 2)
    let exact = product(a, b)
    for path in AttentionContext.everyPath { try checkBits(a, b, exact, path) }
    let cut = ProductCut(rowCount: m, columnCount: n, depth: k, productCount: 1)
    #expect(cut.taskCount > 1 && cut.workerCount(threadCount: 2) == 2, "two threads must share the product")
  }

  /// The product [m, k] · [k, n], computed in Double row by row.
  private func product(_ a: Tensor<Float>, _ b: Tensor<Float>) -> [Double] {
    let (m, n, k) = (a.shape[0], b.shape[1], a.shape[1])
    let (first, second) = (a.array, b.array.map(Double.init))
    var result = [Double](repeating: 0, count: m * n)
    result.withUnsafeMutableBufferPointer { result in
      second.withUnsafeBufferPointer { second in
        for i in 0..<m {
          for p in 0..<k {
            let x = Double(first[i * k + p])
            for j in 0..<n { result[i * n + j] += x * second[p * n + j] }
          }
        }
      }
    }
    return result
  }

  private func checkBits(
    _ a: Tensor<Float>, _ b: Tensor<Float>, _ exact: [Double], _ path: AttentionContext
  ) throws {
    func product(_ threadCount: Int, _ executor: any ParallelExecutor) throws -> Tensor<Float> {
      var context = path
      context.threadCount = threadCount
      context.executor = executor
      return try matmul(a, b, context: context)
    }
    let one = try product(1, path.executor)
    for count in [2, 3, 7, 8] {
      #expect(sameBits(one.array, try product(count, path.executor).array), "\(path.path)")
    }
    #expect(sameBits(one.array, try product(2, DispatchExecutor()).array), "\(path.path)")
    // Allows for k roundings of sums of about √k.
    #expect(mismatch(one.array, exact, tolerance: 5e-5, path.path) == nil)
  }

  @Test(
    "a cut covers every element of every product once",
    arguments: [
      (1, 1, 1, 1), (700, 900, 300, 1), (2048, 2048, 2048, 1), (64, 5000, 300, 3), (5000, 64, 300, 2),
      (16, 16, 16, 1000),
      (128, 128, 64, 96), (257, 513, 4000, 2), (1_000_000, 3, 5, 1),
    ], [1, 6, 48])
  func cutCovers(shape: (m: Int, n: Int, k: Int, count: Int), panelWidth: Int) {
    let (m, n, k, count) = shape
    let cut = ProductCut(rowCount: m, columnCount: n, depth: k, productCount: count, panelWidth: panelWidth)
    var areas = [Int](repeating: 0, count: count)
    var blocks: [[(rows: Range<Int>, columns: Range<Int>)]] = Array(repeating: [], count: count)
    for piece in 0..<cut.taskCount {
      for block in cut.blocks(ofTask: piece) {
        #expect(!blocks[block.product].contains { $0.rows.overlaps(block.rows) && $0.columns.overlaps(block.columns) })
        blocks[block.product].append((block.rows, block.columns))
        areas[block.product] += block.rows.count * block.columns.count
        #expect((0...m).contains(block.rows.upperBound) && (0...n).contains(block.columns.upperBound))
      }
    }
    #expect(areas.allSatisfy { $0 == m * n })
  }

  @Test("operands that BLAS cannot read are packed, whatever their size")
  func packing() throws {
    let a = try Tensor<Float>(uniform: -1..<1, shape: [300, 400, 2], seed: 1).select(1, axis: 2)
    let b = try Tensor<Float>(uniform: -1..<1, shape: [400, 500, 2], seed: 2).select(0, axis: 2)
    for context in AttentionContext.everyPath {
      let strided = try matmul(a, b, context: context)
      let plain = try matmul(a.copied(), b.copied(), context: context)
      #expect(mismatch(strided.array, plain.array.map(Double.init), tolerance: 1e-4) == nil)
    }
  }

  /// Sizes around the limits of what is packed at once: 384 rows and a depth of 512.
  @Test(
    "a transposed first operand whose columns lie far apart gives the bits of its copy",
    arguments: [(384, 512, 65), (385, 513, 130), (800, 1100, 70), (1000, 33, 300)])
  func farColumns(m: Int, k: Int, n: Int) throws {
    let a = try Tensor<Float>(uniform: -1..<1, shape: [k, m], seed: 5).transposed()
    let b = try Tensor<Float>(uniform: -1..<1, shape: [k, n], seed: 6)
    let exact = product(a, b)
    for context in AttentionContext.everyPath {
      for mode in [ResultMode.replacing, .accumulating] {
        func result(_ a: Tensor<Float>) throws -> [Float] {
          var c = try Tensor<Float>(repeating: mode == .replacing ? .nan : 0, shape: [m, n])
          try c.withMutableView { try matmul(a, b, mode, into: &$0, context: context) }
          return c.array
        }
        let far = try result(a)
        #expect(mismatch(far, exact, tolerance: 1e-4, context.path) == nil)
        if context.resolvedAlgorithm == .packed { #expect(try far == result(a.copied()), "\(context.path)") }
      }
    }
  }

  @Test("concurrent callers with different transposes get right results")
  func concurrentCallers() throws {
    let a = try Tensor<Float>(uniform: -1..<1, shape: [200, 200], seed: 3)
    let b = try Tensor<Float>(uniform: -1..<1, shape: [200, 200], seed: 4)
    let views = [(a, b), (try a.transposed(), b), (a, try b.transposed()), (try a.transposed(), try b.transposed())]
    let expected = try views.map { try matmul($0, $1).array }
    let wrong = UncheckedSendable(UnsafeMutablePointer<Int>.allocate(capacity: 64))
    wrong.value.initialize(repeating: 0, count: 64)
    defer { wrong.value.deallocate() }
    DispatchQueue.concurrentPerform(iterations: 64) { i in
      let (a, b) = views[i % 4]
      if let result = try? matmul(a, b).array, sameBits(result, expected[i % 4]) { return }
      wrong.value[i] = 1
    }
    #expect((0..<64).allSatisfy { wrong.value[$0] == 0 })
  }
}

@Suite("Batched GEMM")
struct BatchedGEMMTests {
  @Test("products at equal strides, where a stride of 0 broadcasts", arguments: [0, 1, 3, 40])
  func strided(count: Int) throws {
    let (m, n, k) = (5, 6, 7)
    var generator = TestGenerator(seed: UInt64(count))
    let a = generator.numbers(m * k).map { Float($0) }
    let b = generator.numbers(max(1, count) * k * n).map { Float($0) }
    var c = [Float](repeating: .nan, count: max(1, count) * (m * n + 2))
    try a.withUnsafeBufferPointer { a in
      try b.withUnsafeBufferPointer { b in
        try c.withUnsafeMutableBufferPointer { c in
          try batchedGEMM(
            UnsafeMatrix(a, rowCount: m, columnCount: k), stride: 0,
            UnsafeMatrix(b, rowCount: k, columnCount: n), stride: k * n,
            into: UnsafeMutableMatrix(c, rowCount: m, columnCount: n), stride: m * n + 2, count: count)
        }
      }
    }
    for p in 0..<count {
      let expected = referenceProduct(
        m: m, n: n, k: k, alpha: 1, { Double(a[$0 * k + $1]) }, { Double(b[p * k * n + $0 * n + $1]) }, adding: nil)
      let got = Array(c[p * (m * n + 2)..<p * (m * n + 2) + m * n])
      #expect(mismatch(got, expected, tolerance: 1e-6, "product \(p)") == nil)
      #expect(c[p * (m * n + 2) + m * n].isNaN, "the gap after product \(p) must stay untouched")
    }
  }

  @Test("products at equal strides, with both operands transposed and read up to the ends of their memory")
  func stridedTransposed() throws {
    let (m, n, k, count) = (5, 6, 7, 3)
    var generator = TestGenerator(seed: 8)
    let a = generator.numbers(count * m * k)
    let b = generator.numbers(count * k * n)
    var c = [Double](repeating: .nan, count: count * m * n)
    try a.withUnsafeBufferPointer { a in
      try b.withUnsafeBufferPointer { b in
        try c.withUnsafeMutableBufferPointer { c in
          try batchedGEMM(
            UnsafeMatrix(a, rowCount: m, columnCount: k, isTransposed: true), stride: k * m,
            UnsafeMatrix(b, rowCount: k, columnCount: n, isTransposed: true), stride: n * k,
            into: UnsafeMutableMatrix(c, rowCount: m, columnCount: n), stride: m * n, count: count)
        }
      }
    }
    for p in 0..<count {
      let expected = referenceProduct(
        m: m, n: n, k: k, alpha: 1, { a[p * m * k + $1 * m + $0] }, { b[p * k * n + $1 * k + $0] }, adding: nil)
      #expect(mismatch(Array(c[p * m * n..<(p + 1) * m * n]), expected, tolerance: 1e-14, "product \(p)") == nil)
    }
  }

  @Test("products in a list, with different shapes")
  func list() throws {
    let shapes = [(2, 3, 4), (2, 3, 4), (5, 1, 9), (0, 3, 2), (4, 4, 0)]
    let a = try shapes.enumerated().map { try Tensor<Double>(uniform: -1..<1, shape: [$1.0, $1.2], seed: UInt64($0)) }
    let b = try shapes.enumerated().map {
      try Tensor<Double>(uniform: -1..<1, shape: [$1.2, $1.1], seed: UInt64($0 + 50))
    }
    let memory = UnsafeMutableBufferPointer<Double>.allocate(capacity: 100)
    memory.initialize(repeating: .nan)
    defer { memory.deallocate() }
    func matrix(_ x: Tensor<Double>) throws -> UnsafeMatrix<Double> {
      try UnsafeMatrix(
        UnsafeBufferPointer(start: x.base, count: x.count), rowCount: x.shape[0], columnCount: x.shape[1])
    }
    var results: [UnsafeMutableMatrix<Double>] = []
    var start = 0
    for (m, n, _) in shapes {
      results.append(
        try UnsafeMutableMatrix(
          UnsafeMutableBufferPointer(rebasing: memory[start..<start + m * n]), rowCount: m, columnCount: n))
      start += m * n
    }
    try batchedGEMM(a.map(matrix), b.map(matrix), into: results)
    start = 0
    for (i, (m, n, k)) in shapes.enumerated() {
      let expected = referenceProduct(m: m, n: n, k: k, alpha: 1, { a[i][$0, $1] }, { b[i][$0, $1] }, adding: nil)
      #expect(mismatch(Array(memory[start..<start + m * n]), expected, tolerance: 1e-14, "product \(i)") == nil)
      start += m * n
    }
    #expect(throws: AttentionError.self) { try batchedGEMM(a.map(matrix), [matrix(b[0])], into: results) }
  }

  @Test("wrong extents throw errors that name them")
  func wrongExtents() throws {
    let x = [Float](repeating: 1, count: 12)
    // Two results fit, so that only an operand can reach past its buffer.
    var y = [Float](repeating: 1, count: 18)
    try x.withUnsafeBufferPointer { x in
      try y.withUnsafeMutableBufferPointer { y in
        let a = try UnsafeMatrix(x, rowCount: 3, columnCount: 4)
        let c = try UnsafeMutableMatrix(y, rowCount: 3, columnCount: 3)
        let error = #expect(throws: AttentionError.self) { try gemm(a, a, into: c) }
        #expect(error?.description == "gemm: [m, k] · [k, n] into [m, n] expected; got [3, 4] · [3, 4] into [3, 3]")
        #expect(throws: AttentionError.self) { try UnsafeMatrix(x, rowCount: 4, columnCount: 4) }
        #expect(throws: AttentionError.self) { try UnsafeMatrix(x, rowCount: 3, columnCount: 4, leadingDimension: 3) }
        #expect(throws: AttentionError.self) { try UnsafeMatrix(x, rowCount: -1, columnCount: 4) }
        #expect(throws: AttentionError.self) { try UnsafeMatrix(x, rowCount: 1, columnCount: 1 << 33) }
        let b = try UnsafeMatrix(x, rowCount: 4, columnCount: 3)
        for (rows, columns) in [(2, 3), (3, 2), (4, 3)] {
          let wrong = try UnsafeMutableMatrix(y, rowCount: rows, columnCount: columns)
          let error = #expect(throws: AttentionError.self) { try gemm(a, b, into: wrong) }
          #expect(error?.description.hasSuffix("got [3, 4] · [4, 3] into [\(rows), \(columns)]") == true)
        }
        // The stored rows of this transposed operand fill its buffer, so a second operand would reach past the end.
        let turned = try UnsafeMatrix(x, rowCount: 3, columnCount: 4, isTransposed: true)
        #expect(throws: AttentionError.self) {
          try batchedGEMM(turned, stride: 1, b, stride: 0, into: c, stride: 9, count: 2)
        }
        // First, one result would overwrite the other. Then, an operand would reach past its buffer. Last, the offset
        // of the third result overflows.
        #expect(throws: AttentionError.self) {
          try batchedGEMM(a, stride: 0, b, stride: 0, into: c, stride: 0, count: 2)
        }
        #expect(throws: AttentionError.self) {
          try batchedGEMM(a, stride: 1, b, stride: 0, into: c, stride: 9, count: 2)
        }
        #expect(throws: AttentionError.self) {
          try batchedGEMM(a, stride: 0, b, stride: 0, into: c, stride: .max, count: 3)
        }
      }
    }
  }
}

@Suite("matmul")
struct MatmulTests {
  @Test("broadcasts batch axes and reads any strides")
  func broadcasts() throws {
    var seed: UInt64 = 0
    func random(_ shape: [Int]) throws -> Tensor<Double> {
      seed += 1
      return try Tensor(uniform: -1..<1, shape: shape, seed: seed)
    }
    let pairs: [(Tensor<Double>, Tensor<Double>)] = [
      (try random([3, 4]), try random([4, 5])),
      (try random([2, 3, 4]), try random([4, 5])),
      (try random([2, 1, 3, 4]), try random([6, 4, 5])),
      (try random([3, 4]), try random([2, 4, 5])),
      (try random([2, 4, 3]).transposed(), try random([2, 5, 4]).transposed()),
      // Neither stride of the last two axes is 1.
      (try random([3, 4, 2]).select(1, axis: 2), try random([4, 5, 3]).select(2, axis: 2)),
      (try random([1, 4]).broadcast(to: [3, 4]), try random([4, 1]).broadcast(to: [4, 5])),
      (try random([4, 2, 3]).permuted([1, 2, 0]), try random([2, 4, 5])),
      (try random([2, 0, 4]), try random([4, 5])),
      (try random([2, 3, 0]), try random([0, 5])),
      (try random([0, 3, 4]), try random([4, 5])),
      (try random([5, 1, 4]), try random([4, 5])),
    ]
    for (a, b) in pairs {
      for context in AttentionContext.everyPath { try check(a, b, context) }
    }

    func check(_ a: Tensor<Double>, _ b: Tensor<Double>, _ context: AttentionContext) throws {
      let c = try matmul(a, b, alpha: 2, context: context)
      let batch = Array(c.shape.dropLast(2))
      let (m, n, k) = (c.shape[c.rank - 2], c.shape[c.rank - 1], a.shape[a.rank - 1])
      let wideA = try a.broadcast(to: batch + [m, k]).reshaped([batch.reduce(1, *), m, k])
      let wideB = try b.broadcast(to: batch + [k, n]).reshaped([batch.reduce(1, *), k, n])
      var expected: [Double] = []
      for p in 0..<batch.reduce(1, *) {
        expected += referenceProduct(
          m: m, n: n, k: k, alpha: 2, { wideA[p, $0, $1] }, { wideB[p, $0, $1] }, adding: nil)
      }
      #expect(mismatch(c.array, expected, tolerance: 1e-14, "\(a.shape) \(a.strides) · \(b.shape) \(b.strides)") == nil)
    }
  }

  @Test("writes into a part of a tensor and leaves the rest unchanged")
  func intoPart() throws {
    let a = try Tensor<Float>(uniform: -1..<1, shape: [2, 3, 4], seed: 1)
    let b = try Tensor<Float>(uniform: -1..<1, shape: [4, 5], seed: 2)
    var c = try Tensor<Float>(repeating: .nan, shape: [2, 4, 8])
    try c.withMutableView { view in
      try view.withSlice(0..<3, axis: 1) { part in
        try part.withSlice(2..<7, axis: 2) { try matmul(a, b, .replacing, into: &$0) }
      }
    }
    let expected = try matmul(a, b).array
    #expect(sameBits(try c.slice(0..<3, axis: 1).slice(2..<7, axis: 2).array, expected))
    #expect(c.array.filter { !$0.isNaN }.count == expected.count)
  }

  @Test("shapes that disagree throw")
  func wrongShapes() throws {
    let x = try Tensor<Float>(repeating: 1, shape: [2, 3])
    let error = #expect(throws: AttentionError.self) { try matmul(x, x) }
    #expect(error?.description == "matmul: […, m, k] · […, k, n] expected; got [2, 3] · [2, 3]")
    let y = try Tensor<Float>(repeating: 1, shape: [2, 2, 3])
    let z = try Tensor<Float>(repeating: 1, shape: [3, 3, 2])
    #expect(throws: AttentionError.self) { try matmul(y, z) }
    #expect(throws: AttentionError.self) { try matmul(x, try Tensor<Float>(repeating: 1, shape: [3])) }
  }
}

@Suite("OpenBLAS")
struct OpenBLASTests {
  @Test("uses one thread per call and reports its state")
  func state() throws {
    _ = try matmul([[1]] as Tensor<Float>, [[2]] as Tensor<Float>)
    OpenBLAS.withOneThread { #expect(OpenBLAS.threadCount == 1) }
    #expect(!OpenBLAS.core.isEmpty)
    #expect(OpenBLAS.configuration.contains("OpenBLAS"))
    #expect(OpenBLAS.version.split(separator: ".").count >= 2)
    #expect(!OpenBLAS.coreDecision.isEmpty)
  }
}
