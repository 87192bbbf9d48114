import Attention
import AttentionTensors

/// One request: a line of input with a JSON object. Fields that are left out have the defaults in `init(from:)`.
struct Request: Decodable {
  enum Operation: String, Decodable { case sdpa, mha, block, gemm, batchedGEMM = "batched_gemm", softmax, machine }
  enum DType: String, Decodable { case f32, f64, f16, bf16 }
  enum Mask: String, Decodable {
    case none, causal, causalTopLeft = "causal_top_left", boolean, bias, keyLengths = "key_lengths", alibi,
      alibiFunction = "alibi_function"
  }
  /// The kind of cache that holds the keys and values; its own causal mask applies.
  enum Cache: String, Decodable { case growing, paged }
  enum Pass: String, Decodable { case forward, forwardBackward = "forward_backward" }
  /// The code that runs: the library, with a forced algorithm or not, or an implementation that it is compared with.
  enum Algorithm: Equatable {
    case library(AttentionAlgorithm?)
    /// Attention with the whole L × S matrix of scores: GEMM, softmax, GEMM.
    case unfused
    /// The plain formula, which computes one number after another.
    case naive
  }

  let op: Operation
  /// The batch size B. `gemm` ignores it. `softmax` has batch × heads × queries rows.
  var batch: Int
  var heads: Int
  var keyValueHeads: Int
  var queries: Int
  var keys: Int
  let width: Int
  let valueWidth: Int
  let dtype: DType
  let mask: Mask
  let cache: Cache?
  /// The number of keys to the left of the diagonal that a query may attend to, in addition to the rule of `mask`; nil:
  /// no limit.
  var window: Int?
  let pass: Pass
  var algorithm: Algorithm
  var precision: AttentionPrecision
  /// The number of pairs of a key and a value tensor that calls use in turn, so that a pair is no longer in the CPU's
  /// cache when its turn comes again.
  var rotation: Int
  /// Whether each call writes into a new tensor instead of an existing one.
  let fresh: Bool
  var threads: Int?
  var iterations: Int
  let seed: UInt64
  /// For `gemm` and `batched_gemm`, true: [queries, width] · [keys, width]ᵀ; false: [queries, keys] · [keys, width].
  let transposed: Bool
  /// Whether the result is also compared with the same call in Double.
  var error: Bool
  /// The path of a safetensors file for the inputs and the last call's output, so that another program can read and
  /// compare them.
  let save: String?

  private enum CodingKeys: String, CodingKey {
    case op, batch, heads, keyValueHeads = "kv_heads", queries, keys, width, valueWidth = "value_width", dtype, mask,
      cache, window, pass, algorithm, precision, threads, iterations, seed, transposed, error, rotation, fresh, save
  }

