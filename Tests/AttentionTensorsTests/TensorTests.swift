import AttentionTensors
import Testing

@Suite("Tensor")
struct TensorTests {
  private func counting(_ shape: [Int]) throws -> Tensor<Float> {
    try Tensor((0..<shape.reduce(1, *)).map(Float.init), shape: shape)
  }

  @Test("literals give shape and elements")
  func literals() {
    let x: Tensor<Float> = [[1, 2.5, 3], [4, 5, 6]]
    #expect(x.shape == [2, 3])
    #expect(x[0, 1] == 2.5)
    #expect(x[1, 2] == 6)
    let flags: Tensor<Bool> = [true, false]
    #expect(flags.array == [true, false])
    let nested: Tensor<Int32> = [[[1], [2]], [[3], [4]]]
    #expect(nested.shape == [2, 2, 1])
    #expect(nested.array == [1, 2, 3, 4])
  }

  @Test("ragged literals and indices out of range trap")
  func traps() async {
    await #expect(processExitsWith: .failure) {
      let x: Tensor<Float> = [[1, 2], [3]]
      print(x)
    }
    await #expect(processExitsWith: .failure) {
      let x: Tensor<Float> = [1, 2]
      print(x[2])
    }
  }

  @Test("memory is aligned to 64 bytes", arguments: [1, 17, 1 << 21])
  func alignment(count: Int) throws {
    let x = try Tensor<Float>(repeating: 0, shape: [count])
    try x.withUnsafeBufferPointer { #expect(Int(bitPattern: $0.baseAddress!) % 64 == 0) }
  }

  @Test("wrong shapes and axes throw, and the error names the values that were passed")
  func wrongShapes() throws {
    let error = #expect(throws: AttentionError.self) { try Tensor<Float>([1, 2, 3], shape: [2, 2]) }
    #expect(error?.code == .shapeMismatch)
    #expect(error?.description == "Tensor: the shape [2, 2] needs 4 elements; got 3")
    #expect(throws: AttentionError.self) { try Tensor<Float>(repeating: 0, shape: [-1]) }
    #expect(throws: AttentionError.self) { try Tensor<Float>(repeating: 0, shape: [1 << 40, 1 << 40]) }
    let x = try counting([2, 3])
    #expect(throws: AttentionError.self) { try x.reshaped([4]) }
    #expect(throws: AttentionError.self) { try x.slice(1..<4, axis: 1) }
    #expect(throws: AttentionError.self) { try x.slice(0..<1, axis: 2) }
    #expect(throws: AttentionError.self) { try x.select(2, axis: 0) }
    #expect(throws: AttentionError.self) { try x.permuted([0, 0]) }
    #expect(throws: AttentionError.self) { try x.broadcast(to: [2, 4]) }
    #expect(throws: AttentionError.self) { try x.splitHeads(2) }
    #expect(throws: AttentionError.self) { try x.broadcast(to: [-1, 2, 3]) }
    #expect(throws: AttentionError.self) { try x.broadcast(to: [1 << 40, 1 << 40, 2, 3]) }
    #expect(throws: AttentionError.self) { try Tensor<Float>([], shape: [2, 0]).splitHeads(.max) }
    let long = try Tensor<Float>([], shape: [0, 3, .max / 3])
    #expect(try long.slice(3..<3, axis: 1).slice(.max / 3..<(.max / 3), axis: 2).count == 0)
    // These shapes have no elements, but their strides overflow.
    #expect(throws: AttentionError.self) { try Tensor<Float>(repeating: 0, shape: [0, 1 << 40, 1 << 40]) }
    #expect(throws: AttentionError.self) {
      try Tensor<Float>(repeating: 0, shape: [0]).reshaped([0, 1 << 40, 1 << 40])
    }
  }

  @Test("views share memory and see the right elements")
  func views() throws {
    let x = try counting([2, 3, 4])
    #expect(try x.transposed().shape == [2, 4, 3])
    #expect(try x.transposed()[1, 3, 2] == x[1, 2, 3])
    #expect(try x.permuted([2, 0, 1])[3, 1, 2] == x[1, 2, 3])
    #expect(try x.slice(1..<3, axis: 1).array == [4, 5, 6, 7, 8, 9, 10, 11, 16, 17, 18, 19, 20, 21, 22, 23])
    #expect(try x.select(2, axis: 1).array == [8, 9, 10, 11, 20, 21, 22, 23])
    #expect(try x.reshaped([6, 4])[5, 3] == 23)
    #expect(try x.slice(0..<1, axis: 1).broadcast(to: [5, 2, 3, 4])[4, 1, 2, 3] == x[1, 0, 3])
    for view in [try x.transposed(), try x.slice(0..<2, axis: 2), try x.reshaped([24])] {
      #expect(view.storage === x.storage)
    }
  }

  @Test("reshape makes a view if the strides allow it, and otherwise a correct copy")
  func reshape() throws {
    let x = try counting([2, 3, 4])
    let columns = try x.slice(0..<2, axis: 2)
    let split = try columns.reshaped([2, 3, 2, 1])
    #expect(split.storage === x.storage)
    #expect(split.array == columns.array)
    let merged = try columns.reshaped([6, 2])
    #expect(merged.storage === x.storage)
    #expect(merged.array == columns.array)
    let flat = try columns.reshaped([12])
    #expect(flat.storage !== x.storage)
    #expect(flat.array == columns.array)
    #expect(try x.transposed().reshaped([4, 6]).array == x.transposed().array)
    #expect(try Tensor<Float>(repeating: 1, shape: [0, 3]).reshaped([3, 0, 7]).count == 0)
    #expect(try x.reshaped([24, 1, 1]).reshaped([1, 2, 3, 1, 4]).array == x.array)
  }

  @Test("heads split and merge without a copy")
  func heads() throws {
    let x = try counting([2, 5, 12])
    let heads = try x.splitHeads(3)
    #expect(heads.shape == [2, 3, 5, 4])
    #expect(heads[1, 2, 4, 3] == x[1, 4, 11])
    #expect(heads.storage === x.storage)
    let merged = try heads.mergedHeads()
    #expect(merged.storage === x.storage)
    #expect(merged == x)
    #expect(try heads.contiguous().mergedHeads() == x)
  }

  @Test("a write to a tensor that shares its memory copies the elements first")
  func copyOnWrite() throws {
    var x = try counting([2, 3])
    x[0, 0] = 10
    let copy = x
    x[1, 1] = 20
    #expect(copy[1, 1] == 4)
    #expect(x[1, 1] == 20)
    var row = try x.select(0, axis: 0)
    row[1] = 99
    #expect(x[0, 1] == 1)
    var wide = try row.broadcast(to: [2, 3])
    wide[0, 0] = 7
    #expect(wide.array == [7, 99, 2, 10, 99, 2])
  }

  @Test("a tensor that shares its memory with no other tensor is written in place")
  func writeInPlace() throws {
    var x = try counting([4])
    func address(_ x: borrowing Tensor<Float>) -> Int { Int(bitPattern: x.base) }
    let before = address(x)
    x[2] = 5
    try x.withMutableView { $0[3] = 6 }
    #expect(address(x) == before)
    #expect(x.array == [0, 1, 5, 6])
  }

  @Test("mutable views write parts of a tensor and do not change the rest")
  func mutableViews() throws {
    var x = try Tensor<Float>(repeating: -1, shape: [3, 4])
    try x.withMutableView { view in
      try view.withSlice(1..<3, axis: 1) { part in
        try part.withPermutation([1, 0]) { try $0.copy(from: [[1, 2, 3], [4, 5, 6]]) }
      }
    }
    #expect(x.array == [-1, 1, 4, -1, -1, 2, 5, -1, -1, 3, 6, -1])
    try x.withMutableView { view in try view.withSlice(0..<1, axis: 0) { $0.fill(9) } }
    #expect(x.array == [9, 9, 9, 9, -1, 2, 5, -1, -1, 3, 6, -1])
    #expect(throws: AttentionError.self) { try x.withMutableView { try $0.withSlice(2..<4, axis: 0) { _ in } } }
    #expect(throws: AttentionError.self) { try x.withMutableView { try $0.copy(from: [1, 2, 3]) } }
  }

  @Test("a transposed tensor is written through its strides")
  func writeTransposed() throws {
    var x = try counting([2, 3]).transposed()
    try x.withMutableView { $0[2, 1] = 50 }
    #expect(x.array == [0, 3, 1, 4, 2, 50])
  }

  @Test("spans see the elements in row-major order")
  func spans() throws {
    let x = try counting([2, 3])
    let sum = try x.transposed().withSpan { span in
      var sum: Float = 0
      for i in span.indices { sum = sum * 10 + span[i] }
      return sum
    }
    #expect(sum == 31425)
  }

  @Test("== compares elements; isSameView compares memory, shape and strides")
  func equality() throws {
    let x = try counting([2, 2])
    #expect(x == [[0, 1], [2, 3]])
    #expect(try x.transposed() != x)
    #expect(x.isSameView(as: x))
    #expect(!x.isSameView(as: try x.copied()))
    #expect(try !x.isSameView(as: x.reshaped([4])))
  }

  @Test("conversion between element types rounds to nearest, ties to even")
  func conversion() throws {
    let x = try Tensor<Double>([1, 1 + 0x1p-8, 1 + 0x1.8p-7, .infinity, 3.5e38, -0.0], shape: [6])
    let y = try Tensor<BFloat16>(converting: x)
    #expect(y.array.map(\.floatValue) == [1, 1, 1.015625, .infinity, .infinity, 0])
    #expect(BFloat16(Float.nan).floatValue.isNaN)
    #expect(BFloat16(Float(bitPattern: 0x7f80_0001)).floatValue.isNaN)
    // This number is just above the middle between two BFloat16 numbers. Rounding it to Float first would make it the
    // exact middle.
    #expect(BFloat16(_nearest: 1 + 0x1p-8 + 0x1p-40).floatValue == 1.0078125)
    // This number is just below such a middle. From the exact middle, rounding to even would go up.
    #expect(BFloat16(_nearest: 1 + 0x1.8p-7 - 0x1p-40).floatValue == 1.0078125)
    // A conversion from Double to Double does not go through Float.
    #expect(
      try Tensor<Double>(converting: Tensor<Double>([0.1, 1 + 0x1p-50], shape: [2])).array == [0.1, 1 + 0x1p-50])
    #if !(os(macOS) && arch(x86_64))
      let half: Tensor<Float16> = [1, 65504, -2]
      #expect(try Tensor<Float>(converting: half).array == [1, 65504, -2])
    #endif
  }

  @Test("seeded numbers are reproducible and fill their range")
  func randomNumbers() throws {
    let x = try Tensor<Float>(uniform: -2..<3, shape: [1000], seed: 7)
    #expect(x == (try Tensor<Float>(uniform: -2..<3, shape: [1000], seed: 7)))
    #expect(x != (try Tensor<Float>(uniform: -2..<3, shape: [1000], seed: 8)))
    #expect(x.array.allSatisfy { (-2...3).contains($0) })
    #expect(abs(x.array.reduce(0, +) / 1000 - 0.5) < 0.2)
    // The first number of SplitMix64 with seed 0, as published.
    var generator = SeededGenerator(seed: 0)
    #expect(generator.next() == 0xe220_a839_7b1d_cdaf)
  }
}
