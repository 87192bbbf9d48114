import Attention
import AttentionProblems
import AttentionTestSupport
import CLibrary
import Testing

@Suite("Positions")
struct PositionTests {
  /// One row, rotated by the formula of rotary position embeddings, in Double.
  private func turned(_ row: [Double], position: Int, width: Int, base: Double, _ pairing: RotaryEmbedding.Pairing)
    -> [Double]
  {
    var result = row
    for i in 0..<width / 2 {
      let angle = Double(position) * pow(base, -2 * Double(i) / Double(width))
      let (a, b) = pairing == .halves ? (i, i + width / 2) : (2 * i, 2 * i + 1)
      result[a] = row[a] * cos(angle) - row[b] * sin(angle)
      result[b] = row[b] * cos(angle) + row[a] * sin(angle)
    }
    return result
  }

  @Test(
    "rows are rotated as the formula says, with any pairing, layout, element type and strides",
    arguments: [RotaryEmbedding.Pairing.halves, .interleaved], [2, 6, 16])
  func formula(pairing: RotaryEmbedding.Pairing, width: Int) throws {
    let rotary = try RotaryEmbedding(dimension: width, base: 100, pairing: pairing)
    let (B, H, L, E) = (2, 3, 70, 17)
    let x = try Tensor<Float>(uniform: -1..<1, shape: [B, H, L, E], seed: 1)
    let starts = [5, 900]
    let table: RotaryTable<Float> = try rotary.table(.startingAtEach(starts), count: L)
    let result = try table.rotated(x)
    for b in 0..<B {
      for h in 0..<H {
        for i in 0..<L {
          let expected = turned(
            (0..<E).map { Double(x[b, h, i, $0]) }, position: starts[b] + i, width: width, base: 100, pairing)
          #expect(mismatch((0..<E).map { result[b, h, i, $0] }, expected, tolerance: 2e-6) == nil)
        }
      }
    }
    let byLength = try table.rotated(x.permuted([0, 2, 1, 3]), layout: .lengthFirst)
    #expect(sameBits(try byLength.permuted([0, 2, 1, 3]).array, result.array))
    let each = try Tensor<Int64>(starts.flatMap { start in (0..<L).map { Int64(start + $0) } }, shape: [B, L])
    #expect(sameBits(try rotary.table(.each(each), count: L, as: Float.self).rotated(x).array, result.array))
    // Elements that are not contiguous. Then elements of two bytes: they are rotated in Float and rounded once.
    var wide = try Tensor<Float>(repeating: 7, shape: [B, H, L, E, 2])
    try wide.withMutableView { view in
      try view.withSlice(0..<1, axis: 4) { try $0.copy(from: x.reshaped([B, H, L, E, 1])) }
    }
    #expect(sameBits(try table.rotated(wide.select(0, axis: 4)).array, result.array))
    let halves = try Tensor<BFloat16>(converting: x)
    let expected = try Tensor<BFloat16>(converting: table.rotated(Tensor<Float>(converting: halves)))
    #expect(try table.rotated(halves).array == expected.array)
  }

  @Test("dot products depend only on the distance between positions")
  func distances() throws {
    let table: RotaryTable<Double> = try RotaryEmbedding(dimension: 32).table(.startingAt(0), count: 100)
    let q = try Tensor<Double>(uniform: -1..<1, shape: [1, 32], seed: 1).broadcast(to: [100, 32])
    let k = try Tensor<Double>(uniform: -1..<1, shape: [1, 32], seed: 2).broadcast(to: [100, 32])
    let (a, b) = (try table.rotated(q), try table.rotated(k))
    func dot(_ i: Int, _ j: Int) -> Double { (0..<32).reduce(0) { $0 + a[i, $1] * b[j, $1] } }
    for distance in [0, 1, 17] {
      #expect((0..<80).allSatisfy { abs(dot($0 + distance, $0) - dot(distance, 0)) < 1e-12 })
    }
    // Rows at position 0 are not rotated.
    #expect((0..<32).allSatisfy { a[0, $0] == q[0, $0] })
  }