  init(from decoder: any Decoder) throws {
    let fields = try decoder.container(keyedBy: CodingKeys.self)
    func field<Value: Decodable>(_ key: CodingKeys, _ value: Value) throws -> Value {
      try fields.decodeIfPresent(Value.self, forKey: key) ?? value
    }
    op = try fields.decode(Operation.self, forKey: .op)
    batch = try field(.batch, 1)
    heads = try field(.heads, 1)
    keyValueHeads = try field(.keyValueHeads, heads)
    queries = try field(.queries, op == .machine ? 1 : try fields.decode(Int.self, forKey: .queries))
    keys = try field(.keys, queries)
    width = try field(.width, 64)
    valueWidth = try field(.valueWidth, width)
    dtype = try field(.dtype, .f32)
    mask = try field(.mask, .none)
    cache = try fields.decodeIfPresent(Cache.self, forKey: .cache)
    window = try fields.decodeIfPresent(Int.self, forKey: .window)
    pass = try field(.pass, .forward)
    let algorithmName = try field(.algorithm, "auto")
    let precisionName = try field(.precision, AttentionPrecision.full.rawValue)
    guard let precision = AttentionPrecision(rawValue: precisionName) else {
      let names = AttentionPrecision.allCases.map(\.rawValue).joined(separator: ", ")
      throw Self.unsupported("precision", precisionName, names)
    }
    self.precision = precision
    rotation = try field(.rotation, 1)
    fresh = try field(.fresh, false)
    threads = try fields.decodeIfPresent(Int.self, forKey: .threads)
    iterations = try field(.iterations, 5)
    seed = try field(.seed, 1)
    transposed = try field(.transposed, false)
    error = try field(.error, false)
    save = try fields.decodeIfPresent(String.self, forKey: .save)
    func check(_ key: CodingKeys, _ value: Int, from least: Int) throws {
      // With this limit, the product of any three of these numbers fits in an Int.
      let most = 1 << 20
      guard value >= least, value <= most else {
        throw AttentionError(
          .invalidArgument, "field \"\(key.stringValue)\"", "a number from \(least) to \(most) expected; got \(value)")
      }
    }
    for (key, value) in [
      (CodingKeys.batch, batch), (.heads, heads), (.keyValueHeads, keyValueHeads), (.iterations, iterations),
      (.threads, threads ?? 1), (.rotation, rotation), (.width, width), (.valueWidth, valueWidth), (.queries, queries),
      (.keys, keys),
    ] { try check(key, value, from: 1) }
    if let window { try check(.window, window, from: 0) }
    guard op != .sdpa || heads % keyValueHeads == 0 else {
      throw AttentionError(
        .invalidArgument, "field \"heads\"", "a multiple of the \(keyValueHeads) key/value heads expected; got \(heads)"
      )
    }
    guard op == .sdpa || rotation == 1 else {
      throw AttentionError(.invalidArgument, "field \"rotation\"", "1 expected for what has no keys; got \(rotation)")
    }
    let planes = Double(batch * heads)
    let hasScores = mask == .boolean || mask == .bias || op != .sdpa && op != .mha && op != .block
    let largest =
      planes * Double(rotation)
      * max(
        Double(queries) * Double(max(width, valueWidth)), Double(keys) * Double(max(width, valueWidth)),
        hasScores ? Double(queries) * Double(keys) : 0,
        op == .mha || op == .block ? 12 * Double(width * heads) * Double(width * heads) / planes : 0)
    guard largest <= 0x1p34 else {
      throw AttentionError(.invalidArgument, "extents", "operands of at most 2^34 elements expected")
    }
    if op != .sdpa && dtype != .f32 && dtype != .f64 {
      throw Self.unsupported("dtype", dtype.rawValue, "f32, f64")
    }
    guard cache == nil || (op == .sdpa && queries <= keys && [.none, .causal].contains(mask) && window == nil) else {
      throw AttentionError(
        .invalidArgument, "field \"cache\"",
        "sdpa with no more queries than keys and no other mask than causal expected")
    }
    if op == .block {
      if pass == .forward { throw Self.unsupported("pass", pass.rawValue, "forward_backward") }
    } else if pass != .forward && (op != .sdpa || cache != nil || rotation != 1) {
      throw Self.unsupported("pass", pass.rawValue, "forward")
    }
    let hasBaselines = op == .sdpa && pass == .forward && cache == nil && ![.alibi, .alibiFunction].contains(mask)
    let baselines: [String: Algorithm] = hasBaselines ? ["unfused": .unfused, "naive": .naive] : [:]
    if algorithmName == "auto" {
      algorithm = .library(nil)
    } else if let known = AttentionAlgorithm(rawValue: algorithmName) {
      algorithm = .library(known)
    } else if let baseline = baselines[algorithmName] {
      algorithm = baseline
    } else {
      let names = ["auto"] + AttentionAlgorithm.allCases.map(\.rawValue) + baselines.keys.sorted()
      throw Self.unsupported("algorithm", algorithmName, names.joined(separator: ", "))
    }
  }

  private static func unsupported(_ field: String, _ value: String, _ present: String) -> AttentionError {
    AttentionError(.unsupported, "field \"\(field)\"", "\"\(value)\" is not present; present: \(present)")
  }

  /// True if both requests need the same inputs: these do not depend on threads, algorithm and iterations.
  func hasInputs(of other: Request) -> Bool {
    op == other.op && batch == other.batch && heads == other.heads && keyValueHeads == other.keyValueHeads
      && queries == other.queries && keys == other.keys && width == other.width && valueWidth == other.valueWidth
      && dtype == other.dtype && mask == other.mask && cache == other.cache && window == other.window
      && pass == other.pass
      && seed == other.seed
      && transposed == other.transposed && rotation == other.rotation && fresh == other.fresh
  }
}

/// The answer to a request: a line of output with a JSON object.
struct Answer: Encodable {
  let seconds: [Double]
  /// The operations of one call, counted as in the literature.
  let operations: Double
  /// The rate that follows from the median of the seconds.
  let gflops: Double
  let algorithm: String
  let isa: String
  let checksum: Double
  /// The rate at which calls read keys and values that are not in the CPU's cache; nil if the request's rotation is 1.
  let readGBps: Double?
  /// The rate at which threads that do nothing else read the same memory, in turn with the calls; nil if the request's
  /// rotation is 1.
  let readLimitGBps: Double?
  /// The largest absolute difference from the same call in Double; nil unless it was requested.
  let maxError: Double?

  private enum CodingKeys: String, CodingKey {
    case seconds, operations, gflops, algorithm, isa, checksum, readGBps = "read_gbps", readLimitGBps =
      "read_limit_gbps",
      maxError = "max_error"
  }
}
