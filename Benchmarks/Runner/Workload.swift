import Attention
import AttentionBLAS
import AttentionTensors

/// What one request measures: a closure over its inputs.
struct Workload {
  /// One call; keeps its result in `result`.
  let call: (AttentionContext) throws -> Void
  /// Operations of one call, as the field counts them: half under a causal mask.
  let operationCount: Double
  /// The sum of the result of the last call: equal inputs, equal sum.
  let checksum: () throws -> Double
  /// The largest difference from the same call in Double; nil where there is none to compare with.
  let maxError: (() throws -> Double)?
}

/// The workload of the last request.
struct WorkloadCache {
  private var request: Request?
  private var workload: Workload?

  mutating func run(_ request: Request) throws -> Answer {
    if workload == nil || self.request?.hasInputs(of: request) != true {
      workload = nil
      workload = try request.dtype == .f64 ? makeWorkload(request, Double.self) : makeWorkload(request, Float.self)
      self.request = request
    }
    let workload = workload!
    let context = AttentionContext(
      threadCount: request.threads, algorithm: AttentionAlgorithm(rawValue: request.algorithm))
    let seconds = try (0..<request.iterations).map { _ in
      let duration = try ContinuousClock().measure { try workload.call(context) }.components
      return Double(duration.seconds) + Double(duration.attoseconds) * 1e-18
    }
    let median = seconds.sorted()[seconds.count / 2]
    return Answer(
      seconds: seconds, gflops: workload.operationCount / median * 1e-9,
      algorithm: (context.algorithm ?? .openBLAS).rawValue, isa: try context.resolvedInstructionSet().rawValue,
      checksum: try workload.checksum(), maxError: request.error ? try workload.maxError?() : nil)
  }
}

private func makeWorkload<Element: AttentionElement>(_ request: Request, _: Element.Type) throws -> Workload {
  switch request.op {
  case .sdpa: try attentionWorkload(request, Element.self)
  case .mha: try layerWorkload(request, Element.self)
  case .gemm, .batchedGEMM: try productWorkload(request, Element.self)
  case .softmax: try softmaxWorkload(request, Element.self)
  case .machine: throw AttentionError(.invalidArgument, "op", "machine has no workload")
  }
}

/// A result that outlives a call, so that the next one finds its memory there.
private final class Slot<Element: TensorElement> {
  var tensor: Tensor<Element>
  init(_ tensor: Tensor<Element>) { self.tensor = tensor }
}

private func checksum<Element: AttentionElement>(_ slot: Slot<Element>) -> () throws -> Double {
  { try slot.tensor.withUnsafeBufferPointer { $0.reduce(0) { $0 + Double($1) } } }
}

private func random<Element: AttentionElement>(
  _ shape: [Int], _ request: Request, _ index: UInt64
) throws -> Tensor<Element> {
  try Tensor(uniform: -1..<1, shape: shape, seed: request.seed &* 1000 &+ index)
}

private func attentionWorkload<Element: AttentionElement>(_ request: Request, _: Element.Type) throws -> Workload {
  let (batch, heads, keyValueHeads) = (request.batch, request.heads, request.keyValueHeads)
  let query: Tensor<Element> = try random([batch, heads, request.queries, request.width], request, 1)
  let key: Tensor<Element> = try random([batch, keyValueHeads, request.keys, request.width], request, 2)
  let value: Tensor<Element> = try random([batch, keyValueHeads, request.keys, request.valueWidth], request, 3)
  let (mask, share) = try makeMask(request, Element.self)
  let slot = Slot(try Tensor<Element>(repeating: .nan, shape: [batch, heads, request.queries, request.valueWidth]))
  return Workload(
    call: { context in
      try scaledDotProductAttention(
        query: query, key: key, value: value, mask: mask, into: &slot.tensor, context: context)
    },
    operationCount: 2 * Double(batch * heads) * Double(request.queries) * Double(request.keys)
      * Double(request.width + request.valueWidth) * share,
    checksum: checksum(slot),
    // The same call in Double, on inputs that Float holds exactly. Double has nothing to be compared with.
    maxError: Element.self == Double.self
      ? nil
      : {
        func wide(_ tensor: Tensor<Element>) throws -> Tensor<Double> { try Tensor(converting: tensor) }
        let reference = try scaledDotProductAttention(
          query: wide(query), key: wide(key), value: wide(value), mask: makeMask(request, Double.self).mask)
        return zip(slot.tensor.array, reference.array).reduce(0) { worst, pair in
          let error = abs(Double(pair.0) - pair.1)
          return error.isNaN ? .infinity : max(worst, error)
        }
      })
}

