import AttentionModels
import AttentionTensors
import AttentionTestSupport
import Testing

@Suite("Cancelled calls of an embedder")
struct EmbedderCancellationTests {
  private let model: SentenceEncoder
  private let gate = Gate()
  init() throws { model = try SentenceEncoder(directory: Fixture.tiny) }

  private func embedder(delay: Duration = .zero) async throws -> TextEmbedder {
    try await TextEmbedder(
      model: model, options: .init(maximumDelay: delay, context: AttentionContext(executor: gate)))
  }

  private func expectCancelled(
    _ task: Task<[[Float]], any Error>, sourceLocation: SourceLocation = #_sourceLocation
  ) async {
    task.cancel()
    await #expect(throws: CancellationError.self, sourceLocation: sourceLocation) { try await task.value }
  }

  private func expectVectors(
    _ vectors: [[Float]], of texts: [String], sourceLocation: SourceLocation = #_sourceLocation
  ) throws {
    #expect(sameBits(vectors, try expectedVectors(texts, model)), sourceLocation: sourceLocation)
  }

  @Test("a task that is cancelled before its call gets an error, and nothing is computed", arguments: [[], ["house"]])
  func before(texts: [String]) async throws {
    let embedder = try await embedder()
    let task = Task {
      withUnsafeCurrentTask { $0?.cancel() }
      return try await embedder.embed(texts)
    }
    await #expect(throws: CancellationError.self) { try await task.value }
    #expect(gate.passedCount == 0)
    try expectVectors(try await embedder.embed(["rain"]), of: ["rain"])
  }

  @Test("a cancelled call that waits for other calls ends at once, and a later call gets its results")
  func waitingForCompany() async throws {
    let embedder = try await embedder(delay: .seconds(3600))
    let waiting = Task { try await embedder.embed(["house"]) }
    try await Task.sleep(for: .milliseconds(20))
    await expectCancelled(waiting)
    let many = Array(repeating: "a good letter", count: 100)
    try expectVectors(try await embedder.embed(many), of: many)
  }

  @Test("a cancelled call that waits for a running call ends at once, and the others get their results")
  func waitingBehind() async throws {
    let embedder = try await embedder()
    gate.close()
    let running = Task { try await embedder.embed(["house"]) }
    try await until("the first call runs") { gate.isHolding }
    let cancelled = Task { try await embedder.embed(["rain", "letter"]) }
    let other = Task { try await embedder.embed(["heart", "wife"]) }
    try await Task.sleep(for: .milliseconds(20))
    await expectCancelled(cancelled)
    #expect(gate.isHolding)
    gate.open()
    try expectVectors(try await running.value, of: ["house"])
    try expectVectors(try await other.value, of: ["heart", "wife"])
  }

  @Test("a cancelled call that runs ends at once, its rest is not computed, and later calls get their results")
  func running() async throws {
    let embedder = try await embedder()
    try expectVectors(try await embedder.embed(["house"]), of: ["house"])
    let callsOfBatch = gate.passedCount
    gate.close()
    let running = Task { try await embedder.embed(["house"]) }
    try await until("the call runs") { gate.isHolding }
    await expectCancelled(running)
    #expect(gate.isHolding)
    gate.open()
    try expectVectors(try await embedder.embed(["rain"]), of: ["rain"])
    // Two whole batches were computed, but only the beginning of the cancelled batch.
    #expect(gate.passedCount < 3 * callsOfBatch)
  }

  @Test("if one of two calls in a running batch is cancelled, it ends at once, and the other gets its result")
  func sharedBatch() async throws {
    let embedder = try await embedder(delay: .seconds(3600))
    gate.close()
    let small = Task { try await embedder.embed(["house"]) }
    try await Task.sleep(for: .milliseconds(50))
    let many = Array(repeating: "a good letter", count: 100)
    let large = Task { try await embedder.embed(many) }
    try await until("both calls run") { gate.isHolding }
    await expectCancelled(small)
    #expect(gate.isHolding)
    gate.open()
    try expectVectors(try await large.value, of: many)
  }

  @Test("if some of many calls are cancelled at any time, the others get the right bits")
  func anyTime() async throws {
    let seed: UInt64 = 12
    var generator = TestGenerator(seed: seed)
    let embedder = try await TextEmbedder(model: model, options: .init(tokenLimit: 200))
    let requests = (0..<300).map { _ in generator.texts(Int.random(in: 1...20, using: &generator)) }
    let tasks = requests.map { texts in Task { try await embedder.embed(texts) } }
    for index in stride(from: 0, to: tasks.count, by: 3) {
      await Task.yield()
      tasks[index].cancel()
    }
    for (index, task) in tasks.enumerated() {
      do { try expectVectors(try await task.value, of: requests[index]) } catch is CancellationError {
        #expect(index % 3 == 0, "seed \(seed)")
      }
    }
    try expectVectors(try await embedder.embed(["rain"]), of: ["rain"])
  }
}
