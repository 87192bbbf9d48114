import AttentionFiles
import AttentionModels
import AttentionProblems
import AttentionTensors
import AttentionTestSupport
import Synchronization
import Testing

@Suite("Calls of an encoder: batches, threads, empty input, errors")
struct EncoderCallTests {
  private let model: SentenceEncoder
  init() throws { model = try SentenceEncoder(directory: Fixture.tiny) }

  /// Texts of 0 to 30 words. Some are empty, and some are longer than the model's limit, so that they are cut.
  private func texts(_ count: Int, seed: UInt64) -> [String] {
    var generator = TestGenerator(seed: seed)
    return generator.texts(count, wordCount: 0...30)
  }

  @Test("a text gives the same vector alone and together with others, with 1, 2 and 7 threads")
  func sameBitsInBatches() throws {
    let seed: UInt64 = 5
    let texts = texts(150, seed: seed)
    for var context in AttentionContext.everyPath {
      context.threadCount = 1
      let alone = try texts.map { try model.embed([$0], context: context).array }
      for threadCount in [1, 2, 7] {
        context.threadCount = threadCount
        for range in [0..<150, 3..<40, 7..<9] {
          let together = try rows(model.embed(Array(texts[range]), context: context))
          let difference = range.lazy.compactMap {
            companyMismatch(together[$0 - range.lowerBound], alone[$0], context)
          }.first
          #expect(difference == nil, "\(range) with \(threadCount) threads, seed \(seed)")
        }
      }
    }
  }

  @Test("a packed sequence has the same states alone and together with others, in any order")
  func sameBitsOfStates() throws {
    let seed: UInt64 = 6
    var sequences = texts(20, seed: seed).map(model.tokens) + [[], [], [2, 3]]
    for var context in AttentionContext.everyPath {
      context.threadCount = 2
      for _ in 0..<3 {
        let states = try model.encoder.hiddenStates(sequences, context: context).array
        let alone = try sequences.map { try model.encoder.hiddenStates([$0], context: context).array }
        #expect(states.count == sequences.reduce(0) { $0 + $1.count } * 48)
        #expect(companyMismatch(states, alone.flatMap(\.self), context) == nil, "seed \(seed)")
        sequences = Array(sequences[5...] + sequences[..<5])
      }
    }
  }

  @Test("no texts, no sequences, and sequences without tokens")
  func empty() throws {
    for context in AttentionContext.everyPath {
      #expect(try model.embed([], context: context).shape == [0, 48])
      #expect(try model.embed(tokens: [], context: context).shape == [0, 48])
      #expect(try model.encoder.hiddenStates([], context: context).shape == [0, 48])
      #expect(try model.encoder.hiddenStates([[], []], context: context).shape == [0, 48])
      let trace = try model.encoder.trace([], context: context)
      #expect(trace.hiddenStates.map(\.shape) == [[0, 48], [0, 48], [0, 48]])
      #expect(trace.attentions.map(\.shape) == [[3, 0, 0], [3, 0, 0]])
      let vectors = try rows(model.embed(tokens: [[], [2, 69, 3], [], []], context: context))
      let zeros = [Float](repeating: 0, count: 48)
      #expect(vectors == [zeros, try model.embed(["the"], context: context).array, zeros, zeros])
    }
  }

  @Test("an empty text has only the tokens [CLS] and [SEP]")
  func emptyText() throws {
    #expect(model.tokens("") == [2, 3])
    #expect(sameBits(try model.embed([""]).array, try model.embed(tokens: [[2, 3]]).array))
  }

  @Test("a sequence may have as many tokens as there are positions; more tokens, or tokens out of range, throw")
  func outOfRange() throws {
    let encoder = model.encoder
    #expect(try encoder.hiddenStates([Array(repeating: 112, count: 40)]).shape == [40, 48])
    let lies: [(sequence: [Int32], part: String)] = [
      (Array(repeating: 5, count: 41), "at most 40 tokens expected; sequence 1 has 41"),
      ([5, 113], "sequence 1 holds 113"),
      ([-1], "tokens from 0 to 112 expected; sequence 1 holds -1"), ([.min], "\(Int32.min)"),
      ([5, 5, .max], "\(Int32.max)"),
    ]
    for (sequence, part) in lies {
      expectError(part, code: .invalidArgument) { _ = try encoder.hiddenStates([[2, 3], sequence]) }
      expectError(part, code: .invalidArgument) { _ = try model.embed(tokens: [[2, 3], sequence]) }
      expectError(part.replacing("sequence 1", with: "sequence 0")) { _ = try encoder.trace(sequence) }
    }
  }