/// The mask of a request, and the share of the scores that the field counts under it.
private func makeMask<Element: AttentionElement>(
  _ request: Request, _: Element.Type
) throws -> (mask: AttentionMask, share: Double) {
  var mask = AttentionMask.none
  var share = 1.0
  switch request.mask {
  case .none: break
  case .causal: (mask, share) = (.causal, request.queries == 1 ? 1 : 0.5)
  case .causalTopLeft: (mask, share) = (.causal(.topLeft), 0.5)
  case .boolean:
    // One key in ten is off.
    var generator = SeededGenerator(seed: request.seed &+ 77)
    let attends = (0..<request.queries * request.keys).map { _ in generator.nextUnit() >= 0.1 }
    mask = .attending(try Tensor(attends, shape: [1, 1, request.queries, request.keys]))
  case .bias:
    // Through Float, so that Double sees the same numbers.
    let bias = try Tensor<Float>(
      uniform: -1..<1, shape: [1, 1, request.queries, request.keys], seed: request.seed &+ 78)
    mask = .bias(try Tensor<Element>(converting: bias))
  case .keyLengths:
    var generator = SeededGenerator(seed: request.seed &+ 79)
    mask = .keyLengths(
      (0..<request.batch).map { _ in Int.random(in: (request.keys + 1) / 2...request.keys, using: &generator) })
  }
  if let window = request.window {
    let alignment: AttentionMask.Alignment = request.mask == .causalTopLeft ? .topLeft : .bottomRight
    mask = mask.intersection(.window(left: window, right: nil, alignment: alignment))
  }
  return (mask, share)
}

/// `width` × `heads` is the width of the model.
private func layerWorkload<Element: AttentionElement>(_ request: Request, _: Element.Type) throws -> Workload {
  let width = request.width * request.heads
  let layer = try MultiHeadAttention<Element>(embeddingWidth: width, headCount: request.heads, seed: request.seed)
  let x: Tensor<Element> = try random([request.batch, request.queries, width], request, 1)
  let (mask, share) = try makeMask(request, Element.self)
  let slot = Slot(x)
  let rows = Double(request.batch * request.queries)
  return Workload(
    call: { slot.tensor = try layer(x, mask: mask, context: $0) },
    operationCount: 8 * rows * Double(width) * Double(width) + 4 * rows * Double(request.queries) * Double(width)
      * share,
    checksum: checksum(slot), maxError: nil)
}

/// `batch × heads` products of [queries, width] · [keys, width]ᵀ or [queries, keys] · [keys, width].
private func productWorkload<Element: AttentionElement>(_ request: Request, _: Element.Type) throws -> Workload {
  let batch = request.op == .gemm ? [] : [request.batch * request.heads]
  let depth = request.transposed ? request.width : request.keys
  let columns = request.transposed ? request.keys : request.width
  let a: Tensor<Element> = try random(batch + [request.queries, depth], request, 1)
  let stored: Tensor<Element> = try random(batch + [request.keys, request.width], request, 2)
  let b = request.transposed ? try stored.transposed() : stored
  let slot = Slot(try Tensor<Element>(repeating: .nan, shape: batch + [request.queries, columns]))
  return Workload(
    call: { context in
      try slot.tensor.withMutableView { try matmul(a, b, .replacing, into: &$0, context: context) }
    },
    operationCount: 2 * Double(batch.first ?? 1) * Double(request.queries) * Double(columns) * Double(depth),
    checksum: checksum(slot), maxError: nil)
}

/// Rows of `keys` elements, `batch × heads × queries` of them.
private func softmaxWorkload<Element: AttentionElement>(_ request: Request, _: Element.Type) throws -> Workload {
  let x: Tensor<Element> = try random([request.batch * request.heads * request.queries, request.keys], request, 1)
  let slot = Slot(x)
  return Workload(
    call: { slot.tensor = try softmax(x, context: $0) },
    // As is usual: a maximum, a subtraction, an exponential, a sum and a division.
    operationCount: 5 * Double(x.count),
    checksum: checksum(slot), maxError: nil)
}
