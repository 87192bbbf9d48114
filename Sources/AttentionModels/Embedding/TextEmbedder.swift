public import AttentionTensors
internal import Foundation

/// Sentence embeddings for a server: many tasks call it at once, and it computes on its own thread.
///
///     let model = try await TextEmbedder(directory: "all-MiniLM-L6-v2")
///     let vectors = try await model.embed(["A man is eating.", "Someone has lunch."])   // 2 × 384
///
/// Texts are tokenized and computed on one thread that the embedder starts, and on the threads of its context.
/// Meanwhile the caller's task waits without holding a thread of Swift's pool. Requests that arrive while others are
/// computed, or within ``Options/maximumDelay`` of a small one, pass through the model together. The vector of a text
/// has the same bits whatever texts it is computed with (with OpenBLAS's products, nearly the same bits). A long
/// request takes turns with the short ones that come after it.
///
/// If a task is cancelled, its call ends at once with `CancellationError`. Its computation stops before the next layer,
/// unless other requests wait for the same batch. Memory for computing is bounded, however many texts a request has: a
/// batch holds at most ``Options/tokenLimit`` tokens, of which a thread computes at most 256 at once. A text that is
/// longer than one of these limits is computed alone.
///
/// The model's thread ends when the embedder is released. There is no global state: two embedders share nothing but the threads
/// that they compute on. In a child made by `fork`, an embedder that was made before the fork throws; the child makes its
/// own.
public final class TextEmbedder: Sendable {
  /// How requests are put together into batches.
  public struct Options: Sendable {
    /// How long a batch of fewer than 256 tokens waits for more texts; 1 ms by default. Zero: it does not wait.
    public var maximumDelay: Duration
    /// The largest number of tokens of a batch; 2048 by default. A longer text is a batch of its own.
    public var tokenLimit: Int
    /// The largest number of texts that may wait; 65 536 by default. A request that exceeds it fails with the code
    /// `busy`, unless no text waits. The size of the texts in bytes is not limited; the caller limits it.
    public var waitingLimit: Int
    /// Threads, instruction set, algorithm.
    public var context: AttentionContext
    /// Called after each batch, for metrics. It runs on the embedder's thread, which embeds nothing meanwhile. Nil: not called.
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

  /// One batch that passed through the model, as ``Options/batchObserver`` receives it.
  public struct BatchReport: Sendable {
    /// The number of calls of `embed` that have texts in the batch.
    public let requestCount: Int
    /// The number of texts in the batch.
    public let textCount: Int
    /// The number of tokens of these texts.
    public let tokenCount: Int
    /// The number of texts that wait for a later batch.
    public let waitingTextCount: Int
    /// The time from the arrival of the batch's oldest request to the beginning of the batch.
    public let longestWait: Duration
    /// The time for computing the batch.
    public let duration: Duration
    /// False if the batch failed or nobody waited for it any more.
    public let succeeded: Bool
  }

  /// The model: its tokenizer, encoder and pooling.
  public let model: SentenceEncoder
  private let queue: EmbeddingQueue

  /// The model of a Hugging Face folder, read as by ``SentenceEncoder/init(directory:loading:)``; its weights are packed.
  ///
  /// - Parameters:
  ///   - directory: The folder.
  ///   - options: How requests are put together into batches.
  /// - Throws: `AttentionError` that names the file and what is wrong with it, or the wrong option.
  public convenience init(directory: String, options: Options = Options()) async throws {
    try await self.init(options: options) { try SentenceEncoder(directory: directory) }
  }

  /// An embedder that uses an existing model; its weights are packed.
  public convenience init(model: SentenceEncoder, options: Options = Options()) async throws {
    try await self.init(options: options) { model }
  }

  private init(options: Options, load: @escaping @Sendable () throws -> SentenceEncoder) async throws {
    try requireArgument(
      options.tokenLimit >= 1 && options.waitingLimit >= 1 && options.maximumDelay >= .zero, "TextEmbedder",
      "limits from 1 and a delay from 0 expected; got \(options.tokenLimit), \(options.waitingLimit), "
        + "\(options.maximumDelay)")
    // The queue is made here and not on the thread, so that ThreadSanitizer sees that it is made before it is used.
    let queue = EmbeddingQueue(options: options)
    // Loading and packing take a while, so the new thread does them too.
    let model = try await withCheckedThrowingContinuation {
      (continuation: CheckedContinuation<SentenceEncoder, any Error>) in
      let thread = Thread {
        let model: SentenceEncoder
        do {
          model = try load()
          try model.encoder.pack(context: options.context)
          // The first text with characters beyond ASCII causes a look-up of all decompositions. It happens now, so that
          // no caller waits for it.
          _ = model.tokens("é")
        } catch {
          continuation.resume(throwing: error)
          return
        }
        continuation.resume(returning: model)
        queue.run(model)
      }
      thread.name = "TextEmbedder"
      // The stack has 8 MiB; Foundation's default is half a megabyte.
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
  ///   - texts: Any texts, also empty ones; a text that is longer than the model's limit is cut.
  ///   - prompt: The prompt before each text.
  /// - Returns: A vector of ``dimension`` elements for each text.
  /// - Throws: `CancellationError` if the task is cancelled. `AttentionError` of code `busy` if too many texts wait, of
  ///   code `unsupported` in a child made by `fork`, and of other codes if the model does not have the prompt or there
  ///   is not enough memory.
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
  /// - Returns: A vector of ``dimension`` elements.
  /// - Throws: The errors of the call with several texts.
  public func embed(_ text: String, prompt: EmbeddingPrompt = .automatic) async throws -> [Float] {
    try await embed([text], prompt: prompt)[0]
  }
}

/// The job of one call. The call may be cancelled before the job exists.
private final class JobSlot: @unchecked Sendable {
  // Sendable: both variables are used only under `lock`.
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
