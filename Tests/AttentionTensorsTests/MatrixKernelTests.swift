import AttentionTensors
import AttentionTestSupport
import Testing

@Suite("Products of BFloat16 parts")
struct MatrixKernelTests {
  private static func number(ofPart part: UInt16) -> Float { Float(bitPattern: UInt32(part) << 16) }

  /// Random numbers of a few sizes, and 0.
  private func numbers(_ count: Int, seed: UInt64) -> [Float] {
    var generator = TestGenerator(seed: seed)
    return generator.numbers(count, bound: 1).enumerated().map { index, x in
      index % 7 == 3 ? 0 : Float(x * [1, 1e-3, 1e4, 1e10, 1e-20][index % 5])
    }
  }

  // MARK: Parts

  /// Splits rows, and returns the sum of the first `partCount` parts of each element, with the zeros around it.
  private func split(
    _ x: [Float], rowCount: Int, columnCount: Int, partCount: Int, before: Int, _ kernels: Kernels<Float>
  ) -> (sums: [Double], isWithin: Bool) {
    let padded = (before + columnCount + 31) / 32 * 32
    let stride = padded + 5
    let partStride = rowCount * stride
    let parts = [UInt16](repeating: 0xffff, count: partCount * partStride)
    let isWithin = x.withUnsafeBufferPointer { x in
      parts.withUnsafeBufferPointer { parts in
        kernels.splitRows(
          StridedMatrix(
            base: x.baseAddress!, rowCount: rowCount, columnCount: columnCount, rowStride: columnCount, columnStride: 1),
          before: before, paddedCount: padded, greatest: 0x1p64,
          into: RowParts(
            base: parts.baseAddress!, partCount: partCount, rowCount: rowCount, rowStride: stride,
            partStride: partStride)
        )
      }
    }
    let sums = (0..<rowCount).flatMap { row in
      (0..<padded).map { column in
        (0..<partCount).reduce(0.0) { $0 + Double(Self.number(ofPart: parts[$1 * partStride + row * stride + column])) }
      }
    }
    #expect((0..<rowCount * partCount).allSatisfy { parts[$0 * stride + padded] == 0xffff }, "nothing after a row")
    return (sums, isWithin)
  }

