internal import AttentionTensors
internal import Foundation
internal import Synchronization

/// One call of ``TextEmbedder/embed(_:prompt:)-([String],_)`` that is not finished.
final class EmbeddingJob: @unchecked Sendable {
  // Sendable: `continuation` is used only under `lock`; `sequences`, `takenCount` and `vectors` only by the queue's
  // thread. Everything else is constant or atomic.
  private let lock = NSLock()
  private var continuation: CheckedContinuation<[[Float]], any Error>?
  private let ended = Atomic<Bool>(false)

  let texts: [String]
  /// The prompt before each text.
  let prompt: SentenceEncoder.ResolvedPrompt
  /// The tokens of the texts that are tokenized so far; empty for a text that a batch has taken.
  private var sequences: [[Int32]] = []
  /// The number of texts that batches have taken.
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

  /// True if nobody waits for the result any more.
  var isEnded: Bool { ended.load(ordering: .acquiring) }
  var isTaken: Bool { takenCount == texts.count }

  /// Gives the caller the result. If this method is called more than once, only the first call has an effect.
  func end(_ result: Result<[[Float]], any Error>) {
    let waiting = lock.withLock {
      defer { continuation = nil }
      return continuation
    }
    ended.store(true, ordering: .releasing)
    waiting?.resume(with: result)
  }

  /// The tokens of a text that no batch has taken. They are made when they are first asked for.
  func tokens(_ index: Int, _ encoder: SentenceEncoder) -> [Int32] {
    while sequences.count <= index { sequences.append(encoder.tokens(texts[sequences.count], after: prompt).ids) }
    return sequences[index]
  }

  /// Takes the next text into a batch, and returns its tokens.
  func take(_ encoder: SentenceEncoder) -> [Int32] {
    let next = tokens(takenCount, encoder)
    sequences[takenCount] = []
    takenCount += 1
    return next
  }
}

/// The queue of a thread that embeds the texts of callers. One batch can hold texts of several callers.
final class EmbeddingQueue: @unchecked Sendable {
  // Sendable: `incoming`, `waitingCount` and `isStopped` are used under `condition`; `active` and `deadline` only by the thread.
  private let options: TextEmbedder.Options
  /// The process that has the thread; a child made by `fork` does not have it.
  private let processID = getpid()
  private let condition = NSCondition()
  private var incoming: [EmbeddingJob] = []
  /// The number of texts of waiting callers that no batch has embedded yet.
  private var waitingCount = 0
  private var isStopped = false
  /// The jobs being worked on; the one whose turn is next is first.
  private var active: [EmbeddingJob] = []
  /// The time at which a batch that waits for more texts is computed anyway.
  private var deadline: ContinuousClock.Instant?

  /// The longest delay, about 30 years: `ContinuousClock.Instant` and `Date` trap on values far beyond that.
  private static let longestDelay = Duration.seconds(1_000_000_000)

  init(options: TextEmbedder.Options) { self.options = options }

  /// Adds a job to the queue.
  /// - Throws: `AttentionError` of code `busy` if too many texts wait already, of code `unsupported` in a child made by
  ///   `fork`.
  func add(_ job: EmbeddingJob) throws(AttentionError) {
    // The process is checked before the lock is taken: the thread may have held the lock at the moment of the fork.
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

  /// Embeds the texts of jobs with `encoder`, on the calling thread, until the queue is stopped and empty.
  func run(_ encoder: SentenceEncoder) {
    #if canImport(ObjectiveC)
      // Foundation would free autoreleased objects only after this function returns, so each turn has a pool of its
      // own.
      while autoreleasepool(invoking: { turn(encoder) }) {}
    #else
      while turn(encoder) {}
    #endif
  }

  /// Takes the new jobs, and embeds a batch unless it is better to wait for more. False: the queue is stopped and empty.
  private func turn(_ encoder: SentenceEncoder) -> Bool {
    guard let (jobs, isLast) = next() else { return false }
    active += jobs
    dropEnded()
    if options.maximumDelay > .zero, !isLast, !active.isEmpty, isSmall(encoder) {
      // The delay begins with the first job. Jobs that join it wait until the same deadline.
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

  /// The new jobs, and whether no more will come. Nil: the queue is stopped and empty.
  ///
  /// If a batch waits for more texts, this call waits for new jobs until the deadline. If there are no jobs at all, it
  /// waits without limit.
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

  /// Subtracts `count` from the number of waiting texts.
  /// - Returns: How many texts wait after that.
  @discardableResult
  private func release(_ count: Int) -> Int {
    condition.lock()
    defer { condition.unlock() }
    waitingCount -= count
    return waitingCount
  }

  /// Removes the jobs that have ended, the jobs whose texts are all taken, and those in `failed`.
  ///
  /// Callers get their results only after this, so that their next requests are not refused for texts that no longer
  /// wait.
  /// - Returns: How many texts no longer wait.
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

  /// True if no batch has taken a text of any job, and all texts together have fewer than `TokenBatch.tokenTarget`
  /// tokens.
  private func isSmall(_ encoder: SentenceEncoder) -> Bool {
    var count = 0
    for job in active {
      if job.takenCount > 0 { return false }
      for index in job.texts.indices {
        count += job.tokens(index, encoder).count
        // With this many tokens in a batch, another text costs as much in this batch as in the next one.
        if count >= TokenBatch.tokenTarget { return false }
      }
    }
    return true
  }

  /// The texts of one job in a batch.
  private struct Share {
    let job: EmbeddingJob
    var sequences: [[Int32]] = []
  }

  /// Takes texts from all jobs in turn while the batch has room for tokens. Jobs that get no room are first in the next
  /// batch.
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
        // Each job gives at least one text if the batch has room for it, and more texts up to an equal share of the
        // room. The first text of a batch may have any length.
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
        // Called before each layer: ends the computation if nobody waits for its result any more.
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
    // From here on, the texts of the batch do not count as waiting. Callers get their vectors only afterwards, so that
    // their next requests are not refused for texts that no longer wait.
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
