internal import Attention
public import AttentionFiles
public import AttentionTensors
internal import Synchronization

/// Texts in, vectors out: a tokenizer, a BERT encoder and a pooling, loaded from a Hugging Face folder.
///
///     let encoder = try SentenceEncoder(directory: "all-MiniLM-L6-v2")
///     let vectors = try encoder.embed(["A man is eating.", "Someone has lunch."])   // [2, 384]
///
/// For programs that compute on their own threads; servers take ``TextEmbedder``. Texts are sorted by length and packed
/// without padding; a text has the same bits alone and beside others, whatever the threads (with OpenBLAS's products,
/// nearly). Safe to call from several threads at once.
public struct SentenceEncoder: Sendable {
  /// Text to tokens.
  public let tokenizer: WordPieceTokenizer
  /// Tokens to hidden states.
  public let encoder: BertEncoder
  /// Hidden states to one vector.
  public let pooling: Pooling
  /// Whether vectors have length 1, so that their product is the cosine of their angle.
  public let isNormalized: Bool
  /// Tokens of a text at most; what follows is left out.
  public let maximumLength: Int

  /// The width of vectors.
  public var width: Int { encoder.configuration.hiddenWidth }

  /// A model of parts.
  ///
  /// - Parameters:
  ///   - tokenizer: Text to tokens.
  ///   - encoder: Tokens to hidden states.
  ///   - pooling: Hidden states to one vector.
  ///   - isNormalized: Whether vectors are brought to length 1.
  ///   - maximumLength: Tokens of a text at most; nil: the encoder's positions.
  /// - Throws: `AttentionError` where the tokenizer has tokens that the encoder does not, or the length holds no token.
  public init(
    tokenizer: WordPieceTokenizer, encoder: BertEncoder, pooling: Pooling = .mean, isNormalized: Bool = true,
    maximumLength: Int? = nil
  ) throws(AttentionError) {
    let length = maximumLength ?? encoder.configuration.positionCount
    try requireArgument(
      tokenizer.leastLength <= length && length <= encoder.configuration.positionCount,
      "SentenceEncoder",
      "a maximum length from \(tokenizer.leastLength) to \(encoder.configuration.positionCount) expected; got \(length)"
    )
    try requireArgument(
      tokenizer.vocabularySize <= encoder.configuration.vocabularySize, "SentenceEncoder",
      "tokens of the encoder's \(encoder.configuration.vocabularySize) expected; the tokenizer has "
        + "\(tokenizer.vocabularySize)")
    self.tokenizer = tokenizer
    self.encoder = encoder
    self.pooling = pooling
    self.isNormalized = isNormalized
    self.maximumLength = length
  }

  /// The model of a folder: `config.json`, `model.safetensors`, `tokenizer.json` or `vocab.txt`, and, where
  /// sentence-transformers has saved it, `modules.json` and the pooling's configuration.
  ///
  /// - Parameters:
  ///   - directory: The path of the folder.
  ///   - loading: Whether weights are mapped or read. Mapped files must not change while the model lives.
  /// - Throws: `AttentionError` that names the file and what is wrong with it.
  public init(directory: String, loading: SafeTensorsFile.Loading = .mapped) throws {
    let outer = ModelFolder(path: directory)
    try outer.check()
    let settings = try EmbeddingSettings(folder: outer)
    let folder = ModelFolder(path: settings.encoderPath.isEmpty ? directory : outer.path(settings.encoderPath))
    let configuration = try BertConfiguration(folder: folder)
    let weights = folder.path("model.safetensors")
    guard folder.contains("model.safetensors") else {
      let others = ["model.safetensors.index.json", "pytorch_model.bin", "tf_model.h5"].filter(folder.contains)
      throw AttentionError(
        .notFound, weights,
        others.isEmpty ? "no such file" : "weights in one safetensors file expected; there is \(others[0])")
    }
    try self.init(
      tokenizer: WordPieceTokenizer(folder: folder),
      encoder: BertEncoder(
        configuration: configuration, weights: SafeTensorsFile(path: weights, loading: loading)),
      pooling: settings.pooling, isNormalized: settings.isNormalized,
      maximumLength: settings.maximumLength.map { min($0, configuration.positionCount) })
  }

  /// The tokens of a text, as ``embed(_:context:)`` sees them.
  public func tokens(_ text: String) -> [Int32] { tokenizer.encode(text, maximumLength: maximumLength) }

