internal import AttentionBLAS
internal import AttentionFiles
public import AttentionTensors
internal import Foundation

/// Texts with their vectors, to be searched by the product of vectors: exact, every text is compared.
///
///     let index = try EmbeddingIndex(lines: lines, encoder: encoder)
///     try index.write(to: "lines.index")
///     let matches = try index.search(encoder.embed(["who is tall and handsome"]), limit: 5)[0]
///
/// A file of an index is a safetensors file, and mapped: opening one of a million texts takes no time.
///
/// | tensor | |
/// |---|---|
/// | `vectors` | F32 `[N, d]` |
/// | `text.bytes`, `text.ends` | U8: the texts, one after another; I64 `[N]`: where each ends |
/// | `lines` | I64 `[N]`: the line of each text, from 1 |
/// | `probe` | F32 `[d]`: the vector of a fixed text, by which a model is known |
///
/// Cost of a search: 2·N·d operations for each query, at the speed of the memory for a few; and some 10 ns a score on one thread.
public struct EmbeddingIndex: Sendable {
  /// A text that was found.
  public struct Match: Sendable, Hashable {
    /// The product of both vectors: of normalised ones, the cosine of their angle.
    public let score: Float
    /// The place of the text, from 0.
    public let position: Int
    /// The line that the text stood in, from 1.
    public let line: Int
    /// The text.
    public let text: String
  }

  private let vectors: Tensor<Float>
  private let bytes: Tensor<UInt8>
  private let ends: Tensor<Int64>
  private let lines: Tensor<Int64>
  private let probe: Tensor<Float>

  private static let format = "swift-attention index 1"
  private static let probeText = "The same text, to know a model by."
  /// Rows whose scores are computed at once: some 2 MB for 64 queries.
  private static let blockLength = 8192
  private static let queryBlockLength = 64

  /// Texts at most: more would not fit 32-bit extents.
  private static var countLimit: Int { Int(Int32.max) - 1 }

  /// An index of the lines of a text; blank ones are left out.
  ///
  /// - Parameters:
  ///   - lines: The lines.
  ///   - encoder: Makes vectors of them.
  ///   - context: Threads, instruction set, algorithm.
  ///   - progress: Called now and then with the number of texts that are done and of all.
  /// - Throws: `AttentionError` where memory is lacking; what `progress` throws.
  public init(
    lines: some Sequence<String>, encoder: SentenceEncoder, context: AttentionContext = .default,
    progress: (Int, Int) throws -> Void = { _, _ in }
  ) throws {
    var texts: [String] = []
    var numbers: [Int64] = []
    for (index, line) in lines.enumerated() where !line.allSatisfy(\.isWhitespace) {
      texts.append(line)
      numbers.append(Int64(index + 1))
    }
    try self.init(texts: texts, lines: numbers, encoder: encoder, context: context, progress: progress)
  }

  /// An index of texts, blank ones too; their lines are their places.
  public init(
    texts: [String], encoder: SentenceEncoder, context: AttentionContext = .default,
    progress: (Int, Int) throws -> Void = { _, _ in }
  ) throws {
    let numbers = (0..<texts.count).map { Int64($0 + 1) }
    try self.init(texts: texts, lines: numbers, encoder: encoder, context: context, progress: progress)
  }

