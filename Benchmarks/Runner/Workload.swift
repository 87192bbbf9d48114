import Attention
import AttentionBLAS
import AttentionFiles
import AttentionTensors

/// The work that one request measures: closures over its inputs.
struct Workload {
  /// Makes one call and keeps its result.
  let call: (Request.Algorithm, AttentionContext) throws -> Void
  /// The operations of one call, counted as in the literature: under a causal mask with as many queries as keys, half
  /// of all scores count.
  let operationCount: Double
  /// The bytes of key and value that one call reads.
  var keyValueByteCount = 0
  /// The number of bytes of memory that are kept from one call to the next, as a loop over training steps keeps them.
  /// 0: the usual number.
  var keptByteCount = 0
  /// The rate in GB/s at which all threads read every pair of key and value once and do nothing else.
  var readRate: (AttentionContext) -> Double = { _ in .nan }
  /// The sum of the elements of the last call's result: equal inputs give equal sums.
  let checksum: () throws -> Double
  /// The largest difference between the last call's result and the result in Double; nil if there is nothing to compare
  /// with.
  let maxError: (() throws -> Double)?
  /// The inputs by name and the last call's output, for writing to a file.
  let tensors: () throws -> SafeTensorsWriter

  init(_ request: Request) throws {
    switch request.dtype {
    case .f32: self = try Self.make(request, Float.self)
    case .f64: self = try Self.make(request, Double.self)
    case .bf16: self = try Self.attention(request, BFloat16.self)
    case .f16:
      #if os(macOS) && arch(x86_64)
        throw AttentionError(.unsupported, "field \"dtype\"", "\"f16\" is not present on this machine")
      #else
        self = try Self.attention(request, Float16.self)
      #endif
    }
  }

  init(
    operationCount: Double, keyValueByteCount: Int = 0, checksum: @escaping () throws -> Double,
    maxError: (() throws -> Double)?, tensors: @escaping () throws -> SafeTensorsWriter,
    call: @escaping (Request.Algorithm, AttentionContext) throws -> Void
  ) {
    self.call = call
    self.operationCount = operationCount
    self.keyValueByteCount = keyValueByteCount
    self.checksum = checksum
    self.maxError = maxError
    self.tensors = tensors
  }

  private static func make<Element: AttentionElement>(_ request: Request, _: Element.Type) throws -> Workload {
    switch request.op {
    case .sdpa: try attention(request, Element.self)
    case .mha: try layer(request, Element.self)
    case .block: try block(request, Element.self)
    case .gemm, .batchedGEMM: try product(request, Element.self)
    case .softmax: try softmax(request, Element.self)
    case .machine: throw AttentionError(.invalidArgument, "op", "machine has no workload")
    }
  }

  /// The seconds that each of several calls takes.
  func seconds(_ algorithm: Request.Algorithm, _ context: AttentionContext, iterations: Int) throws -> [Double] {
    try withKeptMemory(byteCount: keptByteCount) {
      try (0..<iterations).map { _ in try secondsTaken { try call(algorithm, context) } }
    }
  }
}

extension AttentionContext {
  /// The default context with the threads and the algorithm of a request.
  init(_ request: Request) {
    var wanted: AttentionAlgorithm?
    if case .library(let algorithm) = request.algorithm { wanted = algorithm }
    self.init(threadCount: request.threads, algorithm: wanted, precision: request.precision)
  }
}

/// Keeps the workload of the last request.
struct WorkloadCache {
  private var request: Request?
  private var workload: Workload?

  mutating func run(_ request: Request) throws -> Answer {
    if workload == nil || self.request?.hasInputs(of: request) != true {
      workload = nil
      workload = try Workload(request)
      self.request = request
    }
    let workload = workload!
    let context = AttentionContext(request)
    var seconds: [Double] = []
    var readRates: [Double] = []
    if request.rotation == 1 {
      seconds = try workload.seconds(request.algorithm, context, iterations: request.iterations)
    } else {
      // Calls and plain reading take turns, because the memory's rate changes from moment to moment.
      while seconds.count < request.iterations {
        let count = min(request.rotation, request.iterations - seconds.count)
        seconds += try workload.seconds(request.algorithm, context, iterations: count)
        readRates.append(workload.readRate(context))
      }
    }
    if let path = request.save { try workload.tensors().write(to: path) }
    let middle = median(seconds)
    let name =
      switch request.algorithm {
      case .library(let algorithm): (algorithm ?? context.resolvedAlgorithm).rawValue
      case .unfused: "unfused"
      case .naive: "naive"
      }
    return Answer(
      seconds: seconds, operations: workload.operationCount, gflops: workload.operationCount / middle * 1e-9,
      algorithm: name,
      isa: try context.resolvedInstructionSet().rawValue, checksum: try workload.checksum(),
      readGBps: request.rotation > 1 ? Double(workload.keyValueByteCount) / middle * 1e-9 : nil,
      readLimitGBps: request.rotation > 1 ? median(readRates) : nil,
      maxError: request.error ? try workload.maxError?() : nil)
  }
}

func secondsTaken(_ body: () throws -> Void) rethrows -> Double {
  let components = try ContinuousClock().measure(body).components
  return Double(components.seconds) + Double(components.attoseconds) * 1e-18
}

/// The middle value, or the mean of the two middle values.
func median(_ values: [Double]) -> Double {
  let sorted = values.sorted()
  return (sorted[(sorted.count - 1) / 2] + sorted[sorted.count / 2]) / 2
}

/// A result that outlives a call, so that the next call can reuse its memory.
final class Slot<Element: AttentionStorage> {
  var tensor: Tensor<Element>
  init(_ tensor: Tensor<Element>) { self.tensor = tensor }

  func checksum() throws -> Double {
    try tensor.withUnsafeBufferPointer { $0.reduce(0) { $0 + $1._double } }
  }

  /// A function that gives the largest difference from the result of `reference`; nil for Double, because there is
  /// nothing more exact to compare with.
  func comparison(with reference: @escaping () throws -> Tensor<Double>) -> (() throws -> Double)? {
    if Element.self == Double.self { return nil }
    return {
      zip(self.tensor.array, try reference().array).reduce(0) { worst, pair in
        let error = abs(pair.0._double - pair.1)
        return error.isNaN ? .infinity : max(worst, error)
      }
    }
  }
}

/// Random numbers, uniform on [−1, 1). They are made as Floats and then converted, so that all element types get the
/// same numbers, apart from rounding.
func random<Element: AttentionStorage>(_ shape: [Int], _ request: Request, _ index: UInt64) throws -> Tensor<Element> {
  let numbers = try Tensor<Float>(uniform: -1..<1, shape: shape, seed: request.seed &* 1000 &+ index)
  return try numbers as? Tensor<Element> ?? Tensor(converting: numbers)
}

func wide<Element: AttentionStorage>(_ tensor: Tensor<Element>) throws -> Tensor<Double> {
  try Tensor(converting: tensor)
}
