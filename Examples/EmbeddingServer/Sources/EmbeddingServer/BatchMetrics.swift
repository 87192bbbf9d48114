import AttentionModels
import Metrics

/// The metrics that the server records with swift-metrics for each batch. The program that starts the server chooses
/// where metrics go, with `MetricsSystem.bootstrap`.
struct BatchMetrics: Sendable {
  private let batches = Counter(label: "embedding_batches_total")
  private let failures = Counter(label: "embedding_failed_batches_total")
  private let texts = Counter(label: "embedding_texts_total")
  private let tokens = Counter(label: "embedding_tokens_total")
  /// The number of texts that wait for a later batch.
  private let queue = Gauge(label: "embedding_waiting_texts")
  /// The number of tokens of each batch.
  private let size = Recorder(label: "embedding_batch_tokens")
  private let duration = Timer(label: "embedding_batch_duration")
  private let wait = Timer(label: "embedding_longest_wait")

  func record(_ report: TextEmbedder.BatchReport) {
    (report.succeeded ? batches : failures).increment()
    texts.increment(by: report.textCount)
    tokens.increment(by: report.tokenCount)
    queue.record(report.waitingTextCount)
    size.record(report.tokenCount)
    duration.record(duration: report.duration)
    wait.record(duration: report.longestWait)
  }
}
