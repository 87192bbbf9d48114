import Attention
import AttentionBLAS
import AttentionTensors

/// Attention without fusion: one GEMM computes the whole matrix of scores, the softmax changes its rows in place, and
/// another GEMM reads the whole matrix. The products, softmax kernels and threads are the same as in fused attention.
final class UnfusedAttention<Element: AttentionElement> {
  /// The largest number of scores; larger problems are not measured.
  static var scoreLimit: Int { 1 << 28 }

  private let flags: Tensor<Bool>?
  private let bias: Tensor<Element>?
  private var scores: Tensor<Element>

  init(_ request: Request, _ mask: RequestedMask<Element>) throws {
    let group = request.heads / request.keyValueHeads
    let shape = [request.batch, request.keyValueHeads, group, request.queries, request.keys]
    guard shape.reduce(1, *) <= Self.scoreLimit else {
      throw AttentionError(
        .invalidArgument, "unfused", "at most \(Self.scoreLimit) scores expected; got \(shape.reduce(1, *))")
    }
    flags = try mask.flags(request)
    bias = mask.bias
    scores = try Tensor(repeating: 0, shape: shape)
  }

  func attend(
    _ query: Tensor<Element>, _ key: Tensor<Element>, _ value: Tensor<Element>, into output: inout Tensor<Element>,
    _ context: AttentionContext
  ) throws {
    let grouped = scores.shape.dropLast(2)
    func split(_ tensor: Tensor<Element>, _ heads: Int) throws -> Tensor<Element> {
      try tensor.reshaped([grouped[0], grouped[1], heads] + tensor.shape.suffix(2))
    }
    let scale = 1 / Element(query.shape[3]).squareRoot()
    try scores.withMutableView {
      try matmul(
        split(query, grouped[2]), split(key, 1).transposed(), alpha: scale, .replacing, into: &$0, context: context)
    }
    try normalise(context)
    let value = try split(value, 1)
    let scores = scores
    // `result` is the output with an axis of groups, in the output's memory. `output` is emptied, so that the memory
    // has one owner and the product is written in place.
    var result = try split(output, grouped[2])
    output = try Tensor(repeating: 0, shape: [0])
    try result.withMutableView { try matmul(scores, value, .replacing, into: &$0, context: context) }
    output = try result.reshaped([grouped[0], grouped[1] * grouped[2]] + result.shape.suffix(2))
  }

  /// Applies the bias, the mask and the softmax to every row of the scores.
  private func normalise(_ context: AttentionContext) throws {
    let kernels = try context.kernels(for: Element.self)
    let (queryCount, keyCount) = (scores.shape[3], scores.shape[4])
    let rowCount = scores.count / max(keyCount, 1)
    let rowsPerBatch = rowCount / scores.shape[0]
    let base = UncheckedSendable(scores.mutableBase)
    let flags = flags.map { UncheckedSendable(UnsafeRawPointer($0.base).assumingMemoryBound(to: UInt8.self)) }
    let flagsPerBatch = (self.flags?.shape[0] ?? 1) > 1 ? queryCount * keyCount : 0
    let bias = bias.map { UncheckedSendable($0.base) }
    let rowsPerPiece = max(1, (1 << 16) / max(keyCount, 1))
    context.execute(
      taskCount: (rowCount + rowsPerPiece - 1) / rowsPerPiece, threadCount: context.threadCount
    ) { piece, _ in
      for row in piece * rowsPerPiece..<min((piece + 1) * rowsPerPiece, rowCount) {
        let target = base.value + row * keyCount
        let place = row % queryCount * keyCount
        if let bias { kernels.addBias(keyCount, target, bias.value + place) }
        if let flags { kernels.mask(keyCount, target, flags.value + row / rowsPerBatch * flagsPerBatch + place) }
        let maximum = kernels.maximum(keyCount, target)
        if maximum == -.infinity {
          target.update(repeating: 0, count: keyCount)
        } else {
          kernels.scale(keyCount, target, 1 / kernels.exponentialSum(keyCount, target, maximum, target), target)
        }
      }
    }
  }
}
