public import AttentionTensors
internal import Foundation

/// Sentence embeddings for a server: called from many tasks at once, on a thread of its own.
///
///     let model = try await TextEmbedder(directory: "all-MiniLM-L6-v2")
///     let vectors = try await model.embed(["A man is eating.", "Someone has lunch."])   // 2 × 384
///
/// Tokenizing and computing happen on one thread that the embedder starts, and on the threads of its context; the caller's
/// task waits without holding a thread of Swift's pool. Requests that come while others are computed, or within
/// ``Options/maximumDelay`` of a small one, go through the model together; the vectors of a text have the same bits
/// whatever it goes with. A long request takes turns with the short ones behind it.
///
/// Cancelling a task ends its call at once with `CancellationError`; what is under way stops before the next layer, unless
/// others wait for the same batch. Memory for computing is bounded: a batch holds ``Options/tokenLimit`` tokens
/// (at most 256 of them a thread at once), however many texts a request brings.
///
/// The model's thread ends when the embedder is released. There is no global state: two embedders know nothing of each
/// other, but for the threads they compute on. In the child of a fork an embedder that was made before throws: the child makes its
/// own.
public final class TextEmbedder: Sendable {
  /// How requests are put together.
  public struct Options: Sendable {
    /// How long a batch of fewer than 256 tokens waits for company: 1 ms. Zero: it never waits.
    public var maximumDelay: Duration
    /// Tokens of a batch at most; a text that is longer is one of its own. 2048.
    public var tokenLimit: Int
    /// Texts that may wait; a request beyond it fails with the code `busy`, unless none waits. 65 536. Their bytes are the
    /// caller's to limit.
    public var waitingLimit: Int
    /// Threads, instruction set, algorithm.
    public var context: AttentionContext
    /// Called after each batch, on the embedder's thread, which embeds nothing meanwhile: for metrics. Nil: nothing is called.
    public var batchObserver: (@Sendable (BatchReport) -> Void)?

    /// Options; the defaults suit a server.
    public init(
      maximumDelay: Duration = .milliseconds(1), tokenLimit: Int = 2048, waitingLimit: Int = 1 << 16,
      context: AttentionContext = .default, batchObserver: (@Sendable (BatchReport) -> Void)? = nil
    ) {
      self.maximumDelay = maximumDelay
      self.tokenLimit = tokenLimit
      self.waitingLimit = waitingLimit
      self.context = context
      self.batchObserver = batchObserver
    }
  }

  /// One batch that went through the model, as ``Options/batchObserver`` is told of it.
  public struct BatchReport: Sendable {
    /// Calls of `embed` of which the batch held texts.
    public let requestCount: Int
    /// Texts of the batch.
    public let textCount: Int
    /// Tokens of these texts.
    public let tokenCount: Int
    /// Texts that wait for a later batch.
    public let waitingTextCount: Int
    /// The time from the arrival of the batch's oldest request to the beginning of the batch.
    public let longestWait: Duration
    /// The time that the batch took to compute.
    public let duration: Duration
    /// False if the batch failed, or nobody waited for it any more.
    public let succeeded: Bool
  }

  /// The model: its tokenizer, encoder and pooling.
  public let model: SentenceEncoder
  private let queue: EmbeddingQueue

  /// The model of a Hugging Face folder, as ``SentenceEncoder/init(directory:loading:)`` reads it; its weights are packed.
  ///
  /// - Parameters:
  ///   - directory: The folder.
  ///   - options: How requests are put together.
  /// - Throws: `AttentionError` that names the file and what is wrong with it, or the option.
  public convenience init(directory: String, options: Options = Options()) async throws {
    try await self.init(options: options) { try SentenceEncoder(directory: directory) }
  }

  /// A model that is there already.
  public convenience init(model: SentenceEncoder, options: Options = Options()) async throws {
    try await self.init(options: options) { model }
  }

  private init(options: Options, load: @escaping @Sendable () throws -> SentenceEncoder) async throws {
    try requireArgument(
      options.tokenLimit >= 1 && options.waitingLimit >= 1 && options.maximumDelay >= .zero, "TextEmbedder",
      "limits from 1 and a delay from 0 expected; got \(options.tokenLimit), \(options.waitingLimit), "
        + "\(options.maximumDelay)")
    // Here and not on the thread: so ThreadSanitizer sees that it is made before it is used.
    let queue = EmbeddingQueue(options: options)
    // Loading and packing take a while, so they are done on the new thread too.
    let model = try await withCheckedThrowingContinuation {
      (continuation: CheckedContinuation<SentenceEncoder, any Error>) in
      let thread = Thread {
        let model: SentenceEncoder
        do {
          model = try load()
          try model.encoder.pack(context: options.context)
          // The first text beyond ASCII has all decompositions looked up, which no caller shall wait for.
          _ = model.tokens("é")
        } catch {
          continuation.resume(throwing: error)
          return
        }
        continuation.resume(returning: model)
        queue.run(model)
      }
      thread.name = "TextEmbedder"
      // Foundation's default is half a megabyte.
      thread.stackSize = 8 << 20
      thread.start()
    }
    self.model = model
    self.queue = queue
  }

  deinit { queue.stop() }

  /// The dimension of vectors.
  public var dimension: Int { model.dimension }

  /// A vector for each text, in their order.
  ///
  /// - Parameters:
  ///   - texts: Any texts, also empty ones; what is longer than the model's limit is cut.
  ///   - prompt: What is put before each text.
  /// - Returns: As many vectors of ``dimension``.
  /// - Throws: `CancellationError` where the task is cancelled; `AttentionError` of code `busy` where too many texts wait, for a
  ///   prompt that the model does not have, where memory is lacking, or of code `unsupported` in the child of a fork.
  public func embed(_ texts: [String], prompt: EmbeddingPrompt = .automatic) async throws -> [[Float]] {
    try Task.checkCancellation()
    let prompt = try model.resolve(prompt)
    if texts.isEmpty { return [] }
    let slot = JobSlot()
    return try await withTaskCancellationHandler {
      try await withCheckedThrowingContinuation { continuation in
        let job = EmbeddingJob(texts, prompt, continuation)
        do { try queue.add(job) } catch { job.end(.failure(error)) }
        slot.set(job)
      }
    } onCancel: {
      slot.cancel()
    }
  }

  /// The vector of one text.
  /// - Returns: A vector of ``dimension``.
  /// - Throws: As for several texts.
  public func embed(_ text: String, prompt: EmbeddingPrompt = .automatic) async throws -> [Float] {
    try await embed([text], prompt: prompt)[0]
  }
}

/// A job that may be cancelled before it is there.
private final class JobSlot: @unchecked Sendable {
  // Sendable: both are touched under `lock`.
  private let lock = NSLock()
  private var job: EmbeddingJob?
  private var isCancelled = false

  func set(_ job: EmbeddingJob) {
    let isLate = lock.withLock {
      self.job = job
      return isCancelled
    }
    if isLate { job.end(.failure(CancellationError())) }
  }

  func cancel() {
    let job = lock.withLock {
      isCancelled = true
      return self.job
    }
    job?.end(.failure(CancellationError()))
  }
}
