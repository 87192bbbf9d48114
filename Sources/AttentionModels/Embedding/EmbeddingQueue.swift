internal import AttentionTensors
internal import Foundation
internal import Synchronization

/// One call of ``TextEmbedder/embed(_:)-([String])`` on its way.
final class EmbeddingJob: @unchecked Sendable {
  // Sendable: `continuation` is touched under `lock`; what follows `texts` by the queue's thread alone.
  private let lock = NSLock()
  private var continuation: CheckedContinuation<[[Float]], any Error>?
  private let ended = Atomic<Bool>(false)

  let texts: [String]
  /// What stands before each text.
  let prompt: SentenceEncoder.ResolvedPrompt
  /// Tokens of the texts so far, those of texts that are taken left out.
  private var sequences: [[Int32]] = []
  /// Texts that a batch has taken.
  private(set) var takenCount = 0
  var vectors: [[Float]] = []
  let arrival = ContinuousClock.now

  init(
    _ texts: [String], _ prompt: SentenceEncoder.ResolvedPrompt,
    _ continuation: CheckedContinuation<[[Float]], any Error>
  ) {
    self.texts = texts
    self.prompt = prompt
    self.continuation = continuation
  }

  /// True if nobody waits for the rest.
  var isEnded: Bool { ended.load(ordering: .acquiring) }
  var isTaken: Bool { takenCount == texts.count }

  /// Tells the caller, once.
  func end(_ result: Result<[[Float]], any Error>) {
    let waiting = lock.withLock {
      defer { continuation = nil }
      return continuation
    }
    ended.store(true, ordering: .releasing)
    waiting?.resume(with: result)
  }

  /// The tokens of a text that is not taken: made when they are first asked for.
  func tokens(_ index: Int, _ encoder: SentenceEncoder) -> [Int32] {
    while sequences.count <= index { sequences.append(encoder.tokens(texts[sequences.count], after: prompt).ids) }
    return sequences[index]
  }

  /// Takes the next text.
  func take(_ encoder: SentenceEncoder) -> [Int32] {
    let next = tokens(takenCount, encoder)
    sequences[takenCount] = []
    takenCount += 1
    return next
  }
}

/// A thread of its own that embeds what callers bring, several of them in one batch.
final class EmbeddingQueue: @unchecked Sendable {
  // Sendable: `incoming`, `waitingCount` and `isStopped` are touched under `condition`; `active` and `deadline` by the thread alone.
  private let options: TextEmbedder.Options
  /// The process that has the thread: a child of a fork does not.
  private let processID = getpid()
  private let condition = NSCondition()
  private var incoming: [EmbeddingJob] = []
  /// Texts that no batch has embedded yet, of callers that wait.
  private var waitingCount = 0
  private var isStopped = false
  /// Whose turn it is first.
  private var active: [EmbeddingJob] = []
  /// When a batch that waits for company is computed all the same.
  private var deadline: ContinuousClock.Instant?

  /// Some 30 years: instants and dates beyond trap.
  private static let longestDelay = Duration.seconds(1_000_000_000)

  init(options: TextEmbedder.Options) { self.options = options }

  /// - Throws: `AttentionError` of code `busy` where too many texts wait already, of code `unsupported` in the child of a fork.
  func add(_ job: EmbeddingJob) throws(AttentionError) {
    // Before the lock, which the thread may have held at that moment.
    guard getpid() == processID else {
      throw AttentionError(
        .unsupported, "TextEmbedder",
        "an embedder that this process made expected; this one was made before a fork, and its thread is not here")
    }
    condition.lock()
    defer { condition.unlock() }
    guard waitingCount == 0 || waitingCount + job.texts.count <= options.waitingLimit else {
      throw AttentionError(
        .busy, "TextEmbedder",
        "at most \(options.waitingLimit) waiting texts expected; there are \(waitingCount), and \(job.texts.count) came"
      )
    }
    waitingCount += job.texts.count
    incoming.append(job)
    condition.signal()
  }

  func stop() {
    guard getpid() == processID else { return }
    condition.lock()
    isStopped = true
    condition.signal()
    condition.unlock()
  }

  /// The life of the thread, with a model that it has loaded.
  func run(_ encoder: SentenceEncoder) {
    #if canImport(ObjectiveC)
      // The thread never returns, so what Foundation leaves to it must go at each turn.
      while autoreleasepool(invoking: { turn(encoder) }) {}
    #else
      while turn(encoder) {}
    #endif
  }

  /// Takes what has come, and embeds a batch unless it is better to wait. False: it is over.
  private func turn(_ encoder: SentenceEncoder) -> Bool {
    guard let (jobs, isLast) = next() else { return false }
    active += jobs
    dropEnded()
    if options.maximumDelay > .zero, !isLast, !active.isEmpty, isSmall(encoder) {
      // The first one's wait counts for all that join it.
      let end = deadline ?? ContinuousClock.now + min(options.maximumDelay, Self.longestDelay)
      if ContinuousClock.now < end {
        deadline = end
        return true
      }
    }
    deadline = nil
    if !active.isEmpty { embedBatch(encoder) }
    return true
  }

