internal import AttentionBLAS
internal import AttentionFiles
public import AttentionTensors

/// Texts with their vectors, for searching. The search is exact: a query is compared with every text.
///
///     let index = try EmbeddingIndex(lines: lines, encoder: encoder)
///     try index.write(to: "lines.index")
///     let query = try encoder.embed(["who is tall and handsome"], prompt: .query)
///     let matches = try index.search(query, limit: 5)[0]
///
/// Vectors are compared as the model's settings say: by the cosine of the angle between them, or by their product. Texts are
/// embedded with the model's prompt for documents, if it has one.
///
/// The file of an index is a safetensors file, which is mapped. Opening it reads and checks 16 bytes a text; vectors and texts
/// are read when they are used.
///
/// | tensor | |
/// |---|---|
/// | `vectors` | F32 `[N, d]` |
/// | `text.bytes`, `text.ends` | U8: the texts, one after another; I64 `[N]`: where each text ends |
/// | `lines` | I64 `[N]`: the line number of each text, from 1 |
/// | `probe` | F32 `[d]`: the vector of a fixed text, which identifies the model |
/// | `inverse.lengths` | F32 `[N]`: 1 / ‖vector‖, if vectors are compared by the cosine and do not have length 1 |
///
/// The metadata says how many texts were cut (`cut`).
///
/// Cost of a search among N texts with vectors of d elements: 2·N·d operations for each query; then one thread chooses
/// the best texts.
public struct EmbeddingIndex: Sendable {
  /// A text that was found.
  public struct Match: Sendable, Hashable {
    /// The cosine of the angle between both vectors, or their product if the model's settings say so.
    public let score: Float
    /// The place of the text in the index, from 0.
    public let position: Int
    /// The number of the line that held the text, from 1.
    public let line: Int
    /// The text; if its line was cut into chunks, the best chunk.
    public let text: String
  }

  /// How a text that is longer than the model's limit is cut into several texts.
  public struct Chunking: Sendable, Hashable {
    /// The largest number of tokens that two successive chunks share, so that words on both sides of a cut stand
    /// together in one of the chunks; nil: an eighth of a chunk.
    public var overlap: Int?

    /// Chunks of as many tokens as the model accepts; neighbours share some of them.
    public init(overlap: Int? = nil) { self.overlap = overlap }
  }

  private let vectors: Tensor<Float>
  private let bytes: Tensor<UInt8>
  private let ends: Tensor<Int64>
  private let lines: Tensor<Int64>
  private let probe: Tensor<Float>
  /// 1 / ‖vector‖ for each text, which turns products into cosines; nil: products are compared as they are.
  private let inverseLengths: Tensor<Float>?
  /// True if texts that follow one another may be chunks of one line; then only the best chunk of a line counts.
  private let hasChunks: Bool
  /// The number of texts that were longer than the model's limit when the index was made: their ends are not in their vectors.
  public let cutCount: Int

  private static let format = "swift-attention index 1"
  private static let probeText = "The same text, to know a model by."
  /// The number of texts that are compared at once: with 64 queries their scores take some 2 MB.
  private static let blockLength = 8192
  private static let queryBlockLength = 64

  /// The largest number of texts: more would not fit 32-bit extents.
  private static var countLimit: Int { Int(Int32.max) - 1 }

  /// An index of lines; blank lines are left out.
  ///
  /// - Parameters:
  ///   - lines: The lines.
  ///   - encoder: Makes the vectors.
  ///   - chunking: How a line that is longer than the model's limit becomes several texts, of which only the best counts in a
  ///     search; nil: such lines are cut, and ``cutCount`` says how many.
  ///   - context: Threads, instruction set, algorithm.
  ///   - progress: Called from time to time with the number of texts that are done and the number of all texts.
  /// - Throws: `AttentionError` if there is not enough memory, if the overlap is below 0 or at least half a chunk, if a
  ///   vector holds a number that is not finite, or if the index does not compute the model's similarity; any error of
  ///   `progress`.
  public init(
    lines: some Sequence<String>, encoder: SentenceEncoder, chunking: Chunking? = nil,
    context: AttentionContext = .default, progress: (Int, Int) throws -> Void = { _, _ in }
  ) throws {
    var texts: [String] = []
    var numbers: [Int64] = []
    for (index, line) in lines.enumerated() where !line.allSatisfy(\.isWhitespace) {
      let parts = try chunking.map { try encoder.chunks(of: line, overlap: $0.overlap, prompt: .document) } ?? [line]
      texts += parts
      numbers += parts.map { _ in Int64(index + 1) }
    }
    try self.init(texts: texts, lines: numbers, encoder: encoder, context: context, progress: progress)
  }