  /// The expected angles are from a separate implementation in Python, which follows Hugging Face's
  /// `modeling_rope_utils`.
  @Test("scaled angles match those of Hugging Face")
  func scalings() throws {
    func check(_ rotary: RotaryEmbedding, length: Int, _ expected: [(Int, Double)]) {
      let angles = rotary.angles(length: length)
      for (pair, angle) in expected { #expect(abs(angles[pair] / angle - 1) < 1e-12, "\(rotary.scaling) \(pair)") }
    }
    check(
      try RotaryEmbedding(dimension: 64, scaling: .yarn(factor: 4, trainedLength: 2048)), length: 1,
      [
        (0, 1.0), (1, 0.7498942093324559), (9, 0.0706631081870968), (14, 0.011627211527177573),
        (20, 0.0009730085108210396), (29, 5.9284342641541385e-05), (31, 3.33380358040831e-05),
      ])
    // The scaling of gpt-oss, whose ramp is not rounded. With a rounded ramp, the angles of pairs 9 to 17 would be
    // different: that of pair 17 would be 76 % larger.
    check(
      try RotaryEmbedding(
        dimension: 64, base: 150_000, scaling: .yarn(factor: 32, trainedLength: 4096, roundsRamp: false)), length: 1,
      [
        (0, 1.0), (8, 0.050813274815461475), (9, 0.03170569618466377), (12, 0.006794959489732219),
        (16, 0.00045648391922324086), (17, 0.00012931870124506317), (18, 3.8308812373753384e-05),
        (31, 3.0235114281192144e-07),
      ])
    let yarn = try RotaryEmbedding(dimension: 64, scaling: .yarn(factor: 4, trainedLength: 2048))
    #expect(abs(yarn.magnitude - 1.138629436111989) < 1e-15)
    #expect(abs(try yarn.table(.startingAt(0), count: 1, as: Double.self).cosines[0, 0, 0] - yarn.magnitude) < 1e-15)
    check(
      try RotaryEmbedding(
        dimension: 128, base: 500_000,
        scaling: .llama3(factor: 8, lowFrequencyFactor: 1, highFrequencyFactor: 4, trainedLength: 8192)), length: 1,
      [
        (0, 1.0), (1, 0.8146172338565447), (9, 0.15797280990904317), (14, 0.056669621445291044),
        (20, 0.016560440080994446), (29, 0.002166570763503359), (31, 0.0008567514129196321),
      ])
    let dynamic = try RotaryEmbedding(dimension: 64, scaling: .dynamicNTK(factor: 2, trainedLength: 2048))
    check(
      dynamic, length: 4096,
      [
        (0, 1.0), (1, 0.7237840223942559), (9, 0.05451059544394763), (14, 0.010827442472897788),
        (20, 0.0015566100700398994), (29, 8.485174179191994e-05), (31, 4.445071440544414e-05),
      ])
    #expect(dynamic.angles(length: 2048) == (try RotaryEmbedding(dimension: 64)).angles(length: 1))
    let linear = try RotaryEmbedding(dimension: 8, scaling: .linear(factor: 4))
    #expect(
      zip(linear.angles(length: 1), try RotaryEmbedding(dimension: 8).angles(length: 1)).allSatisfy { $0 * 4 == $1 })
  }

  @Test("sinusoidal positions match the formula of the paper")
  func sinusoidal() throws {
    let table: Tensor<Float> = try sinusoidalPositions(count: 50, dimension: 12, startingAt: 3)
    let halves: Tensor<Float> = try sinusoidalPositions(count: 50, dimension: 12, startingAt: 3, pairing: .halves)
    for position in 0..<50 {
      for i in 0..<6 {
        let angle = Double(position + 3) / pow(10_000, 2 * Double(i) / 12)
        #expect(abs(Double(table[position, 2 * i]) - sin(angle)) < 1e-7)
        #expect(abs(Double(table[position, 2 * i + 1]) - cos(angle)) < 1e-7)
        #expect(halves[position, i] == table[position, 2 * i] && halves[position, 6 + i] == table[position, 2 * i + 1])
      }
    }
  }

  @Test("arguments that are out of range, and shapes that do not fit, are errors")
  func errors() throws {
    for width in [0, 3, -2] { #expect(throws: AttentionError.self) { try RotaryEmbedding(dimension: width) } }
    #expect(throws: AttentionError.self) { try RotaryEmbedding(dimension: 4, base: 1) }
    #expect(throws: AttentionError.self) { try RotaryEmbedding(dimension: 4, scaling: .linear(factor: 0)) }
    #expect(throws: AttentionError.self) {
      try RotaryEmbedding(dimension: 4, scaling: .yarn(factor: 4, trainedLength: 0))
    }
    let rotary = try RotaryEmbedding(dimension: 4)
    for width in [Int.max - 1, 1 << 40] {
      #expect(throws: AttentionError.self) { try RotaryEmbedding(dimension: width) }
      #expect(throws: AttentionError.self) { try sinusoidalPositions(count: 1, dimension: width, as: Float.self) }
    }
    #expect(throws: AttentionError.self) {
      try RotaryEmbedding(dimension: 8, scaling: .linear(factor: .leastNonzeroMagnitude))
    }
    #expect(throws: AttentionError.self) { try rotary.table(.startingAt(0), count: .max, as: Float.self) }
    #expect(throws: AttentionError.self) { try sinusoidalPositions(count: 1 << 32, dimension: 2, as: Float.self) }
    for positions in [TokenPositions.startingAt(-1), .startingAt(.max), .startingAtEach([0, -3])] {
      #expect(throws: AttentionError.self) { try rotary.table(positions, count: 2, as: Float.self) }
    }
    #expect(throws: AttentionError.self) {
      try rotary.table(.each(Tensor<Int64>([1, 2, 3], shape: [3])), count: 2, as: Float.self)
    }
    #expect(throws: AttentionError.self) {
      try rotary.table(.each(Tensor<Int64>([1, -2], shape: [2])), count: 2, as: Float.self)
    }
    let table: RotaryTable<Float> = try rotary.table(.startingAt(0), count: 2)
    for shape in [[2, 3], [3, 4], [2, 2, 1, 2, 4], [4]] {
      #expect(throws: AttentionError.self) { try table.rotated(Tensor<Float>(repeating: 0, shape: shape)) }
    }
    let two: RotaryTable<Float> = try rotary.table(.startingAtEach([0, 3]), count: 2)
    for batchCount in [1, 3] {
      #expect(throws: AttentionError.self) {
        try two.rotated(Tensor<Float>(repeating: 0, shape: [batchCount, 1, 2, 4]))
      }
    }
  }
}
