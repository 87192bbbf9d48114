import AttentionBLAS
import AttentionTensors
import AttentionTestSupport
import AttentionTraining
import Testing

@Suite("initialisers")
struct InitializerTests {
  struct Spread: Sendable, CustomTestStringConvertible {
    let initializer: Initializer
    let shape: [Int]
    let deviation: Double
    /// The bound of a uniform distribution; nil for a normal distribution.
    let bound: Double?
    let testDescription: String
  }

  // The deviations follow from the formulas in PyTorch's documentation of torch.nn.init.
  static let spreads = [
    Spread(
      initializer: .xavierUniform(), shape: [300, 200], deviation: 0.0632456, bound: 0.109545,
      testDescription: "Xavier uniform"),
    Spread(
      initializer: .xavierUniform(gain: 2), shape: [30, 20, 5, 5], deviation: 0.08, bound: 0.138565,
      testDescription: "Xavier uniform, convolution, gain 2"),
    Spread(
      initializer: .xavierNormal(), shape: [300, 200], deviation: 0.0632456, bound: nil,
      testDescription: "Xavier normal"),
    Spread(
      initializer: .kaimingUniform(), shape: [300, 200], deviation: 0.1, bound: 0.173206,
      testDescription: "Kaiming uniform, fan in, ReLU"),
    Spread(
      initializer: .kaimingNormal(fan: .out, nonlinearity: .linear), shape: [400, 150], deviation: 0.05, bound: nil,
      testDescription: "Kaiming normal, fan out"),
    Spread(
      initializer: .kaimingNormal(nonlinearity: .leakyReLU(slope: 0.2)), shape: [64, 32, 3, 3],
      deviation: 0.0817200, bound: nil, testDescription: "Kaiming normal, leaky ReLU, convolution"),
    Spread(
      initializer: .xavierNormal(gain: Initializer.Nonlinearity.tanh.gain), shape: [250, 250],
      deviation: 0.1054093, bound: nil, testDescription: "Xavier normal before tanh"),
  ]

  @Test("mean, deviation and bound", arguments: spreads)
  func spread(_ spread: Spread) throws {
    let numbers = try Tensor<Double>(initializer: spread.initializer, shape: spread.shape, seed: 5).array
    let count = Double(numbers.count)
    let mean = numbers.reduce(0, +) / count
    let deviation = (numbers.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / count).squareRoot()
    // The tolerances are five standard errors of the estimates. With 15 000 numbers, the fewest here, they are about
    // 4.1 and 2.9 per cent of the deviation.
    #expect(abs(mean) < 5 * spread.deviation / count.squareRoot())
    #expect(abs(deviation / spread.deviation - 1) < 5 / (2 * count).squareRoot())
    let largest = numbers.map(abs).max()!
    if let bound = spread.bound {
      #expect(largest < bound)
      #expect(largest > 0.999 * bound)
    } else {
      // A uniform distribution with the same deviation has no numbers beyond √3 deviations.
      #expect(largest > 3 * spread.deviation)
    }
  }

  /// The largest difference between W·Wᵀ, or Wᵀ·W if there are more rows than columns, and gain² times the identity.
  private func defect<Element: LAPACKElement>(_: Element.Type, rows: Int, columns: Int, gain: Double) throws -> Double {
    let w = try Tensor<Element>(initializer: .orthogonal(gain: gain), shape: [rows, columns], seed: 3)
    let wide = try Tensor<Double>(converting: rows > columns ? try w.transposed() : w)
    let count = min(rows, columns)
    let square = referenceProduct(
      m: count, n: count, k: max(rows, columns), alpha: 1, { wide[$0, $1] }, { wide[$1, $0] }, adding: nil)
    return square.indices.map { i in
      abs(square[i] - (i / count == i % count ? gain * gain : 0))
    }.max() ?? 0
  }

  @Test(
    "orthogonal rows or columns",
    arguments: [(1, 1), (1, 7), (7, 1), (2, 2), (17, 17), (40, 13), (13, 40), (65, 64), (64, 65), (97, 128)])
  func orthogonal(rows: Int, columns: Int) throws {
    #expect(try defect(Double.self, rows: rows, columns: columns, gain: 1) < 1e-14 * 10)
    #expect(try defect(Float.self, rows: rows, columns: columns, gain: 1) < 1e-7 * 20)
    #expect(try defect(Double.self, rows: rows, columns: columns, gain: 3) < 1e-14 * 90)
  }