  private init(
    texts: [String], lines: [Int64], encoder: SentenceEncoder, context: AttentionContext,
    progress: (Int, Int) throws -> Void
  ) throws {
    try requireArgument(
      texts.count <= Self.countLimit, "EmbeddingIndex", "at most \(Self.countLimit) texts expected; got \(texts.count)")
    var vectors = try Tensor<Float>(uninitializedShape: [texts.count, encoder.width])
    try progress(0, texts.count)
    for first in stride(from: 0, to: texts.count, by: Self.chunkLength) {
      let range = first..<min(first + Self.chunkLength, texts.count)
      let part = try encoder.embed(Array(texts[range]), context: context)
      try vectors.withMutableView { view in try view.withSlice(range, axis: 0) { try $0.copy(from: part) } }
      try progress(range.upperBound, texts.count)
    }
    var bytes: [UInt8] = []
    var ends: [Int64] = []
    for text in texts {
      bytes += text.utf8
      ends.append(Int64(bytes.count))
    }
    let kernels = try context.kernels(for: Float.self)
    for (index, text) in texts.enumerated() {
      guard kernels.isFinite(encoder.width, vectors.base + index * encoder.width) else {
        throw AttentionError(
          .invalidFile, "EmbeddingIndex",
          "vectors of finite numbers expected; the model gives others for \"\(text.prefix(40))\"")
      }
    }
    self.vectors = vectors
    self.bytes = try Tensor(bytes, shape: [bytes.count])
    self.ends = try Tensor(ends, shape: [ends.count])
    self.lines = try Tensor(lines, shape: [lines.count])
    probe = try encoder.embed([Self.probeText], context: context).reshaped([encoder.width])
  }

  /// Texts that are embedded between two reports of progress.
  private static let chunkLength = 1024

