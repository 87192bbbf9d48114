import Attention
import AttentionBLAS
import AttentionProblems
import AttentionTensors
import AttentionTestSupport
import Testing

@Suite("Linear layers")
struct LinearTests {
  private func tensor<Element: AttentionElement>(_ numbers: [Double], _ shape: [Int]) throws -> Tensor<Element> {
    try Tensor(numbers.map { Element($0) }, shape: shape)
  }

  /// The formula f(x·Wᵀ + b) with the activation f, in Double, for `x` of shape `[rows, input]`.
  private func reference(
    _ x: [Double], _ weight: [Double], _ bias: [Double]?, _ activation: Activation, rows: Int, input: Int, output: Int
  ) -> [Double] {
    var y: [Double] = []
    for row in 0..<rows {
      for column in 0..<output {
        var sum = bias?[column] ?? 0
        for i in 0..<input { sum += x[row * input + i] * weight[column * input + i] }
        y.append(referenceActivation("\(activation)", sum))
      }
    }
    return y
  }

  static let shapes: [(rows: Int, input: Int, output: Int)] = [
    (0, 5, 7), (1, 0, 3), (3, 4, 0), (1, 1, 1), (1, 17, 48), (2, 5, 15), (3, 8, 16), (7, 33, 17), (8, 64, 47),
    (9, 31, 49),
    (64, 40, 96), (65, 70, 101), (13, 513, 33), (5, 1100, 64), (200, 96, 144), (401, 40, 53),
  ]

  @Test("agrees with the formula on every path, with every activation", arguments: shapes)
  func agrees(shape: (rows: Int, input: Int, output: Int)) throws {
    func check<Element: AttentionElement>(_: Element.Type, tolerance: Double) throws {
      let (rows, input, output) = shape
      var generator = TestGenerator(seed: UInt64(rows * 7 + input * 3 + output))
      let (x, weight) = (generator.numbers(rows * input), generator.numbers(output * input))
      // Divided by 3, so that the Double numbers are not exact in Float.
      let bias = generator.numbers(output).map { Double(Element($0 / 3)) }
      for activation in Activation.allCases {
        for hasBias in [false, true] {
          let layer = try Linear<Element>(
            weight: tensor(weight, [output, input]), bias: hasBias ? tensor(bias, [output]) : nil,
            activation: activation)
          let want = reference(
            x, weight, hasBias ? bias : nil, activation, rows: rows, input: input, output: output)
          for context in AttentionContext.everyPath {
            let y = try layer(tensor(x, [rows, input]), context: context)
            #expect(y.shape == [rows, output])
            let what = "\(Element.self) \(context.path) \(activation) bias \(hasBias)"
            #expect(mismatch(y.array, want, tolerance: tolerance * Double(max(input, 1)), what) == nil)
          }
        }
      }
    }
    try check(Float.self, tolerance: 2e-7)
    try check(Double.self, tolerance: 1e-15)
  }

  @Test("batches, vectors and views of any strides give the same results; the number of threads changes no bit")
  func layouts() throws {
    try layouts(inputCount: 70)
    // This product is large enough to be cut into parts. The cut must not depend on the number of threads, because it
    // changes the bits.
    try layouts(inputCount: 1500)
  }

  private func layouts(inputCount: Int) throws {
    let weight = try Tensor<Float>(uniform: -1..<1, shape: [300, inputCount], seed: 1)
    let bias = try Tensor<Float>(uniform: -1..<1, shape: [300], seed: 2)
    let x = try Tensor<Float>(uniform: -1..<1, shape: [4, 60, inputCount], seed: 3)
    for context in AttentionContext.everyPath {
      let layer = try Linear(weight: weight, bias: bias, activation: .gelu)
      let flat = try layer(x.reshaped([240, inputCount]), context: context).array
      #expect(try sameBits(layer(x, context: context).array, flat))
      // A view with gaps between its rows, and a view whose axes lie in another order in memory.
      let numbers = x.array
      let wide = try Tensor<Float>(shape: [240, inputCount + 20]) { target in
        for i in target.indices { target[i] = .nan }
        for row in 0..<240 {
          for i in 0..<inputCount { target[row * (inputCount + 20) + i] = numbers[row * inputCount + i] }
        }
      }
      #expect(try sameBits(layer(wide.slice(0..<inputCount, axis: 1), context: context).array, flat))
      let turned = try x.permuted([2, 1, 0]).contiguous().permuted([2, 1, 0])
      #expect(try mismatch(layer(turned, context: context).array, flat.map(Double.init), tolerance: 3e-4) == nil)
      #expect(try layer(x.select(0, axis: 0).select(5, axis: 0), context: context).shape == [300])
      // A weight that is itself a transposed view.
      let other = try Linear(weight: weight.transposed().contiguous().transposed(), bias: bias, activation: .gelu)
      #expect(try mismatch(other(x, context: context).array, flat.map(Double.init), tolerance: 3e-4) == nil)
      var threaded = context
      for count in [1, 2, 7] {
        threaded.threadCount = count
        #expect(try sameBits(layer(x, context: threaded).array, flat), "\(context.path), \(count) threads")
      }
    }
  }

  @Test("one layer serves several threads at once, from its first call on")
  func concurrent() throws {
    let x = try Tensor<Float>(uniform: -1..<1, shape: [9, 70], seed: 3)
    for _ in 0..<20 {
      let layer = try Linear(weight: Tensor<Float>(uniform: -1..<1, shape: [130, 70], seed: 1))
      let results = UncheckedSendable(UnsafeMutablePointer<[Float]>.allocate(capacity: 8))
      results.value.initialize(repeating: [], count: 8)
      DispatchExecutor().execute(taskCount: 8, threadCount: 4) { piece, _ in
        results.value[piece] = (try? layer(x).array) ?? []
      }
      let all = (0..<8).map { results.value[$0] }
      #expect(all.allSatisfy { sameBits($0, all[0]) && !$0.isEmpty })
      results.value.deinitialize(count: 8)
      results.value.deallocate()
    }
  }

  @Test("shapes that do not fit are errors that name them")
  func errors() throws {
    let weight = try Tensor<Float>(repeating: 1, shape: [3, 4])
    #expect(throws: AttentionError.self) { try Linear(weight: weight, bias: Tensor(repeating: 1, shape: [4])) }
    #expect(throws: AttentionError.self) { try Linear(weight: Tensor<Float>(repeating: 1, shape: [3])) }
    let error = #expect(throws: AttentionError.self) {
      try Linear(weight: weight)(Tensor(repeating: 1, shape: [2, 5]))
    }
    #expect(error?.description == "Linear: an x [..., 4] expected; got [2, 5]")
  }
}