  /// A vector for each text.
  ///
  /// - Parameters:
  ///   - texts: Any texts, also empty ones; what is longer than ``maximumLength`` is cut.
  ///   - context: Threads, instruction set, algorithm.
  /// - Returns: `[texts, width]`, in the order of the texts.
  /// - Throws: `AttentionError` where memory is lacking or the context asks for what this machine lacks.
  public func embed(_ texts: [String], context: AttentionContext = .default) throws -> Tensor<Float> {
    try embed(tokens: texts.map(tokens), context: context)
  }

  /// ``embed(_:context:)`` of texts that are tokenized already.
  ///
  /// - Parameters:
  ///   - sequences: The ids of each text.
  ///   - context: Threads, instruction set, algorithm.
  ///   - checkpoint: Called before each layer, on any of the threads; what it throws ends the call.
  /// - Returns: `[sequences, width]`.
  /// - Throws: As ``BertEncoder/hiddenStates(_:context:checkpoint:)``.
  public func embed(
    tokens sequences: [[Int32]], context: AttentionContext = .default,
    checkpoint: @Sendable () throws -> Void = {}
  ) throws -> Tensor<Float> {
    // Here, where a sequence has the caller's number.
    try encoder.check(sequences)
    let batches = TokenBatch.batches(lengths: sequences.map(\.count))
    let width = width
    return try Tensor(shape: [sequences.count, width]) { target in
      guard let vectors = target.baseAddress.map(UncheckedSendable.init) else { return }
      func run(_ batch: TokenBatch, _ context: AttentionContext) throws {
        let states = try encoder.hiddenStates(
          batch.indices.map { sequences[$0] }, context: context, checkpoint: checkpoint)
        var state = states.base
        for index in batch.indices {
          let vector = vectors.value + index * width
          pooling.apply(state, count: sequences[index].count, width: width, into: vector)
          if isNormalized { Pooling.normalize(vector, width: width) }
          state += sequences[index].count * width
        }
        withExtendedLifetime(states) {}
      }
      // Many batches: each on one thread, from the embeddings to the vectors, without waiting for another. Few: all threads
      // in each product.
      if batches.count < 2 * context.threadCount || context.threadCount == 1 {
        for batch in batches { try run(batch, context) }
        return
      }
      var inner = context
      inner.threadCount = 1
      let failure = FirstError()
      context.execute(pieceCount: batches.count, width: context.threadCount) { piece, _ in
        if failure.isSet { return }
        do { try run(batches[piece], inner) } catch { failure.set(error) }
      }
      try failure.rethrow()
    }
  }

  /// The attention weights of a text, and its words.
  ///
  /// - Parameters:
  ///   - text: Any text.
  ///   - context: Threads, instruction set, algorithm.
  /// - Returns: The tokens, and for each layer `[H, L, L]`: how much each token (row) attends to each.
  /// - Throws: As ``embed(_:context:)``.
  public func attentions(
    for text: String, context: AttentionContext = .default
  ) throws -> (tokens: [String], layers: [Tensor<Float>]) {
    let ids = tokens(text)
    return (ids.map(tokenizer.token), try encoder.trace(ids, context: context).attentions)
  }
}

/// Sequences that go through the encoder together.
struct TokenBatch {
  /// Their places in the caller's list, sorted by length.
  let indices: [Int]

  /// Tokens of a batch, so many that weights are read rarely and so few that threads end together. 512: 1.00 of the time (512
  /// sentences of 29 tokens, 2 threads of an EPYC of family 25, 2026-11).
  private static let tokenTarget = 256

  /// Longest first, so that threads end together.
  static func batches(lengths: [Int]) -> [TokenBatch] {
    let order = lengths.indices.sorted { (lengths[$0], $1) > (lengths[$1], $0) }
    var batches: [TokenBatch] = []
    var indices: [Int] = []
    var count = 0
    for index in order {
      if count > 0, count + lengths[index] > tokenTarget {
        batches.append(TokenBatch(indices: indices))
        indices = []
        count = 0
      }
      indices.append(index)
      count += lengths[index]
    }
    if !indices.isEmpty { batches.append(TokenBatch(indices: indices)) }
    return batches
  }
}

/// The first error that any of several threads had.
private final class FirstError: @unchecked Sendable {
  // Sendable: `error` is written by the one who claims, and read when all threads are done.
  private let claimed = Atomic<Bool>(false)
  private var error: (any Error)?

  var isSet: Bool { claimed.load(ordering: .relaxed) }

  func set(_ error: any Error) {
    if !claimed.exchange(true, ordering: .acquiringAndReleasing) { self.error = error }
  }

  func rethrow() throws { if let error { throw error } }
}