  /// An index of texts, including blank ones. The line number of a text is its place in `texts`, counted from 1.
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
    var vectors = try Tensor<Float>(uninitializedShape: [texts.count, encoder.dimension])
    let prompt = try encoder.resolve(.document)
    let similarity = try encoder.similarity
    hasChunks = Self.hasRepetitions(lines)
    var cutCount = 0
    try progress(0, texts.count)
    for first in stride(from: 0, to: texts.count, by: Self.reportLength) {
      let range = first..<min(first + Self.reportLength, texts.count)
      let sequences = texts[range].map { text in
        let (ids, isCut) = encoder.tokens(text, after: prompt)
        if isCut { cutCount += 1 }
        return TokenSequence(ids: ids, promptTokenCount: prompt.tokenCount)
      }
      let part = try encoder.embed(sequences, context: context)
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
      guard kernels.isFinite(encoder.dimension, vectors.base + index * encoder.dimension) else {
        throw AttentionError(
          .invalidFile, "EmbeddingIndex",
          "vectors of finite numbers expected; the model gives others for \"\(text.prefix(40))\"")
      }
    }
    // Products of normalised vectors are already cosines, unless the vectors were truncated after normalisation.
    let isProduct = similarity == .dot || (encoder.isNormalized && encoder.truncatedDimension == nil)
    inverseLengths = isProduct ? nil : try Self.inverseLengths(vectors)
    self.vectors = vectors
    self.bytes = try Tensor(bytes, shape: [bytes.count])
    self.ends = try Tensor(ends, shape: [ends.count])
    self.lines = try Tensor(lines, shape: [lines.count])
    self.cutCount = cutCount
    probe = try encoder.embed([Self.probeText], prompt: .none, context: context).reshaped([encoder.dimension])
  }

  /// The number of texts that are embedded between two reports of progress.
  private static let reportLength = 1024

  /// 1 / ‖x‖ for each row x. As in PyTorch's `normalize`, ‖x‖ counts as at least 1e-12.
  private static func inverseLengths(_ vectors: Tensor<Float>) throws -> Tensor<Float> {
    let (count, dimension) = (vectors.shape[0], vectors.shape[1])
    return try Tensor(shape: [count]) { target in
      try vectors.withUnsafeBufferPointer { vectors in
        for row in 0..<count {
          let sum = vectors[row * dimension..<(row + 1) * dimension].reduce(0) { $0 + $1 * $1 }
          target[row] = 1 / max(sum.squareRoot(), 1e-12)
        }
      }
    }
  }

  private static func hasRepetitions(_ lines: some Sequence<Int64>) -> Bool {
    zip(lines, lines.dropFirst()).contains { $0 == $1 }
  }

  /// An index from a file that ``write(to:)`` has written. The file is mapped.
  /// - Throws: `AttentionError` if the file is not an index, or contradicts itself.
  public init(contentsOf path: String) throws {
    let file = try SafeTensorsFile(contentsOf: path)
    try requireFile(
      file.metadata["format"] == Self.format, path,
      "the format \"\(Self.format)\" expected; it is \(file.metadata["format"].map { "\"\($0)\"" } ?? "not told")")
    vectors = try file.tensor("vectors", as: Float.self)
    bytes = try file.tensor("text.bytes", as: UInt8.self)
    ends = try file.tensor("text.ends", as: Int64.self)
    lines = try file.tensor("lines", as: Int64.self)
    probe = try file.tensor("probe", as: Float.self)
    hasChunks = Self.hasRepetitions(lines.array)
    inverseLengths =
      file.entry("inverse.lengths") == nil ? nil : try file.tensor("inverse.lengths", as: Float.self)
    let cut = file.metadata["cut"] ?? "0"
    guard let cutCount = Int(cut), cutCount >= 0 else {
      throw AttentionError(.invalidFile, path, "cut: a number from 0 expected; got \"\(cut)\"")
    }
    self.cutCount = cutCount
    let isWhole =
      vectors.rank == 2 && vectors.shape[0] <= Self.countLimit && ends.shape == [vectors.shape[0]]
      && lines.shape == ends.shape && bytes.rank == 1 && probe.shape == [vectors.shape[1]]
    try requireFile(
      inverseLengths.map { $0.shape == ends.shape } ?? true, path,
      "inverse.lengths \(ends.shape) expected; got \(inverseLengths?.shape ?? [])")
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

  /// True if the file begins like a safetensors file; no text begins like this. ``init(contentsOf:)`` checks whether
  /// the file is a valid index.
  public static func isIndex(path: String) -> Bool {
    // The file begins with the header's length in 8 bytes, of which the last four are 0; the header follows.
    guard let start = firstBytes(of: path, count: 9), start.count == 9 else { return false }
    return start[4..<8].allSatisfy { $0 == 0 } && start[8] == UInt8(ascii: "{")
  }

  /// Writes the index. The path holds either its old content or the whole index, never a part of it.
  /// - Throws: `AttentionError` if it cannot be written.
  public func write(to path: String) throws {
    var writer = SafeTensorsWriter()
    writer.metadata["format"] = Self.format
    writer.metadata["cut"] = "\(cutCount)"
    try writer.add("vectors", vectors)
    try writer.add("text.bytes", bytes)
    try writer.add("text.ends", ends)
    try writer.add("lines", lines)
    try writer.add("probe", probe)
    if let inverseLengths { try writer.add("inverse.lengths", inverseLengths) }
    try writer.write(to: path)
  }

  /// The number of texts; each chunk of a line counts as one.
  public var count: Int { vectors.shape[0] }
  /// The dimension of vectors.
  public var dimension: Int { vectors.shape[1] }

  /// The text at a place.
  public func text(_ position: Int) -> String {
    let start = position == 0 ? 0 : Int(ends[position - 1])
    let range = start..<Int(ends[position])
    return withExtendedLifetime(bytes) {
      String(decoding: UnsafeBufferPointer(start: bytes.base + range.lowerBound, count: range.count), as: UTF8.self)
    }
  }

  /// The vector of the text at a place, `[d]`, as the model computed it.
  /// - Throws: `AttentionError` if there is no such place.
  public func vector(_ position: Int) throws -> Tensor<Float> { try vectors.select(position, axis: 0) }

  /// Throws unless `encoder` computes the vectors that the index holds.
  /// - Throws: `AttentionError` if its vector of a fixed text differs from the one in the index.
  public func check(_ encoder: SentenceEncoder, context: AttentionContext = .default) throws {
    try requireArgument(
      encoder.dimension == dimension, "EmbeddingIndex",
      "a model of dimension \(dimension) expected, as the index has it; got \(encoder.dimension)")
    let own = try encoder.embed([Self.probeText], prompt: .none, context: context)
    // Results of different instruction sets differ by less than this limit; NaN does not pass.
    try requireArgument(
      (0..<dimension).allSatisfy { abs(own[0, $0] - probe[$0]) < 1e-3 }, "EmbeddingIndex",
      "the model that the index was made with expected; this one gives other vectors")
  }

  /// The best texts for each query, best first. If two texts have equal scores, the earlier text comes first. If a line is cut
  /// into chunks, only its best chunk counts.
  ///
  /// - Parameters:
  ///   - queries: `[Q, d]`: vectors from the index's model, embedded with ``EmbeddingPrompt/query``.
  ///   - limit: The largest number of texts for each query.
  ///   - context: Threads, instruction set, algorithm.
  /// - Returns: A list for each query.
  /// - Throws: `AttentionError` if the queries have another dimension or there is not enough memory.
  public func search(
    _ queries: Tensor<Float>, limit: Int, context: AttentionContext = .default
  ) throws -> [[Match]] {
    try requireShape(
      queries.rank == 2 && queries.shape[1] == dimension, "EmbeddingIndex",
      "queries [Q, \(dimension)] expected; got \(queries.shape)")
    try requireArgument(limit >= 0, "EmbeddingIndex", "a limit from 0 expected; got \(limit)")
    if queries.shape[0] > Self.queryBlockLength {
      return try stride(from: 0, to: queries.shape[0], by: Self.queryBlockLength).flatMap { first in
        let range = first..<min(first + Self.queryBlockLength, queries.shape[0])
        return try search(queries.slice(range, axis: 0), limit: limit, context: context)
      }
    }
    let lengths = try inverseLengths.map { _ in try Self.inverseLengths(queries.contiguous()) }
    var best = Array(repeating: BestScores(limit: min(limit, count)), count: queries.shape[0])
    var bestOfLines = Array(repeating: BestOfLine(), count: hasChunks ? queries.shape[0] : 0)
    for first in stride(from: 0, to: count, by: Self.blockLength) {
      let block = try vectors.slice(first..<min(first + Self.blockLength, count), axis: 0)
      let scores = try matmul(queries, block.transposed(), context: context)
      if let inverseLengths, let lengths {
        for query in best.indices {
          let row = scores.mutableBase + query * block.shape[0]
          for i in 0..<block.shape[0] { row[i] *= lengths.base[query] * inverseLengths.base[first + i] }
        }
      }
      try scores.withUnsafeBufferPointer { scores in
        for query in best.indices {
          let row = query * block.shape[0]
          if hasChunks {
            for i in 0..<block.shape[0] {
              if let done = bestOfLines[query].add(scores[row + i], first + i, line: lines.base[first + i]) {
                best[query].add(done.score, done.position)
              }
            }
          } else {
            for i in 0..<block.shape[0] { best[query].add(scores[row + i], first + i) }
          }
        }
      }
    }
    for query in bestOfLines.indices {
      if let done = bestOfLines[query].best { best[query].add(done.score, done.position) }
    }
    return best.map { list in
      list.sorted.map {
        Match(score: $0.score, position: $0.position, line: Int(lines[$0.position]), text: text($0.position))
      }
    }
  }
}

