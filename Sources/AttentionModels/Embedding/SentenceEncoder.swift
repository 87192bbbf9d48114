public import Attention
public import AttentionFiles
internal import Synchronization

/// Turns texts into vectors: a tokenizer, a BERT encoder and a pooling, loaded from a Hugging Face folder.
///
///     let encoder = try SentenceEncoder(directory: "all-MiniLM-L6-v2")
///     let vectors = try encoder.embed(["A man is eating.", "Someone has lunch."])   // [2, 384]
///
/// This type is for programs that compute on their own threads; servers use ``TextEmbedder``. Texts are sorted by length and
/// packed without padding. The vector of a text has the same bits whether the text is embedded alone or with others,
/// and with any number of threads (with OpenBLAS's products, nearly the same bits).
/// Safe to call from several threads at once.
public struct SentenceEncoder: Sendable {
  /// Turns text into tokens.
  public let tokenizer: WordPieceTokenizer
  /// Turns tokens into hidden states.
  public internal(set) var encoder: BertEncoder
  /// The ways of pooling the hidden states. The vector of a text holds the results of all of them, one after another.
  public let poolings: [Pooling]
  /// Whether vectors are divided by their length, so that the product of two is the cosine of the angle between them. This
  /// happens before they are cut to ``truncatedDimension``.
  public let isNormalized: Bool
  /// The largest number of tokens of a text; the rest is left out.
  public let maximumLength: Int
  /// The number of columns of a vector that are kept, from the first one on; nil: all.
  public let truncatedDimension: Int?
  /// The prompts in the model's settings, by name.
  public var prompts: [String: String] { settings.prompts.texts }
  /// The name of the prompt that ``EmbeddingPrompt/automatic`` stands for; nil: none.
  public var defaultPromptName: String? { settings.prompts.defaultName }
  /// How the model's settings compare vectors (`similarity_fn_name`); ``EmbeddingSimilarity/cosine`` if they name nothing.
  /// - Throws: `AttentionError` if they name a similarity that ``EmbeddingIndex`` does not compute.
  public var similarity: EmbeddingSimilarity {
    get throws(AttentionError) {
      guard let name = settings.similarityName else { return .cosine }
      if let similarity = EmbeddingSimilarity(rawValue: name) { return similarity }
      throw AttentionError(
        .unsupported, "similarity_fn_name", "one of cosine, dot expected for a search; got \"\(name)\"")
    }
  }

  private let settings: EmbeddingSettings

  /// The first of ``poolings``: most models have only one.
  public var pooling: Pooling { poolings[0] }

  /// The dimension of vectors.
  public var dimension: Int { min(pooledDimension, truncatedDimension ?? .max) }

  private var pooledDimension: Int { encoder.configuration.hiddenDimension * poolings.count }

  /// A model made of its parts.
  ///
  /// - Parameters:
  ///   - tokenizer: Turns text into tokens.
  ///   - encoder: Turns tokens into hidden states.
  ///   - pooling: How hidden states become one vector.
  ///   - isNormalized: Whether vectors are divided by their length.
  ///   - maximumLength: The largest number of tokens of a text; nil: the number of the encoder's positions.
  /// - Throws: `AttentionError` if the tokenizer has tokens that the encoder does not have, or if the length has no
  ///   room for a token or exceeds the number of the encoder's positions.
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

  /// The model of a folder. The folder holds `config.json`, `model.safetensors`, and `tokenizer.json` or `vocab.txt`.
  /// If sentence-transformers has saved the model, the folder also holds `modules.json`, the pooling's configuration,
  /// and `config_sentence_transformers.json` with prompts, similarity and `truncate_dim`.
  ///
  /// - Parameters:
  ///   - directory: The path of the folder.
  ///   - loading: Whether weights are mapped or read. Mapped files must not change as long as the model exists.
  /// - Throws: `AttentionError` that names the file and what in it is wrong or not supported.
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

  /// The tokens of a text with the model's default prompt before it, as ``embed(_:prompt:context:)`` uses them.
  public func tokens(_ text: String) -> [Int32] {
    tokens(text, after: ResolvedPrompt(text: settings.prompts.first([]), tokenCount: 0)).ids
  }

  /// Whether a text and its prompt have more tokens than ``maximumLength``: the rest is then missing from its vector.
  /// - Throws: `AttentionError` for a prompt that the model does not have.
  public func isCut(_ text: String, prompt: EmbeddingPrompt = .automatic) throws(AttentionError) -> Bool {
    tokens(text, after: try resolve(prompt)).isCut
  }

  /// A prompt, and how many tokens at the beginning of a text are not pooled because of it.
  struct ResolvedPrompt: Sendable {
    let text: String
    let tokenCount: Int
  }