  /// What has come, and whether nothing more will. Without a deadline and without work it waits; with one, until then. Nil:
  /// it is over.
  private func next() -> (jobs: [EmbeddingJob], isLast: Bool)? {
    condition.lock()
    defer { condition.unlock() }
    while incoming.isEmpty, !isStopped {
      if let deadline {
        let rest = deadline - ContinuousClock.now
        if rest <= .zero || !condition.wait(until: Date(timeIntervalSinceNow: rest / .seconds(1))) { break }
      } else if active.isEmpty {
        condition.wait()
      } else {
        break
      }
    }
    if isStopped, incoming.isEmpty, active.isEmpty { return nil }
    defer { incoming = [] }
    return (incoming, isStopped)
  }

  /// Takes texts off the number of waiting ones.
  /// - Returns: How many wait then.
  @discardableResult
  private func release(_ count: Int) -> Int {
    condition.lock()
    defer { condition.unlock() }
    waitingCount -= count
    return waitingCount
  }

  /// Makes room of those that are over, and of `failed`: before their callers hear of it, whose next requests find it.
  /// - Returns: How many texts wait no longer.
  @discardableResult
  private func dropEnded(failed: [EmbeddingJob] = []) -> Int {
    var freed = 0
    active.removeAll { job in
      guard job.isEnded || job.isTaken || failed.contains(where: { $0 === job }) else { return false }
      freed += job.texts.count - job.takenCount
      return true
    }
    release(freed)
    return freed
  }

  /// True if all that waits is new and little.
  private func isSmall(_ encoder: SentenceEncoder) -> Bool {
    var count = 0
    for job in active {
      if job.takenCount > 0 { return false }
      for index in job.texts.indices {
        count += job.tokens(index, encoder).count
        // With as many tokens as go through the model at once, a second text costs as much as in a batch of its own.
        if count >= TokenBatch.tokenTarget { return false }
      }
    }
    return true
  }

  /// Texts of one job in a batch.
  private struct Share {
    let job: EmbeddingJob
    var sequences: [[Int32]] = []
  }

  /// Takes turns: every job some texts, as long as there is room, and those with none are first next time.
  private func takeBatch(_ encoder: SentenceEncoder) -> [Share] {
    var rest = options.tokenLimit
    var shares = active.map { Share(job: $0) }
    var isEmpty = true
    var hasTaken = true
    while rest > 0, hasTaken {
      hasTaken = false
      let part = rest / max(1, shares.count { !$0.job.isTaken })
      for index in shares.indices {
        let job = shares[index].job
        var count = 0
        // At least one, if there is room; and one whatever its length where the batch would have none.
        while !job.isTaken {
          let length = job.tokens(job.takenCount, encoder).count
          guard isEmpty || (length <= rest && (count == 0 || count + length <= part)) else { break }
          shares[index].sequences.append(job.take(encoder))
          (count, rest, isEmpty, hasTaken) = (count + length, rest - length, false, true)
        }
      }
    }
    active = shares.filter(\.sequences.isEmpty).map(\.job) + shares.filter { !$0.sequences.isEmpty }.map(\.job)
    return shares.filter { !$0.sequences.isEmpty }
  }

  private func embedBatch(_ encoder: SentenceEncoder) {
    let start = ContinuousClock.now
    let shares = takeBatch(encoder)
    let sequences = shares.flatMap { share in
      share.sequences.map { TokenSequence(ids: $0, promptTokenCount: share.job.prompt.tokenCount) }
    }
    let result = Result {
      let vectors = try encoder.embed(sequences, context: options.context) {
        // Between layers: nobody waits for the result any more.
        if shares.allSatisfy({ $0.job.isEnded }) { throw CancellationError() }
      }
      var row = 0
      for share in shares {
        for _ in share.sequences {
          share.job.vectors.append(try vectors.select(row, axis: 0).array)
          row += 1
        }
      }
    }
    let end = ContinuousClock.now
    // Room is made before callers hear of their vectors: their next requests find it.
    var waitingTextCount = release(sequences.count)
    switch result {
    case .success:
      waitingTextCount -= dropEnded()
      for share in shares where share.job.isTaken { share.job.end(.success(share.job.vectors)) }
    case .failure(let error):
      waitingTextCount -= dropEnded(failed: shares.map(\.job))
      for share in shares { share.job.end(.failure(error)) }
    }
    options.batchObserver?(
      TextEmbedder.BatchReport(
        requestCount: shares.count, textCount: sequences.count, tokenCount: sequences.reduce(0) { $0 + $1.ids.count },
        waitingTextCount: waitingTextCount,
        longestWait: start - (shares.map(\.job.arrival).min() ?? start), duration: end - start,
        succeeded: (try? result.get()) != nil))
  }
}