/// The best chunk of the current line.
private struct BestOfLine {
  private(set) var best: (score: Float, position: Int)?
  private var line: Int64 = 0

  /// Adds a chunk. If it begins a new line, returns the best chunk of the line before. Any number is better than NaN;
  /// of equal scores, the first is the best.
  mutating func add(_ score: Float, _ position: Int, line: Int64) -> (score: Float, position: Int)? {
    if line == self.line, let best {
      if score > best.score || best.score.isNaN { self.best = (score, position) }
      return nil
    }
    defer { (best, self.line) = ((score, position), line) }
    return best
  }
}

/// The largest of many scores.
private struct BestScores {
  private let limit: Int
  private var entries: [(score: Float, position: Int)] = []
  /// The value that a score must exceed, once there are `limit` entries.
  private var threshold = -Float.infinity

  init(limit: Int) { self.limit = limit }

  /// Adds a score; positions come in ascending order. NaN is never among the best.
  mutating func add(_ score: Float, _ position: Int) {
    guard limit > 0, score > threshold || (score == -.infinity && entries.count < limit) else { return }
    entries.append((score, position))
    // Sorted only from time to time, so that adding a score is cheap whatever the limit.
    if entries.count >= 2 * limit + 32 { prune() }
  }

  private mutating func prune() {
    entries.sort { ($0.score, $1.position) > ($1.score, $0.position) }
    if limit == 0 || entries.count < limit { return }
    entries.removeSubrange(limit...)
    threshold = entries[limit - 1].score
  }

  /// The best scores, best first; of equal ones the earlier comes first.
  var sorted: [(score: Float, position: Int)] {
    var copy = self
    copy.prune()
    return copy.entries
  }
}
