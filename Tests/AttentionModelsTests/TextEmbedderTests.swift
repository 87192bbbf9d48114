import AttentionModels
import AttentionTensors
import AttentionTestSupport
import Foundation
import Synchronization
import Testing

/// The vector of each text, as `SentenceEncoder` computes it.
func expectedVectors(_ texts: [String], _ model: SentenceEncoder) throws -> [[Float]] { try rows(model.embed(texts)) }

func sameBits(_ a: [[Float]], _ b: [[Float]]) -> Bool {
  a.count == b.count && zip(a, b).allSatisfy { sameBits($0, $1) }
}

@Suite("An embedder for many tasks", .serialized)
struct TextEmbedderTests {
  private let model: SentenceEncoder
  init() throws { model = try SentenceEncoder(directory: Fixture.tiny) }

  /// The answers of an embedder to requests that are made at the same time.
  private func answers(_ embedder: TextEmbedder, _ requests: [[String]]) async throws -> [[[Float]]] {
    try await withThrowingTaskGroup(of: (Int, [[Float]]).self) { group in
      for (index, texts) in requests.enumerated() { group.addTask { (index, try await embedder.embed(texts)) } }
      var answers = Array(repeating: [[Float]](), count: requests.count)
      for try await (index, vectors) in group { answers[index] = vectors }
      return answers
    }
  }

  private func expectSameBits(
    _ embedder: TextEmbedder, _ requests: [[String]], _ what: Comment, sourceLocation: SourceLocation = #_sourceLocation
  ) async throws {
    let answers = try await answers(embedder, requests)
    for (texts, vectors) in zip(requests, answers) {
      #expect(sameBits(vectors, try expectedVectors(texts, model)), what, sourceLocation: sourceLocation)
    }
  }

  private static let choices: [TextEmbedder.Options] = [
    .init(), .init(maximumDelay: .zero), .init(maximumDelay: .milliseconds(20)), .init(tokenLimit: 1),
    .init(tokenLimit: 50),
    .init(tokenLimit: .max, waitingLimit: .max), .init(context: AttentionContext(threadCount: 1)),
    .init(context: AttentionContext(threadCount: 7)),
  ]

  @Test(
    "many tasks with 1 to 5 texts each get the same bits as from SentenceEncoder.embed, with any options",
    arguments: choices.indices)
  func manyTasks(choice: Int) async throws {
    let seed = UInt64(choice)
    var generator = TestGenerator(seed: seed)
    let requests = (0..<150).map { _ in
      let count = Int.random(in: 1...5, using: &generator)
      return generator.texts(count, wordCount: 0...30)
    }
    let embedder = try await TextEmbedder(
      directory: Fixture.tiny, options: Self.choices[choice])
    try await expectSameBits(embedder, requests, "seed \(seed)")
  }

  @Test("no texts give no vectors, and one text gives its vector")
  func noTexts() async throws {
    let embedder = try await TextEmbedder(model: model)
    #expect(embedder.dimension == 48)
    #expect(try await embedder.embed([String]()) == [])
    #expect(sameBits([try await embedder.embed("house")], try expectedVectors(["house"], model)))
    #expect(sameBits(try await embedder.embed(["", ""]), try expectedVectors(["", ""], model)))
  }

  @Test("a request of 3000 texts together with small requests")
  func largeRequest() async throws {
    let seed: UInt64 = 2
    var generator = TestGenerator(seed: seed)
    let requests = [generator.texts(3000)] + (0..<50).map { _ in generator.texts(3) }
    try await expectSameBits(try await TextEmbedder(model: model), requests, "seed \(seed)")
    try await expectSameBits(
      try await TextEmbedder(model: model, options: .init(tokenLimit: 64)), requests.reversed(), "seed \(seed)")
  }

