internal import AttentionBLAS
public import AttentionTensors

/// A linear layer: `y = f(x·Wᵀ + b)`, where f is the activation.
///
///     let layer = try Linear(weight: weight, bias: bias, activation: .gelu)
///     let y = try layer(x)   // […, in] to […, out]
///
/// For each instruction set, the weight is packed once: at the first call or by ``pack(context:)``. A product with the
/// packed weight adds the bias and applies f as it writes its last sums. Copies of the layer share the packed weight.
/// `AttentionAlgorithm.openBLAS` reads the weight without packing it, and the bias and f take passes of their own. Safe
/// to call from several threads at once.
public struct Linear<Element: AttentionElement>: Sendable {
  /// W, `[out, in]`; any strides.
  public internal(set) var weight: Tensor<Element>
  /// b, `[out]`. Nil: none.
  public internal(set) var bias: Tensor<Element>?
  /// The activation f.
  public let activation: Activation
  /// The packed weight of each instruction set.
  private var packed: [Once<PackedWeight<Element>>]

  /// A layer with this weight, bias and activation. This initialiser copies no tensor: the weight is packed later, at
  /// the first call or by ``pack(context:)``.
  ///
  /// - Parameters:
  ///   - weight: `[out, in]`, as in PyTorch.
  ///   - bias: `[out]`; nil: none.
  ///   - activation: f, which is applied after the product and the bias.
  /// - Throws: `AttentionError` if the shapes disagree.
  public init(
    weight: Tensor<Element>, bias: Tensor<Element>? = nil, activation: Activation = .none
  ) throws(AttentionError) {
    try requireShape(
      weight.rank == 2 && max(weight.shape[0], weight.shape[1]) <= Int(CInt.max)
        && bias.map { $0.shape == [weight.shape[0]] } ?? true, "Linear",
      "a weight [out, in] and a bias [out] expected; got \(weight.shape), \(bias.map { "\($0.shape)" } ?? "none")")
    self.weight = weight
    self.bias = bias
    self.activation = activation
    packed = Self.nothingPacked
  }

  private static var nothingPacked: [Once<PackedWeight<Element>>] { InstructionSet.allCases.map { _ in Once() } }

  /// Forgets the packed weight, because the weight has changed. The next call that needs it packs it again.
  mutating func forgetPacking() { packed = Self.nothingPacked }

  /// The number of elements in a row of x.
  public var inputDimension: Int { weight.shape[1] }
  /// The number of elements in a row of y.
  public var outputDimension: Int { weight.shape[0] }

  /// f(x·Wᵀ + b).
  ///
  /// - Parameters:
  ///   - x: `[…, in]`.
  ///   - context: Threads, instruction set, algorithm. The bits of y do not depend on the number of threads.
  /// - Returns: `[…, out]`, contiguous.
  /// - Throws: `AttentionError` if the rows of x do not have `in` elements, or memory runs out.
  public func callAsFunction(_ x: Tensor<Element>, context: AttentionContext = .default) throws -> Tensor<Element> {
    try output(x, activation, context)
  }

  /// x·Wᵀ + b, without the activation.
  func product(_ x: Tensor<Element>, context: AttentionContext) throws -> Tensor<Element> {
    try output(x, .none, context)
  }

  private func output(
    _ x: Tensor<Element>, _ activation: Activation, _ context: AttentionContext
  ) throws -> Tensor<Element> {
    try requireShape(
      x.shape.last == inputDimension, "Linear", "an x [..., \(inputDimension)] expected; got \(x.shape)")
    if x.rank == 1 {
      return try output(x.reshaped([1, inputDimension]), activation, context).reshaped([outputDimension])
    }
    var result = try Tensor<Element>(uninitializedShape: x.shape.dropLast() + [outputDimension])
    try result.withMutableView { try apply(to: x, into: &$0, activation, context: context) }
    return result
  }