  /// An index that ``write(to:)`` has written; mapped.
  /// - Throws: `AttentionError` where the file is none, or contradicts itself.
  public init(path: String) throws {
    let file = try SafeTensorsFile(path: path)
    try requireFile(
      file.metadata["format"] == Self.format, path,
      "the format \"\(Self.format)\" expected; it is \(file.metadata["format"].map { "\"\($0)\"" } ?? "not told")")
    vectors = try file.tensor("vectors", as: Float.self)
    bytes = try file.tensor("text.bytes", as: UInt8.self)
    ends = try file.tensor("text.ends", as: Int64.self)
    lines = try file.tensor("lines", as: Int64.self)
    probe = try file.tensor("probe", as: Float.self)
    let isWhole =
      vectors.rank == 2 && vectors.shape[0] <= Self.countLimit && ends.shape == [vectors.shape[0]]
      && lines.shape == ends.shape && bytes.rank == 1 && probe.shape == [vectors.shape[1]]
    try requireFile(
      isWhole, path,
      "vectors [N, d], text.ends and lines [N], text.bytes of rank 1 and probe [d] expected; got \(vectors.shape), "
        + "\(ends.shape), \(lines.shape), \(bytes.shape), \(probe.shape)")
    var last: Int64 = 0
    for index in 0..<ends.count {
      try requireFile(
        (last...Int64(bytes.count)).contains(ends.base[index]), path,
        "text.ends from \(last) to \(bytes.count) expected at \(index); got \(ends.base[index])")
      try requireFile(lines.base[index] > 0, path, "lines from 1 expected; got \(lines.base[index]) at \(index)")
      last = ends.base[index]
    }
  }

  /// True if the file begins as safetensors files do, and no text does: ``init(path:)`` tells whether it is a right one.
  public static func isIndex(path: String) -> Bool {
    guard let file = FileHandle(forReadingAtPath: path) else { return false }
    defer { try? file.close() }
    // The header's length in 8 bytes, of which the last four are 0, and the header.
    guard let start = try? file.read(upToCount: 9), start.count == 9 else { return false }
    return start[4..<8].allSatisfy { $0 == 0 } && start[8] == UInt8(ascii: "{")
  }

  /// Writes the index; the path holds its old content or the whole index, never a part.
  /// - Throws: `AttentionError` where it cannot be written.
  public func write(to path: String) throws {
    var writer = SafeTensorsWriter()
    writer.metadata["format"] = Self.format
    try writer.add("vectors", vectors)
    try writer.add("text.bytes", bytes)
    try writer.add("text.ends", ends)
    try writer.add("lines", lines)
    try writer.add("probe", probe)
    try writer.write(to: path)
  }

  /// Texts.
  public var count: Int { vectors.shape[0] }
  /// The width of vectors.
  public var width: Int { vectors.shape[1] }

  /// A text by its place.
  public func text(_ position: Int) -> String {
    let start = position == 0 ? 0 : Int(ends[position - 1])
    let range = start..<Int(ends[position])
    return withExtendedLifetime(bytes) {
      String(decoding: UnsafeBufferPointer(start: bytes.base + range.lowerBound, count: range.count), as: UTF8.self)
    }
  }

  /// The vector of a text by its place, `[d]`.
  /// - Throws: `AttentionError` where there is no such place.
  public func vector(_ position: Int) throws -> Tensor<Float> { try vectors.select(position, axis: 0) }

  /// Throws unless `encoder` makes the vectors that the index holds.
  /// - Throws: `AttentionError` where a fixed text has another vector.
  public func check(_ encoder: SentenceEncoder, context: AttentionContext = .default) throws {
    try requireArgument(
      encoder.width == width, "EmbeddingIndex",
      "a model of width \(width) expected, as the index has it; got \(encoder.width)")
    let own = try encoder.embed([Self.probeText], context: context)
    // What instruction sets differ in is less; NaN is no match.
    try requireArgument(
      (0..<width).allSatisfy { abs(own[0, $0] - probe[$0]) < 1e-3 }, "EmbeddingIndex",
      "the model that the index was made with expected; this one gives other vectors")
  }

  /// The best texts for each query, best first; of equal ones the earlier first.
  ///
  /// - Parameters:
  ///   - queries: `[Q, d]`: vectors of the index's model.
  ///   - limit: Texts for each query at most.
  ///   - context: Threads, instruction set, algorithm.
  /// - Returns: A list for each query.
  /// - Throws: `AttentionError` where the width is another or memory is lacking.
  public func search(
    _ queries: Tensor<Float>, limit: Int, context: AttentionContext = .default
  ) throws -> [[Match]] {
    try requireShape(
      queries.rank == 2 && queries.shape[1] == width, "EmbeddingIndex",
      "queries [Q, \(width)] expected; got \(queries.shape)")
    try requireArgument(limit >= 0, "EmbeddingIndex", "a limit from 0 expected; got \(limit)")
    if queries.shape[0] > Self.queryBlockLength {
      return try stride(from: 0, to: queries.shape[0], by: Self.queryBlockLength).flatMap { first in
        let range = first..<min(first + Self.queryBlockLength, queries.shape[0])
        return try search(queries.slice(range, axis: 0), limit: limit, context: context)
      }
    }
    var best = Array(repeating: BestScores(limit: min(limit, count)), count: queries.shape[0])
    for first in stride(from: 0, to: count, by: Self.blockLength) {
      let block = try vectors.slice(first..<min(first + Self.blockLength, count), axis: 0)
      let scores = try matmul(queries, block.transposed(), context: context)
      try scores.withUnsafeBufferPointer { scores in
        for query in best.indices {
          for i in 0..<block.shape[0] { best[query].add(scores[query * block.shape[0] + i], first + i) }
        }
      }
    }
    return best.map { list in
      list.sorted.map {
        Match(score: $0.score, position: $0.position, line: Int(lines[$0.position]), text: text($0.position))
      }
    }
  }
}

/// The largest of many scores.
private struct BestScores {
  private let limit: Int
  private var entries: [(score: Float, position: Int)] = []
  /// What a score must exceed, once there are as many as wanted.
  private var threshold = -Float.infinity

  init(limit: Int) { self.limit = limit }

  /// Positions come in order. NaN is never among the best.
  mutating func add(_ score: Float, _ position: Int) {
    guard limit > 0, score > threshold || (score == -.infinity && entries.count < limit) else { return }
    entries.append((score, position))
    // Sorted now and then, so that a score costs little, however many are wanted.
    if entries.count >= 2 * limit + 32 { prune() }
  }

  private mutating func prune() {
    entries.sort { ($0.score, $1.position) > ($1.score, $0.position) }
    if limit == 0 || entries.count < limit { return }
    entries.removeSubrange(limit...)
    threshold = entries[limit - 1].score
  }

  /// The best, best first; of equal ones the earlier first.
  var sorted: [(score: Float, position: Int)] {
    var copy = self
    copy.prune()
    return copy.entries
  }
}