  @Test(
    "a small request waits for other requests as long as the options say, even very long", arguments: [3600, Int64.max])
  func delay(seconds: Int64) async throws {
    let gate = Gate()
    let embedder = try await TextEmbedder(
      model: model, options: .init(maximumDelay: .seconds(seconds), context: AttentionContext(executor: gate)))
    let isDone = Flag()
    let small = Task {
      defer { isDone.set() }
      return try await embedder.embed(["house"])
    }
    try await Task.sleep(for: .milliseconds(50))
    #expect(gate.passedCount == 0)
    // With so many tokens, the batch waits no longer. The request is repeated, because the small request may arrive too
    // late for the first batch.
    let many = Array(repeating: "a good letter", count: 100)
    repeat {
      let vectors = try await embedder.embed(many)
      #expect(sameBits(vectors, try expectedVectors(many, model)))
    } while !isDone.isSet
    #expect(sameBits(try await small.value, try expectedVectors(["house"], model)))
  }

  @Test("a long request takes turns with a short request that comes after it")
  func turns() async throws {
    let gate = Gate()
    let options = TextEmbedder.Options(
      maximumDelay: .zero, tokenLimit: 1, context: AttentionContext(executor: gate))
    let embedder = try await TextEmbedder(model: model, options: options)
    _ = try await embedder.embed(["house"])
    let callsOfBatch = gate.passedCount
    gate.close()
    let first = Task { try await embedder.embed(["house"]) }
    try await until("the first request runs") { gate.isHolding }
    let (isLongAsked, isShortAsked, isShortDone) = (Flag(), Flag(), Flag())
    let long = Task {
      isLongAsked.set()
      return try await embedder.embed(Array(repeating: "house", count: 100))
    }
    try await until("the long request is made") { isLongAsked.isSet }
    try await Task.sleep(for: .milliseconds(100))
    let short = Task {
      isShortAsked.set()
      let vectors = try await embedder.embed(["house"])
      isShortDone.set()
      return vectors
    }
    try await until("the short request is made") { isShortAsked.isSet }
    try await Task.sleep(for: .milliseconds(100))
    // A batch is one text. The gate lets as many batches pass as half of the long request has, and closes again.
    gate.open(for: 50 * callsOfBatch)
    defer { gate.open() }
    try await until("the short request is done") { isShortDone.isSet }
    gate.open()
    let house = try expectedVectors(["house"], model)[0]
    #expect(sameBits(try await short.value + first.value, [house, house]))
    #expect(sameBits(try await long.value, Array(repeating: house, count: 100)))
  }