  @Test("orthogonal: axes after the first count as one")
  func orthogonalConvolution() throws {
    let flat = try Tensor<Float>(initializer: .orthogonal(), shape: [6, 18], seed: 9)
    let kernel = try Tensor<Float>(initializer: .orthogonal(), shape: [6, 2, 3, 3], seed: 9)
    #expect(kernel.shape == [6, 2, 3, 3])
    #expect(kernel.array == flat.array)
    #expect(kernel.isContiguous)
  }

  @Test("orthogonal matrices are drawn uniformly: half of the first entries are positive, their squares average 1/3")
  func haar() throws {
    // Q's columns are multiplied by the signs of R's diagonal. Otherwise, the first entry would always be negative.
    let corners = try (0..<200).map {
      try Tensor<Double>(initializer: .orthogonal(), shape: [3, 3], seed: UInt64($0))[0, 0]
    }
    let positive = corners.count { $0 > 0 }
    // The count is binomial with a deviation of 7.
    #expect((65...135).contains(positive))
    // The square of an entry has a mean of 1/3 and a deviation of √(4/45).
    let mean = corners.reduce(0) { $0 + $1 * $1 } / 200
    #expect(abs(mean - 1.0 / 3) < 5 * (4.0 / 45 / 200).squareRoot())
  }

  @Test("the same seed gives the same numbers, and another seed gives other numbers")
  func seeds() throws {
    for initializer in Self.spreads.map(\.initializer) + [.orthogonal()] {
      let first = try Tensor<Float>(initializer: initializer, shape: [9, 11], seed: 1)
      #expect(try Tensor<Float>(initializer: initializer, shape: [9, 11], seed: 1) == first)
      #expect(try Tensor<Float>(initializer: initializer, shape: [9, 11], seed: 2) != first)
    }
  }

  @Test("impossible shapes and gains throw; shapes without elements give empty tensors")
  func errors() throws {
    for initializer in Self.spreads.map(\.initializer) + [.orthogonal()] {
      #expect(throws: AttentionError.self) { try Tensor<Float>(initializer: initializer, shape: [4], seed: 1) }
      #expect(throws: AttentionError.self) { try Tensor<Float>(initializer: initializer, shape: [], seed: 1) }
      #expect(throws: AttentionError.self) { try Tensor<Float>(initializer: initializer, shape: [4, -1], seed: 1) }
      #expect(throws: AttentionError.self) {
        try Tensor<Float>(initializer: initializer, shape: [1 << 40, 1 << 40], seed: 1)
      }
      for shape in [[0, 4], [4, 0], [0, 0], [3, 0, 5]] {
        #expect(try Tensor<Float>(initializer: initializer, shape: shape, seed: 1).shape == shape)
      }
    }
    #expect(throws: AttentionError.self) {
      try Tensor<Float>(initializer: .orthogonal(gain: .nan), shape: [4, 4], seed: 1)
    }
    for gain in [1e39, 2e38] {
      #expect(throws: AttentionError.self) {
        try Tensor<Float>(initializer: .xavierUniform(gain: gain), shape: [4, 4], seed: 1)
      }
    }
    #expect(throws: AttentionError.self) {
      try Tensor<Double>(initializer: .xavierUniform(gain: 1e308), shape: [2, 2], seed: 1)
    }
    #expect(throws: AttentionError.self) {
      try Tensor<Float>(initializer: .kaimingNormal(nonlinearity: .leakyReLU(slope: .nan)), shape: [4, 4], seed: 1)
    }
  }

  @Test("several tasks at once can make orthogonal matrices")
  func concurrent() async throws {
    let expected = try Tensor<Float>(initializer: .orthogonal(), shape: [80, 60], seed: 4).array
    try await withThrowingTaskGroup(of: [Float].self) { group in
      for _ in 0..<16 {
        group.addTask { try Tensor<Float>(initializer: .orthogonal(), shape: [80, 60], seed: 4).array }
      }
      for try await array in group { #expect(array == expected) }
    }
  }
}
