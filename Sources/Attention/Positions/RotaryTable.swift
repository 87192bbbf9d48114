internal import AttentionBLAS
public import AttentionTensors

/// The cosines and sines that turn queries and keys by the positions of their tokens. Every layer and head uses
/// the same table.
///
/// ``RotaryEmbedding/table(_:count:length:as:)`` makes one; ``init(cosines:sines:pairing:)`` takes your own values.
public struct RotaryTable<Element: AttentionElement>: Sendable {
  /// The cosines, `[B, L, R/2]`, where R is ``dimension``. If B is 1, they are the same for every element of the batch.
  public let cosines: Tensor<Element>
  /// The sines, of the same shape.
  public let sines: Tensor<Element>
  /// Which two elements make a pair.
  public let pairing: RotaryEmbedding.Pairing

  /// A table of your own cosines and sines.
  /// - Throws: `AttentionError` unless both have the same shape `[B, L, R/2]`.
  public init(cosines: Tensor<Element>, sines: Tensor<Element>, pairing: RotaryEmbedding.Pairing = .halves) throws {
    try requireShape(
      cosines.rank == 3 && cosines.shape == sines.shape, "RotaryTable",
      "cosines and sines [B, L, R/2] expected; got \(cosines.shape) and \(sines.shape)")
    self.cosines = try cosines.contiguous()
    self.sines = try sines.contiguous()
    self.pairing = pairing
  }

  /// R: how many elements of each row are turned.
  public var dimension: Int { 2 * cosines.shape[2] }

  /// Turns the first ``dimension`` elements of every row, in place.
  ///
  /// - Parameters:
  ///   - x: `[B, H, L, E]`; rank 3 leaves out the batch, rank 2 the heads too. Any strides.
  ///   - layout: `.lengthFirst` for `[B, L, H, E]`.
  ///   - context: Threads, instruction set.
  /// - Throws: `AttentionError` if the table's L is not that of `x`, if the table's B is neither 1 nor that of `x`, or
  ///   if the rows of `x` are shorter than ``dimension``.
  public func rotate<Stored: AttentionStorage>(
    _ x: inout Tensor<Stored>, layout: AttentionLayout = .headsFirst, context: AttentionContext = .default
  ) throws where Stored.Arithmetic == Element {
    try x.withMutableView { try rotate(&$0, layout: layout, context: context) }
  }

  /// A copy of `x` with its rows turned.
  public func rotated<Stored: AttentionStorage>(
    _ x: Tensor<Stored>, layout: AttentionLayout = .headsFirst, context: AttentionContext = .default
  ) throws -> Tensor<Stored> where Stored.Arithmetic == Element {
    var result = x
    try rotate(&result, layout: layout, context: context)
    return result
  }

  /// Turns the rows of a view of a tensor, in place.
  public func rotate<Stored: AttentionStorage>(
    _ x: inout MutableTensorView<Stored>, layout: AttentionLayout = .headsFirst, context: AttentionContext = .default
  ) throws where Stored.Arithmetic == Element {
    guard let (shape, strides) = layout.canonical(x.shape, x.strides) else {
      throw AttentionError(.shapeMismatch, "RotaryTable", "a tensor of rank 2, 3 or 4 expected; got \(x.shape)")
    }
    try requireShape(
      [1, shape[0]].contains(cosines.shape[0]) && cosines.shape[1] == shape[2] && dimension <= shape[3], "RotaryTable",
      "[B, H, L, E] with B = \(cosines.shape[0]), L = \(cosines.shape[1]) and E ≥ \(dimension) expected; got \(shape)")
    if shape.contains(0) { return }
    try run(
      UnsafeMutableRawPointer(x.base), Stored._dataType, shape, strides, context: context)
  }

  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  private func run(
    _ base: UnsafeMutableRawPointer, _ dataType: DataType, _ shape: [Int], _ strides: [Int], context: AttentionContext
  ) throws {
    let kernels = try context.kernels(for: Element.self)
    let half = HalfFormat(dataType)
    let elementByteCount = dataType.bitCount / 8
    let (headCount, tokenCount, dimension) = (shape[1], shape[2], dimension)
    let stride = strides[3]
    let base = UncheckedSendable(base)
    let (cosines, sines) = (self.cosines, self.sines)
    // An estimate that sets the size of tasks: one thread takes 0.5 ns for each element that is turned.
    context.parallelFor(
      count: shape[0] * tokenCount, nanosecondsPerItem: 0.5 * Double(headCount * dimension)
    ) { items, _ in
      withUnsafeTemporaryAllocation(of: Element.self, capacity: dimension) { row in
        let row = row.baseAddress!
        for item in items {
          let (batch, token) = item.quotientAndRemainder(dividingBy: tokenCount)
          let place = ((cosines.shape[0] == 1 ? 0 : batch) * tokenCount + token) * (dimension / 2)
          for head in 0..<headCount {
            let offset = batch * strides[0] + head * strides[1] + token * strides[2]
            let source = base.value + offset * elementByteCount
            if half == nil && stride == 1 {
              turn(source.assumingMemoryBound(to: Element.self), cosines.base + place, sines.base + place)
              continue
            }
            if let half {
              kernels.widen(half, dimension, source, stride: stride, row)
            } else {
              copyStridedRow(
                count: dimension, elementByteCount: elementByteCount, from: source, stride: stride, to: row, stride: 1)
            }
            turn(row, cosines.base + place, sines.base + place)
            if let half {
              kernels.narrow(half, dimension, row, source, stride: stride)
            } else {
              copyStridedRow(
                count: dimension, elementByteCount: elementByteCount, from: row, stride: 1, to: source, stride: stride)
            }
          }
        }
      }
    }
  }

  @inline(__always)
  private func turn(
    _ x: UnsafeMutablePointer<Element>, _ cosines: UnsafePointer<Element>, _ sines: UnsafePointer<Element>
  ) {
    let half = dimension / 2
    switch pairing {
    case .halves:
      for i in 0..<half {
        let (a, b) = (x[i], x[half + i])
        x[i] = a * cosines[i] - b * sines[i]
        x[half + i] = b * cosines[i] + a * sines[i]
      }
    case .interleaved:
      for i in 0..<half {
        let (a, b) = (x[2 * i], x[2 * i + 1])
        x[2 * i] = a * cosines[i] - b * sines[i]
        x[2 * i + 1] = b * cosines[i] + a * sines[i]
      }
    }
  }
}