  @Test("a text beyond the limit of waiting texts is refused as busy; the waiting texts get their results")
  func busy() async throws {
    let gate = Gate()
    let embedder = try await TextEmbedder(
      model: model, options: .init(maximumDelay: .zero, waitingLimit: 10, context: AttentionContext(executor: gate)))
    gate.close()
    let running = Task { try await embedder.embed(["house"]) }
    try await until("the first request runs") { gate.isHolding }
    // The text that runs counts as one of the ten waiting texts, so nine more may wait.
    let expected = try expectedVectors(["rain"], model)
    try await withThrowingTaskGroup(of: [[Float]]?.self) { group in
      for _ in 0..<20 {
        group.addTask {
          do { return try await embedder.embed(["rain"]) } catch let error as AttentionError {
            #expect(error.code == .busy)
            #expect(error.description.contains("at most 10 waiting texts expected; there are 10, and 1 came"))
            return nil
          }
        }
      }
      for _ in 0..<11 { #expect(try await group.next() == .some(nil)) }
      gate.open()
      var count = 0
      for try await vectors in group {
        #expect(sameBits(try #require(vectors), expected))
        count += 1
      }
      #expect(count == 9)
    }
    _ = try await running.value
  }

  @Test("calls one after the other are never refused as busy, even with more texts than may wait")
  func neverBusyAlone() async throws {
    let embedder = try await TextEmbedder(model: model, options: .init(maximumDelay: .zero, waitingLimit: 1))
    let expected = try expectedVectors(["house", "rain"], model)
    for _ in 0..<3000 { try #require(sameBits(try await embedder.embed(["house", "rain"]), expected)) }
  }

  @Test("every batch is reported: its texts and tokens, the texts that still wait, and the time")
  func reports() async throws {
    let reports = Mutex<[TextEmbedder.BatchReport]>([])
    let embedder = try await TextEmbedder(
      model: model,
      options: .init(maximumDelay: .zero, tokenLimit: 8) { report in reports.withLock { $0.append(report) } })
    let texts = ["house", "rain falls", "", "a letter came"]
    _ = try await embedder.embed(texts)
    // The last batch is reported after its caller has got the vectors, so the test waits for the report.
    while reports.withLock({ $0.reduce(0) { $0 + $1.textCount } }) < texts.count {
      try await Task.sleep(for: .milliseconds(1))
    }
    let seen = reports.withLock { $0 }
    #expect(seen.reduce(0) { $0 + $1.textCount } == texts.count)
    #expect(seen.reduce(0) { $0 + $1.tokenCount } == texts.reduce(0) { $0 + model.tokens($1).count })
    #expect(seen.count > 1 && seen.allSatisfy { $0.requestCount == 1 && $0.succeeded && $0.duration > .zero })
    #expect(seen.last?.waitingTextCount == 0 && seen[0].waitingTextCount == texts.count - seen[0].textCount)
    #expect(seen.allSatisfy { $0.longestWait >= .zero })
  }

  @Test("a wrong folder and wrong options throw")
  func wrong() async throws {
    let missing = Fixture.folder + "/missing"
    let error = await #expect(throws: AttentionError.self) { try await TextEmbedder(directory: missing) }
    #expect(error?.code == .notFound)
    #expect(error?.description.contains(missing) == true)
    let lacking = try #require(InstructionSet.allCases.first { !InstructionSet.present.contains($0) })
    for (options, part) in [
      (TextEmbedder.Options(tokenLimit: 0), "got 0, 65536"), (.init(tokenLimit: .min), "\(Int.min)"),
      (.init(waitingLimit: 0), "got 2048, 0"), (.init(waitingLimit: -1), "-1"),
      (.init(maximumDelay: .milliseconds(-1)), "a delay from 0"),
      (.init(context: AttentionContext(instructionSet: lacking)), lacking.rawValue),
    ] {
      let error = await #expect(throws: AttentionError.self) { try await TextEmbedder(model: model, options: options) }
      #expect(error?.description.contains(part) == true, "\(error.debugDescription)")
    }
  }

  /// A weak reference to a gate, which exists as long as a thread of an embedder holds it.
  private struct WeakGate { weak var gate: Gate? }

  /// Makes an embedder, uses the embedder, and releases it.
  private func use(cancelling: Bool) async throws -> WeakGate {
    let gate = Gate()
    let embedder = try await TextEmbedder(model: model, options: .init(context: AttentionContext(executor: gate)))
    if cancelling {
      gate.close()
      let task = Task { try await embedder.embed(["house"]) }
      try await until("the call runs") { gate.isHolding }
      task.cancel()
      await #expect(throws: CancellationError.self) { try await task.value }
    } else {
      _ = try await embedder.embed(["house"])
    }
    gate.open()
    return WeakGate(gate: gate)
  }

  @Test("releasing an embedder ends its thread, also after a cancelled call", arguments: [false, true])
  func release(cancelling: Bool) async throws {
    let gate = try await use(cancelling: cancelling)
    try await until("the gate that the thread held is released") { gate.gate == nil }
  }

  @Test("50 embedders that are used at the same time leave no thread after they are released")
  func fiftyEmbedders() async throws {
    let expected = try expectedVectors(["house", "rain"], model)
    var embedders: [TextEmbedder] = []
    var gates: [WeakGate] = []
    for _ in 0..<50 {
      let gate = Gate()
      gates.append(WeakGate(gate: gate))
      embedders.append(
        try await TextEmbedder(model: model, options: .init(context: AttentionContext(executor: gate))))
    }
    try await withThrowingTaskGroup(of: [[Float]].self) { group in
      for embedder in embedders { group.addTask { try await embedder.embed(["house", "rain"]) } }
      for try await vectors in group { #expect(sameBits(vectors, expected)) }
    }
    #expect(gates.allSatisfy { $0.gate != nil })
    embedders.removeAll()
    try await until("the gates that the threads held are released") { gates.allSatisfy { $0.gate == nil } }
  }
}