  private struct Stop: Error, Equatable { var call = 0 }

  @Test("an error that a checkpoint throws ends the call, whichever checkpoint it is")
  func checkpoints() throws {
    var callCount = 0
    _ = try model.encoder.hiddenStates([[2, 69, 3]]) { callCount += 1 }
    #expect(callCount >= 2)
    for last in 1...callCount {
      var count = 0
      #expect(throws: Stop(call: last)) {
        try model.encoder.hiddenStates([[2, 69, 3]]) {
          count += 1
          if count == last { throw Stop(call: last) }
        }
      }
      #expect(count == last)
    }
  }

  @Test("a checkpoint that throws ends a call of many batches on several threads", arguments: [1, 2, 7])
  func checkpointsOfBatches(threadCount: Int) throws {
    let tokens = texts(600, seed: 7).map(model.tokens)
    let context = AttentionContext(threadCount: threadCount)
    let total = Atomic<Int>(0)
    _ = try model.embed(tokens: tokens, context: context) { total.add(1, ordering: .relaxed) }
    let count = Atomic<Int>(0)
    #expect(throws: Stop()) {
      try model.embed(tokens: tokens, context: context) {
        if count.add(1, ordering: .relaxed).newValue >= 20 { throw Stop() }
      }
    }
    // When a checkpoint throws for the first time, each thread may be in a batch and call the checkpoint once more.
    #expect((20...20 + threadCount).contains(count.load(ordering: .relaxed)))
    #expect(total.load(ordering: .relaxed) > 100)
    #expect(try model.embed(tokens: tokens, context: context).shape == [600, 48])
  }

  @Test("an instruction set that this machine does not have throws")
  func missingInstructionSet() throws {
    let missing = try #require(InstructionSet.allCases.first { !InstructionSet.present.contains($0) })
    let context = AttentionContext(instructionSet: missing)
    expectError(missing.rawValue, code: .unsupported) { _ = try model.embed(["the"], context: context) }
    expectError(missing.rawValue, code: .unsupported) { _ = try model.encoder.trace([2, 3], context: context) }
    expectError(missing.rawValue, code: .unsupported) { try model.encoder.pack(context: context) }
  }

  @Test("packing the weights before the first call changes no bit")
  func packing() throws {
    let packed = try SentenceEncoder(directory: Fixture.tiny, loading: .copied)
    try packed.encoder.pack()
    let texts = texts(20, seed: 8)
    #expect(sameBits(try packed.embed(texts).array, try model.embed(texts).array))
  }

  @Test("several tasks at the same time, with weights that are not packed yet, get the same bits")
  func concurrentCalls() async throws {
    let (fresh, texts) = (try SentenceEncoder(directory: Fixture.tiny), texts(40, seed: 10))
    let expected = try model.embed(texts).array
    let areRight = try await withThrowingTaskGroup(of: Bool.self) { group in
      for threadCount in 1...8 {
        group.addTask {
          sameBits(try fresh.embed(texts, context: AttentionContext(threadCount: threadCount)).array, expected)
        }
      }
      return try await group.reduce(into: []) { $0.append($1) }
    }
    #expect(areRight == Array(repeating: true, count: 8))
  }

  @Test(
    "a maximum length without room for a token of the text, or above the number of positions, throws",
    arguments: [Int.min, -1, 0, 2, 41, .max])
  func lengths(length: Int) {
    expectError("from 3 to 40 expected; got \(length)", code: .invalidArgument) {
      _ = try SentenceEncoder(tokenizer: model.tokenizer, encoder: model.encoder, maximumLength: length)
    }
  }

  @Test("a tokenizer with a larger vocabulary than the encoder throws")
  func tooManyTokens() throws {
    let large = try WordPieceTokenizer(directory: Fixture.tokenizer)
    expectError("113", "30522", code: .invalidArgument) {
      _ = try SentenceEncoder(tokenizer: large, encoder: model.encoder)
    }
  }
}