  @Test(
    "one part has 8 bits of a number, two parts 16, three parts all", arguments: InstructionSet.present,
    [(1, 1, 0), (3, 33, 31), (5, 64, 1), (2, 47, 0)])
  func parts(isa: InstructionSet, sizes: (rows: Int, columns: Int, before: Int)) {
    let kernels = Kernels<Float>(isa)!
    let (rows, columns, before) = sizes
    let x = numbers(rows * columns, seed: 1)
    for partCount in 1...3 {
      let (sums, isWithin) = split(
        x, rowCount: rows, columnCount: columns, partCount: partCount, before: before, kernels)
      #expect(isWithin)
      let padded = sums.count / rows
      for row in 0..<rows {
        for column in 0..<padded {
          let place = column - before
          let expected = (0..<columns).contains(place) ? Double(x[row * columns + place]) : 0
          let error = abs(sums[row * padded + column] - expected)
          #expect(error <= (partCount == 3 ? 0 : abs(expected) * (partCount == 1 ? 0x1p-8 : 0x1p-16)))
        }
      }
    }
    // One part is exact for BFloat16, and two parts for Float16.
    let bfloats = x.map { Float(BFloat16(_nearest: Double($0))._double) }
    #expect(
      split(bfloats, rowCount: rows, columnCount: columns, partCount: 1, before: 0, kernels).sums.filter { $0 != 0 }
        == bfloats.map(Double.init).filter { $0 != 0 })
    #if !(os(macOS) && arch(x86_64))
      let halves = x.map { Float(Float16($0)) }.map { $0.isFinite ? $0 : 65504 }
      #expect(
        split(halves, rowCount: rows, columnCount: columns, partCount: 2, before: 0, kernels).sums.filter { $0 != 0 }
          == halves.map(Double.init).filter { $0 != 0 })
    #endif
  }

  @Test("numbers that are too large, infinite or NaN are told, and a NaN stays one", arguments: InstructionSet.present)
  func outside(isa: InstructionSet) {
    let kernels = Kernels<Float>(isa)!
    let quiet = Float(bitPattern: 0x7fff_ffff)
    for (bad, isWithin) in [(Float.nan, false), (.infinity, false), (-0x1.1p64, false), (quiet, false), (0x1p64, true)]
    {
      for place in [0, 5, 36] {
        var x = numbers(37, seed: 2)
        x[place] = bad
        let result = split(x, rowCount: 1, columnCount: 37, partCount: 2, before: 0, kernels)
        #expect(result.isWithin == isWithin, "\(bad)")
        #expect(!bad.isNaN || result.sums[place].isNaN)
      }
    }
  }

  // MARK: Products

  private struct Product {
    var rows: Int
    var depth: Int
    var vectors: Int
    var aParts: Int
    var bParts: Int
    var limit: Int
  }

  /// The numbers of a product, split into parts.
  private struct Operands {
    let product: Product
    let lanes: Int
    /// The number of steps, filled up.
    let padded: Int
    /// a: `[rows, depth]`; b: `[depth, lanes]`.
    let a: [Float]
    let b: [Float]
    private(set) var aParts: [UInt16]
    private(set) var bParts: [UInt32]

    init(_ product: Product, a: [Float], b: [Float], _ kernels: Kernels<Float>) {
      self.product = product
      self.a = a
      self.b = b
      lanes = product.vectors * kernels.laneCount
      padded = (product.depth + 31) / 32 * 32
      aParts = [UInt16](repeating: 0, count: product.aParts * product.rows * padded)
      bParts = [UInt32](repeating: 0, count: product.bParts * padded / 2 * lanes)
      a.withUnsafeBufferPointer {
        _ = kernels.splitRows(
          StridedMatrix(
            base: $0.baseAddress!, rowCount: product.rows, columnCount: product.depth, rowStride: product.depth,
            columnStride: 1), paddedCount: padded, into: rowParts(of: aParts))
      }
      kernels.splitLanes(
        vectorCount: product.vectors, rowCount: product.depth, b, stride: lanes, paddedCount: padded,
        into: laneParts(of: bParts))
    }

    func rowParts(of parts: UnsafePointer<UInt16>) -> RowParts {
      RowParts(
        base: parts, partCount: product.aParts, rowCount: product.rows, rowStride: padded,
        partStride: product.rows * padded)
    }

    func laneParts(of parts: UnsafePointer<UInt32>) -> LaneParts {
      LaneParts(base: parts, partCount: product.bParts, partStride: padded / 2 * lanes)
    }

    func multiply(
      into c: inout [Float], factor: Double = 1, rescale: [Float]? = nil, maximum: UnsafeMutablePointer<Float>? = nil,
      _ kernels: Kernels<Float>
    ) {
      kernels.multiply(
        vectorCount: product.vectors, rowParts(of: aParts), laneParts(of: bParts), depth: padded, limit: product.limit,
        into: &c, stride: lanes, factor: factor, rescale: rescale, maximum: maximum)
    }

    /// The parts of an element of a.
    func parts(row: Int, step: Int) -> [Float] {
      (0..<product.aParts).map { MatrixKernelTests.number(ofPart: aParts[($0 * product.rows + row) * padded + step]) }
    }

    /// The parts of an element of b.
    func parts(step: Int, lane: Int) -> [Float] {
      (0..<product.bParts).map {
        let pair = bParts[($0 * padded / 2 + step / 2) * lanes + lane]
        return MatrixKernelTests.number(ofPart: UInt16(truncatingIfNeeded: step % 2 == 0 ? pair : pair >> 16))
      }
    }

    /// What Intel's AMX computes: for each two parts, the smallest products first, and for each 32 steps, sums of the even and
    /// of the odd steps from 0, which are added and then added to the element. Numbers below 2⁻¹²⁶ are 0.
    func unit(row: Int, lane: Int) -> Float {
      func flushed(_ x: Float) -> Float { x.isSubnormal ? 0 : x }
      var sum: Float = 0
      for both in stride(from: product.limit, through: 0, by: -1) {
        for i in 0..<product.aParts where (0..<product.bParts).contains(both - i) {
          for first in stride(from: 0, to: padded, by: 32) {
            var halves: [Float] = [0, 0]
            for step in first..<first + 32 {
              let x = parts(row: row, step: step)[i]
              let y = parts(step: step, lane: lane)[both - i]
              halves[step % 2] = flushed(halves[step % 2].addingProduct(flushed(x), flushed(y)))
            }
            sum = flushed(sum + flushed(halves[0] + halves[1]))
          }
        }
      }
      return sum
    }
  }

  private static let products = [
    Product(rows: 1, depth: 1, vectors: 1, aParts: 1, bParts: 1, limit: 0),
    Product(rows: 16, depth: 32, vectors: 2, aParts: 1, bParts: 2, limit: 2),
    Product(rows: 37, depth: 70, vectors: 1, aParts: 2, bParts: 2, limit: 1),
    Product(rows: 48, depth: 64, vectors: 2, aParts: 3, bParts: 3, limit: 2),
    Product(rows: 15, depth: 300, vectors: 2, aParts: 3, bParts: 3, limit: 2),
    Product(rows: 3, depth: 0, vectors: 1, aParts: 1, bParts: 1, limit: 0),
  ]

  private func operands(_ product: Product, _ kernels: Kernels<Float>, seed: UInt64 = 3) -> Operands {
    var generator = TestGenerator(seed: seed)
    let lanes = product.vectors * kernels.laneCount
    return Operands(
      product, a: generator.numbers(max(product.rows * product.depth, 1)).map { Float($0) },
      b: generator.numbers(max(product.depth * lanes, 1)).map { Float($0) }, kernels)
  }

  @Test("agree with the products of the parts in Double", arguments: InstructionSet.present, products.indices)
  func agree(isa: InstructionSet, index: Int) {
    let kernels = Kernels<Float>(isa)!
    let operands = operands(Self.products[index], kernels)
    let (product, lanes) = (operands.product, operands.lanes)
    var generator = TestGenerator(seed: 4)
    let before = generator.numbers(product.rows * lanes).map { Float($0) }
    let rescale = generator.numbers(lanes).map { Float($0) }
    var (plain, rescaled) = ([Float](repeating: .nan, count: before.count), before)
    var maximum = [Float](repeating: -0.25, count: lanes)
    kernels.withMatrixUnit {
      operands.multiply(into: &plain, factor: 0.75, maximum: &maximum, kernels)
      operands.multiply(into: &rescaled, rescale: rescale, kernels)
    }
    for lane in 0..<lanes {
      for row in 0..<product.rows {
        var (sum, size) = (0.0, 0.0)
        for step in 0..<product.depth {
          let (x, y) = (operands.parts(row: row, step: step), operands.parts(step: step, lane: lane))
          for i in x.indices { for j in y.indices where i + j <= product.limit { sum += Double(x[i]) * Double(y[j]) } }
          size += abs(Double(operands.a[row * product.depth + step]) * Double(operands.b[step * lanes + lane]))
        }
        let place = row * lanes + lane
        let tolerance = 0x1p-23 * (size + 1)
        #expect(abs(Double(plain[place]) - 0.75 * sum) <= tolerance)
        let expected = Double(before[place]) * Double(rescale[lane]) + sum
        #expect(abs(Double(rescaled[place]) - expected) <= tolerance)
      }
      let most = (0..<product.rows).map { plain[$0 * lanes + lane] }.max() ?? -.infinity
      #expect(maximum[lane] == max(most, -0.25))
    }
  }

  @Test(
    "with plain vectors and with AMX have the bits that AMX's definition gives",
    arguments: InstructionSet.present.filter { $0 != .avx512BF16 }, products.indices)
  func unit(isa: InstructionSet, index: Int) {
    let kernels = Kernels<Float>(isa)!
    for scale in [1, 0x1p-64, 0x1p-70] as [Float] {
      let random = operands(Self.products[index], kernels, seed: 5)
      // Products of small numbers are below 2⁻¹²⁶, and so are the parts of some of them.
      let operands = Operands(random.product, a: random.a.map { $0 * scale }, b: random.b.map { $0 * scale }, kernels)
      var c = [Float](repeating: .nan, count: operands.product.rows * operands.lanes)
      kernels.withMatrixUnit { operands.multiply(into: &c, kernels) }
      let expected = (0..<operands.product.rows).flatMap { row in
        (0..<operands.lanes).map { operands.unit(row: row, lane: $0) }
      }
      #expect(c == expected, "\(scale)")
    }
  }

  @Test(
    "a row has the same bits in a whole tile, in a part of one, and beside other rows",
    arguments: InstructionSet.present)
  func rows(isa: InstructionSet) {
    let kernels = Kernels<Float>(isa)!
    let whole = operands(Product(rows: 71, depth: 333, vectors: 2, aParts: 3, bParts: 3, limit: 2), kernels)
    var all = [Float](repeating: .nan, count: 71 * whole.lanes)
    kernels.withMatrixUnit { whole.multiply(into: &all, kernels) }
    for rows in [0..<1, 3..<20, 64..<71, 20..<68] {
      var product = whole.product
      product.rows = rows.count
      let some = Operands(
        product, a: Array(whole.a[rows.lowerBound * 333..<rows.upperBound * 333]), b: whole.b, kernels)
      var c = [Float](repeating: .nan, count: rows.count * whole.lanes)
      kernels.withMatrixUnit { some.multiply(into: &c, kernels) }
      #expect(c == Array(all[rows.lowerBound * whole.lanes..<rows.upperBound * whole.lanes]), "\(rows)")
    }
  }
}
