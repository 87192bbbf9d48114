internal import AttentionTensors
internal import Foundation
internal import Synchronization

/// One call of ``TextEmbedder/embed(_:)`` on its way.
final class EmbeddingJob: @unchecked Sendable {
  // Sendable: `continuation` is touched under `lock`; the rest by the queue's thread alone, after `texts`.
  let texts: [String]
  private let lock = NSLock()
  private var continuation: CheckedContinuation<[[Float]], any Error>?
  private let ended = Atomic<Bool>(false)

  /// Tokens of each text, when they are made.
  var sequences: [[Int32]] = []
  /// Texts that a batch has taken, and vectors that are done.
  var takenCount = 0
  var vectors: [[Float]] = []

  init(_ texts: [String], _ continuation: CheckedContinuation<[[Float]], any Error>) {
    self.texts = texts
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
}

/// A thread of its own that embeds what callers bring, several of them in one batch.
final class EmbeddingQueue: @unchecked Sendable {
  // Sendable: `incoming`, `waitingCount` and `isStopped` are touched under `condition`; `active` by the thread alone.
  private let encoder: SentenceEncoder
  private let options: TextEmbedder.Options
  private let condition = NSCondition()
  private var incoming: [EmbeddingJob] = []
  /// Texts that are not embedded yet.
  private var waitingCount = 0
  private var isStopped = false
  private var active: [EmbeddingJob] = []

  /// Batches with fewer tokens wait for company: with as many, a second text costs as much as in a batch of its own.
  private static let smallTokenCount = 256

  init(encoder: SentenceEncoder, options: TextEmbedder.Options) {
    self.encoder = encoder
    self.options = options
  }

  /// - Throws: `AttentionError` of code `busy` where too many texts wait already.
  func add(_ job: EmbeddingJob) throws(AttentionError) {
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
    condition.lock()
    isStopped = true
    condition.signal()
    condition.unlock()
  }

  /// The life of the thread.
  func run() {
    var deadline: Date?
    while let jobs = next(until: deadline) {
      for job in jobs { tokenize(job) }
      active += jobs
      dropEnded()
      if active.isEmpty {
        deadline = nil
        continue
      }
      if options.maximumDelay > .zero, pendingTokenCount < Self.smallTokenCount {
        // The first one's wait counts for all that join it.
        let end = deadline ?? Date(timeIntervalSinceNow: options.maximumDelay.seconds)
        if end.timeIntervalSinceNow > 0 {
          deadline = end
          continue
        }
      }
      deadline = nil
      embedBatch()
    }
  }

  /// What has come. Without a deadline and without work it waits; with one, until then. Nil: it is over.
  private func next(until deadline: Date?) -> [EmbeddingJob]? {
    condition.lock()
    defer { condition.unlock() }
    while incoming.isEmpty, !isStopped {
      if let deadline {
        if !condition.wait(until: deadline) { break }
      } else if active.isEmpty {
        condition.wait()
      } else {
        break
      }
    }
    if isStopped, incoming.isEmpty, active.isEmpty { return nil }
    defer { incoming = [] }
    return incoming
  }

  private func tokenize(_ job: EmbeddingJob) {
    for text in job.texts {
      if job.isEnded { break }
      job.sequences.append(encoder.tokens(text))
    }
    job.vectors.reserveCapacity(job.texts.count)
  }

  private func dropEnded() {
    var freed = 0
    active.removeAll { job in
      guard job.isEnded || job.isTaken else { return false }
      freed += job.texts.count
      return true
    }
    if freed == 0 { return }
    condition.lock()
    waitingCount -= freed
    condition.unlock()
  }

  private var pendingTokenCount: Int {
    active.reduce(0) { $0 + $1.sequences[$1.takenCount...].reduce(0) { $0 + $1.count } }
  }

  /// Texts of one job in a batch.
  private struct Share {
    let job: EmbeddingJob
    let range: Range<Int>
  }

  /// Takes turns: every job some texts, so that a long one does not hold up the short ones behind it.
  private func takeBatch() -> [Share] {
    var rest = options.tokenLimit
    let starts = active.map(\.takenCount)
    while rest > 0 {
      let open = active.filter { !$0.isTaken }
      if open.isEmpty { break }
      let part = max(1, rest / open.count)
      for job in open where rest > 0 {
        var count = 0
        // At least one, whatever its length.
        repeat {
          count += job.sequences[job.takenCount].count
          job.takenCount += 1
        } while !job.isTaken && count + job.sequences[job.takenCount].count <= part
        rest -= count
      }
    }
    return zip(active, starts).compactMap { job, start in
      job.takenCount > start ? Share(job: job, range: start..<job.takenCount) : nil
    }
  }

  private func embedBatch() {
    let shares = takeBatch()
    do {
      let vectors = try encoder.embed(
        tokens: shares.flatMap { $0.job.sequences[$0.range] }, context: options.context
      ) {
        // Between layers: nobody waits for the result any more.
        if shares.allSatisfy({ $0.job.isEnded }) { throw CancellationError() }
      }
      var row = 0
      for share in shares {
        for _ in share.range {
          share.job.vectors.append(try vectors.select(row, axis: 0).array)
          row += 1
        }
        if share.job.isTaken { share.job.end(.success(share.job.vectors)) }
      }
    } catch {
      for share in shares { share.job.end(.failure(error)) }
    }
    dropEnded()
  }
}

extension Duration {
  fileprivate var seconds: Double { Double(components.seconds) + Double(components.attoseconds) * 1e-18 }
}