  /// True if the weight is packed for an instruction set.
  func isPacked(for instructionSet: InstructionSet) -> Bool { packed[instructionSet.ordinal].hasValue }

  /// Packs the weight now, so that the first call takes no longer than later calls.
  /// - Throws: `AttentionError` if memory runs out.
  public func pack(context: AttentionContext = .default) throws {
    if let error = context.environmentError { throw error }
    guard context.resolvedAlgorithm != .openBLAS else { return }
    _ = try packedWeight(context)
  }

  private func packedWeight(_ context: AttentionContext) throws -> PackedWeight<Element> {
    try packed[context.resolvedInstructionSet().ordinal].get { try PackedWeight(weight, bias, context: context) }
  }

  /// ``callAsFunction(_:context:)`` for rank 2 or more, into an existing view `[…, out]` with a contiguous last axis.
  package func apply(
    to x: Tensor<Element>, into result: inout MutableTensorView<Element>, context: AttentionContext
  ) throws {
    try apply(to: x, into: &result, activation, context: context)
  }

  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  private func apply(
    to x: Tensor<Element>, into result: inout MutableTensorView<Element>, _ activation: Activation,
    context: AttentionContext
  ) throws {
    if let error = context.environmentError { throw error }
    let kernels = try context.kernels(for: Element.self)
    let input = rows(x.shape, x.strides)
    let output = rows(result.shape, result.strides)
    guard context.resolvedAlgorithm != .openBLAS, let input, let output,
      result.strides.last == 1 || outputDimension == 1,
      input.stride != 0, x.strides.last == 1 || inputDimension == 1
    else {
      if let bias { try result.copy(from: bias) }
      try matmul(
        x, weight.transposed(), bias == nil ? .replacing : .accumulating, into: &result, context: context)
      return activate(&result, activation, kernels)
    }
    let weight = try packedWeight(context)
    let a = StridedMatrix(
      base: x.base, rowCount: input.count, columnCount: inputDimension, rowStride: input.stride, columnStride: 1)
    let cut = WeightCut(
      rowCount: input.count, panelCount: weight.panelCount, columnCount: outputDimension, depth: inputDimension)
    let workerCount = cut.workerCount(threadCount: context.threadCount)
    let scratchByteCount = weight.scratchCount * MemoryLayout<Element>.stride
    let base = UncheckedSendable(result.base)
    try withScratch(byteCount: workerCount * scratchByteCount) { memory in
      let memory = UncheckedSendable(memory)
      context.execute(taskCount: cut.taskCount, threadCount: workerCount) { task, worker in
        let (rows, panels) = cut.block(task)
        if rows.isEmpty || panels.isEmpty { return }
        weight.multiply(
          a.rows(rows), panels: panels, activation, depthLimit: context.tuning.depthLimit,
          into: base.value + rows.lowerBound * output.stride, stride: output.stride,
          scratch: (memory.value + worker * scratchByteCount).assumingMemoryBound(to: Element.self))
      }
    }
  }

  /// The number of rows along all axes but the last, and the stride from one row to the next. Nil if the rows are not
  /// evenly spaced.
  private func rows(_ shape: [Int], _ strides: [Int]) -> (count: Int, stride: Int)? {
    var count = 1
    var stride: Int?
    for axis in shape.indices.dropLast().reversed() where shape[axis] != 1 {
      if let stride, strides[axis] != count * stride { return nil }
      stride = stride ?? strides[axis]
      count *= shape[axis]
    }
    return (count, stride ?? shape[shape.count - 1])
  }

  private func activate(
    _ view: inout MutableTensorView<Element>, _ activation: Activation, _ kernels: Kernels<Element>
  ) {
    if activation == .none { return }
    let base = view.base
    let count = outputDimension
    forEachRow(shape: view.shape, view.strides, view.strides) { offset, _ in
      kernels.activate(activation, count, base + offset)
    }
  }
}