  func resolve(_ prompt: EmbeddingPrompt) throws(AttentionError) -> ResolvedPrompt {
    let text = try settings.prompts.text(prompt)
    if text.isEmpty || settings.poolsPrompt { return ResolvedPrompt(text: text, tokenCount: 0) }
    // The tokens that the tokenizer puts before every text, such as [CLS], are not pooled either: they count with the
    // prompt.
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
  ///   - texts: Any texts, also empty ones; a text with more than ``maximumLength`` tokens is cut.
  ///   - prompt: The prompt before each text.
  ///   - context: Threads, instruction set, algorithm.
  /// - Returns: `[texts, dimension]`, in the order of the texts.
  /// - Throws: `AttentionError` for a prompt that the model does not have, if there is not enough memory, or if the context asks
  ///   for something that this machine does not have.
  public func embed(
    _ texts: [String], prompt: EmbeddingPrompt = .automatic, context: AttentionContext = .default
  ) throws -> Tensor<Float> {
    let prompt = try resolve(prompt)
    let sequences = texts.map { TokenSequence(ids: tokens($0, after: prompt).ids, promptTokenCount: prompt.tokenCount) }
    return try embed(sequences, context: context)
  }

  /// ``embed(_:prompt:context:)`` of texts that are already tokenized.
  ///
  /// - Parameters:
  ///   - sequences: The ids of each text.
  ///   - context: Threads, instruction set, algorithm.
  ///   - checkpoint: Called before the embeddings of each batch and before each layer, on any of the threads; an error
  ///     that it throws ends the call.
  /// - Returns: `[sequences, dimension]`.
  /// - Throws: The errors of ``BertEncoder/hiddenStates(_:context:checkpoint:)``.
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
    // The sequences are checked before they are sorted, so that an error names the place of a sequence in the caller's
    // list.
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
      // Many batches: each runs on one thread, from the embeddings to the vectors, and waits for no other batch. Few batches: all
      // threads share each product.
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

  /// Makes the vector of a text: pools its hidden states, normalises the result, and cuts it to the model's dimension.
  /// `states` holds the hidden states one after another.
  func pool(_ states: UnsafePointer<Float>, _ sequence: TokenSequence, into vector: UnsafeMutablePointer<Float>) {
    let rows = pooledRows(sequence)
    func pool(into whole: UnsafeMutablePointer<Float>) {
      poolAll(states, rows, into: whole)
      if isNormalized { Pooling.normalize(whole, dimension: pooledDimension) }
    }
    if self.dimension == pooledDimension { return pool(into: vector) }
    withUnsafeTemporaryAllocation(of: Float.self, capacity: pooledDimension) { whole in
      pool(into: whole.baseAddress!)
      vector.update(from: whole.baseAddress!, count: self.dimension)
    }
  }

  /// The rows of a text's hidden states that are pooled: those after the prompt.
  func pooledRows(_ sequence: TokenSequence) -> Range<Int> {
    min(sequence.promptTokenCount, sequence.ids.count)..<sequence.ids.count
  }

  /// Pools the states in each of the ways in ``poolings``, and writes the results one after another.
  func poolAll(_ states: UnsafePointer<Float>, _ rows: Range<Int>, into whole: UnsafeMutablePointer<Float>) {
    let dimension = encoder.configuration.hiddenDimension
    for (index, pooling) in poolings.enumerated() {
      pooling.apply(states, rows: rows, dimension: dimension, into: whole + index * dimension)
    }
  }

  /// The attention weights of a text, and its tokens.
  ///
  /// - Parameters:
  ///   - text: Any text.
  ///   - context: Threads, instruction set, algorithm.
  /// - Returns: The tokens, and `[H, L, L]` for each layer: how much each token (row) attends to each token (column).
  /// - Throws: The errors of ``embed(_:prompt:context:)``.
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
  /// The number of tokens at the beginning that belong to a prompt and are not pooled.
  let promptTokenCount: Int
}

/// Sequences that pass through the encoder together.
struct TokenBatch {
  /// The places of the sequences in the caller's list; the longest sequence is first.
  let indices: [Int]

  /// The number of tokens of a batch: large enough that weights are read rarely, small enough that all threads end at about the
  /// same time. With 512 the time is the same (ratio 1.00; 512 sentences of 29 tokens, 2 threads of an EPYC of family 25, 2026-11).
  static let tokenTarget = 256

  /// The batches, longest sequences first, so that all threads end at about the same time.
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

/// The first error that occurs on any of several threads.
private final class FirstError: @unchecked Sendable {
  // Sendable: only the thread that sets `claimed` writes `error`, and `error` is read after all threads are done.
  private let claimed = Atomic<Bool>(false)
  private var error: (any Error)?

  var isSet: Bool { claimed.load(ordering: .relaxed) }

  func set(_ error: any Error) {
    if !claimed.exchange(true, ordering: .acquiringAndReleasing) { self.error = error }
  }

  func rethrow() throws { if let error { throw error } }
}
