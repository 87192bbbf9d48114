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
  /// Hidden states to one vector: the results of these, one after another.
  public let poolings: [Pooling]
  /// Whether vectors are brought to length 1, so that their product is the cosine of their angle; before they are cut to
  /// ``truncatedDimension``.
  public let isNormalized: Bool
  /// Tokens of a text at most; what follows is left out.
  public let maximumLength: Int
  /// Columns of a vector that are kept, the first ones; nil: all.
  public let truncatedDimension: Int?
  /// The prompts that the model's settings name, by their names.
  public var prompts: [String: String] { settings.prompts.texts }
  /// The prompt that ``EmbeddingPrompt/automatic`` takes; nil: none.
  public var defaultPromptName: String? { settings.prompts.defaultName }
  /// By what the model's settings compare vectors, `similarity_fn_name`; ``EmbeddingSimilarity/cosine`` where they say nothing.
  /// - Throws: `AttentionError` where they name a similarity that ``EmbeddingIndex`` does not compute.
  public var similarity: EmbeddingSimilarity {
    get throws(AttentionError) {
      guard let name = settings.similarityName else { return .cosine }
      if let similarity = EmbeddingSimilarity(rawValue: name) { return similarity }
      throw AttentionError(
        .unsupported, "similarity_fn_name", "one of cosine, dot expected for a search; got \"\(name)\"")
    }
  }

  private let settings: EmbeddingSettings

  /// The first of ``poolings``: most models have one.
  public var pooling: Pooling { poolings[0] }

  /// The dimension of vectors.
  public var dimension: Int { min(pooledDimension, truncatedDimension ?? .max) }

  private var pooledDimension: Int { encoder.configuration.hiddenDimension * poolings.count }

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
    var settings = EmbeddingSettings()
    settings.poolings = [pooling]
    settings.isNormalized = isNormalized
    settings.maximumLength = maximumLength
    try self.init(tokenizer: tokenizer, encoder: encoder, settings)
  }

  private init(
    tokenizer: WordPieceTokenizer, encoder: BertEncoder, _ settings: EmbeddingSettings
  ) throws(AttentionError) {
    let length = settings.maximumLength ?? encoder.configuration.positionCount
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
    self.settings = settings
    poolings = settings.poolings
    isNormalized = settings.isNormalized
    maximumLength = length
    truncatedDimension = settings.truncatedDimension
  }

  /// The model of a folder: `config.json`, `model.safetensors`, `tokenizer.json` or `vocab.txt`, and, where
  /// sentence-transformers has saved it, `modules.json`, the pooling's configuration, and `config_sentence_transformers.json`
  /// with prompts, similarity and `truncate_dim`.
  ///
  /// - Parameters:
  ///   - directory: The path of the folder.
  ///   - loading: Whether weights are mapped or read. Mapped files must not change while the model lives.
  /// - Throws: `AttentionError` that names the file and what is wrong with it, or what of it is not supported.
  public init(directory: String, loading: SafeTensorsFile.Loading = .mapped) throws {
    let outer = ModelFolder(path: directory)
    try outer.check()
    var settings = try EmbeddingSettings(folder: outer)
    let folder = ModelFolder(path: settings.encoderPath.isEmpty ? directory : outer.path(settings.encoderPath))
    let configuration = try BertConfiguration(folder: folder)
    let weights = folder.path("model.safetensors")
    guard folder.contains("model.safetensors") else {
      let others = ["model.safetensors.index.json", "pytorch_model.bin", "tf_model.h5"].filter(folder.contains)
      throw AttentionError(
        .notFound, weights,
        others.isEmpty ? "no such file" : "weights in one safetensors file expected; there is \(others[0])")
    }
    settings.maximumLength = settings.maximumLength.map { min($0, configuration.positionCount) }
    try self.init(
      tokenizer: WordPieceTokenizer(folder: folder, lowercases: settings.lowercases),
      encoder: BertEncoder(
        configuration: configuration, weights: SafeTensorsFile(contentsOf: weights, loading: loading)),
      settings)
  }

  // MARK: Tokens

  /// The tokens of a text, as ``embed(_:prompt:context:)`` sees them, the model's default prompt in front.
  public func tokens(_ text: String) -> [Int32] {
    tokens(text, after: ResolvedPrompt(text: settings.prompts.first([]), tokenCount: 0)).ids
  }

  /// Whether a text has more tokens, its prompt's counted, than ``maximumLength``: the rest is left out of its vector.
  /// - Throws: `AttentionError` for a prompt that the model does not have.
  public func isCut(_ text: String, prompt: EmbeddingPrompt = .automatic) throws(AttentionError) -> Bool {
    tokens(text, after: try resolve(prompt)).isCut
  }

  /// A prompt, and how many tokens at the front of a text are not pooled for it.
  struct ResolvedPrompt: Sendable {
    let text: String
    let tokenCount: Int
  }

  func resolve(_ prompt: EmbeddingPrompt) throws(AttentionError) -> ResolvedPrompt {
    let text = try settings.prompts.text(prompt)
    if text.isEmpty || settings.poolsPrompt { return ResolvedPrompt(text: text, tokenCount: 0) }
    // Those around the text that come before it count too.
    let own = tokens("", after: ResolvedPrompt(text: text, tokenCount: 0)).ids
    return ResolvedPrompt(text: text, tokenCount: own.count - tokenizer.suffixLength)
  }

  func tokens(_ text: String, after prompt: ResolvedPrompt) -> (ids: [Int32], isCut: Bool) {
    tokenizer.encode(prompt.text + text, cutTo: maximumLength)
  }

  // MARK: Vectors

  /// A vector for each text.
  ///
  /// - Parameters:
  ///   - texts: Any texts, also empty ones; what is longer than ``maximumLength`` is cut.
  ///   - prompt: What is put before each text.
  ///   - context: Threads, instruction set, algorithm.
  /// - Returns: `[texts, dimension]`, in the order of the texts.
  /// - Throws: `AttentionError` for a prompt that the model does not have, where memory is lacking, or the context asks for
  ///   what this machine lacks.
  public func embed(
    _ texts: [String], prompt: EmbeddingPrompt = .automatic, context: AttentionContext = .default
  ) throws -> Tensor<Float> {
    let prompt = try resolve(prompt)
    let sequences = texts.map { TokenSequence(ids: tokens($0, after: prompt).ids, promptTokenCount: prompt.tokenCount) }
    return try embed(sequences, context: context)
  }

  /// ``embed(_:prompt:context:)`` of texts that are tokenized already.
  ///
  /// - Parameters:
  ///   - sequences: The ids of each text.
  ///   - context: Threads, instruction set, algorithm.
  ///   - checkpoint: Called before each layer, on any of the threads; what it throws ends the call.
  /// - Returns: `[sequences, dimension]`.
  /// - Throws: As ``BertEncoder/hiddenStates(_:context:checkpoint:)``.
  public func embed(
    tokens sequences: [[Int32]], context: AttentionContext = .default,
    checkpoint: @Sendable () throws -> Void = {}
  ) throws -> Tensor<Float> {
    try embed(
      sequences.map { TokenSequence(ids: $0, promptTokenCount: 0) }, context: context, checkpoint: checkpoint)
  }

  func embed(
    _ sequences: [TokenSequence], context: AttentionContext, checkpoint: @Sendable () throws -> Void = {}
  ) throws -> Tensor<Float> {
    // Here, where a sequence has the caller's number.
    try encoder.check(sequences.map(\.ids))
    let batches = TokenBatch.batches(lengths: sequences.map(\.ids.count))
    let dimension = dimension
    return try Tensor(shape: [sequences.count, dimension]) { target in
      guard let vectors = target.baseAddress.map(UncheckedSendable.init) else { return }
      func run(_ batch: TokenBatch, _ context: AttentionContext) throws {
        let states = try encoder.hiddenStates(
          ofChecked: batch.indices.map { sequences[$0].ids }, context: context, checkpoint: checkpoint)
        var state = states.base
        for index in batch.indices {
          pool(state, sequences[index], into: vectors.value + index * dimension)
          state += sequences[index].ids.count * encoder.configuration.hiddenDimension
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
      context.parallelFor(count: batches.count, nanosecondsPerItem: .infinity) { items, _ in
        if failure.isSet { return }
        do { for batch in batches[items] { try run(batch, inner) } } catch { failure.set(error) }
      }
      try failure.rethrow()
    }
  }

  /// The vector of a text whose hidden states lie one after another: pooled, normalised, cut.
  private func pool(_ states: UnsafePointer<Float>, _ sequence: TokenSequence, into vector: UnsafeMutablePointer<Float>)
  {
    let dimension = encoder.configuration.hiddenDimension
    let rows = min(sequence.promptTokenCount, sequence.ids.count)..<sequence.ids.count
    func pool(into whole: UnsafeMutablePointer<Float>) {
      for (index, pooling) in poolings.enumerated() {
        pooling.apply(states, rows: rows, dimension: dimension, into: whole + index * dimension)
      }
      if isNormalized { Pooling.normalize(whole, dimension: pooledDimension) }
    }
    if self.dimension == pooledDimension { return pool(into: vector) }
    withUnsafeTemporaryAllocation(of: Float.self, capacity: pooledDimension) { whole in
      pool(into: whole.baseAddress!)
      vector.update(from: whole.baseAddress!, count: self.dimension)
    }
  }

  /// The attention weights of a text, and its words.
  ///
  /// - Parameters:
  ///   - text: Any text.
  ///   - context: Threads, instruction set, algorithm.
  /// - Returns: The tokens, and for each layer `[H, L, L]`: how much each token (row) attends to each.
  /// - Throws: As ``embed(_:prompt:context:)``.
  public func attentions(
    for text: String, context: AttentionContext = .default
  ) throws -> (tokens: [String], layers: [Tensor<Float>]) {
    let ids = tokens(text)
    return (ids.map(tokenizer.token), try encoder.trace(ids, context: context).attentions)
  }
}

/// A text as the encoder sees it.
struct TokenSequence {
  let ids: [Int32]
  /// Tokens at its front that are a prompt's, and not pooled.
  let promptTokenCount: Int
}

/// Sequences that go through the encoder together.
struct TokenBatch {
  /// Their places in the caller's list, sorted by length.
  let indices: [Int]

  /// Tokens of a batch, so many that weights are read rarely and so few that threads end together. 512: 1.00 of the time (512
  /// sentences of 29 tokens, 2 threads of an EPYC of family 25, 2026-11).
  static let tokenTarget = 256

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
