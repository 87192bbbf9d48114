import AttentionFiles
import AttentionModels
import AttentionProblems
import AttentionTensors
import AttentionTestSupport
import Testing

@Suite("An index of texts")
struct EmbeddingIndexTests {
  private let model: SentenceEncoder
  private let folder: TemporaryFolder

  init() throws {
    model = try SentenceEncoder(directory: Fixture.tiny)
    folder = try TemporaryFolder()
  }

  /// The number of texts of a large index. A search compares them in more than one block.
  private static let manyCount = 9_000

  /// The products of a query with every vector of the index, computed in Double.
  private func scores(_ index: EmbeddingIndex, _ query: [Float]) throws -> [Double] {
    try (0..<index.count).map { position in
      zip(try index.vector(position).array, query).reduce(0) { $0 + Double($1.0) * Double($1.1) }
    }
  }

  @Test("a search finds the same as a plain loop in Double, on every path", arguments: [1, 7, 500, manyCount])
  func search(count: Int) throws {
    let seed = UInt64(count)
    var generator = TestGenerator(seed: seed)
    let texts = generator.texts(count)
    let index = try EmbeddingIndex(texts: texts, encoder: model)
    #expect(index.count == count)
    #expect(index.dimension == 48)
    #expect((0..<count).allSatisfy { index.text($0) == texts[$0] })
    let queries = try model.embed(generator.texts(3))
    let exact = try rows(queries).map { try scores(index, $0) }
    for context in AttentionContext.everyPath {
      let found = try index.search(queries, limit: 10, context: context)
      #expect(found.count == 3)
      for (matches, exact) in zip(found, exact) {
        let what: Comment = "\(context.path), seed \(seed)"
        #expect(mismatch(matches.map(\.score), exact.sorted(by: >).prefix(10) + [], tolerance: 1e-6) == nil, what)
        #expect(Set(matches.map(\.position)).count == min(10, count), what)
        for match in matches {
          #expect(abs(Double(match.score) - exact[match.position]) < 1e-6, what)
          #expect(match.text == texts[match.position])
          #expect(match.line == match.position + 1)
        }
        for (a, b) in zip(matches, matches.dropFirst()) {
          #expect(a.score > b.score || (a.score == b.score && a.position < b.position), what)
        }
      }
    }
  }

  /// The tiny model without its last module, which normalises vectors: this model's vectors do not have length 1.
  private func plainModel(similarity: String?) throws -> SentenceEncoder {
    let copy = try ModelCopy()
    try copy.write(
      #"[{"type": "x.Transformer", "path": ""}, {"type": "x.Pooling", "path": "1_Pooling"}]"#, to: "modules.json")
    if let similarity {
      try copy.write("{\"similarity_fn_name\": \"\(similarity)\"}", to: "config_sentence_transformers.json")
    }
    return try SentenceEncoder(directory: copy.path, loading: .copied)
  }

  @Test("texts are compared by the cosine, normalised or not, unless the model's settings ask for the product")
  func similarity() throws {
    var generator = TestGenerator(seed: 11)
    // The index has more texts than a search compares in one block.
    let (texts, queries) = (generator.texts(Self.manyCount), generator.texts(5))
    let expected = try EmbeddingIndex(texts: texts, encoder: model).search(model.embed(queries), limit: 20)
    for name in [nil, "cosine"] as [String?] {
      let plain = try plainModel(similarity: name)
      let index = try EmbeddingIndex(texts: texts, encoder: plain)
      try index.write(to: folder("plain.index"))
      let vectors = try plain.embed(queries)
      for index in [index, try EmbeddingIndex(contentsOf: folder("plain.index"))] {
        try index.check(plain)
        for (found, expected) in zip(try index.search(vectors, limit: 20), expected) {
          #expect(found.map(\.position) == expected.map(\.position))
          #expect(mismatch(found.map(\.score), expected.map { Double($0.score) }, tolerance: 1e-5) == nil)
        }
        // The index holds the vectors that the model gives, which are not normalised.
        #expect(try sameBits(index.vector(3).array, plain.embed([texts[3]]).array))
      }
    }
    let product = try plainModel(similarity: "dot")
    let index = try EmbeddingIndex(texts: texts, encoder: product)
    let found = try index.search(product.embed(queries), limit: 20)
    for (matches, query) in zip(found, try rows(product.embed(queries))) {
      let exact = try scores(index, query).sorted(by: >).prefix(20)
      #expect(mismatch(matches.map(\.score), Array(exact), tolerance: 1e-4 * abs(exact[0])) == nil)
    }
    #expect(found.map { $0.map(\.position) } != expected.map { $0.map(\.position) })
    expectError("similarity_fn_name", "got", "euclidean") {
      _ = try EmbeddingIndex(texts: texts, encoder: plainModel(similarity: "euclidean"))
    }
  }

  @Test("truncated vectors are compared by the cosine, too")
  func truncated() throws {
    let copy = try ModelCopy()
    try copy.write(#"{"truncate_dim": 7}"#, to: "config_sentence_transformers.json")
    let short = try SentenceEncoder(directory: copy.path)
    let index = try EmbeddingIndex(texts: ["the rain", "a house", "her sister"], encoder: short)
    let best = try index.search(short.embed(["a house"]), limit: 1)[0][0]
    #expect(index.dimension == 7 && best.position == 1 && abs(best.score - 1) < 1e-5)
  }

  @Test("a line that is longer than the model's limit is cut and counted, or is found by its best chunk")
  func chunks() throws {
    let filler = String(repeating: "the of and to in that ", count: 12)
    let lines = ["her sister", filler + "a single man of large fortune", "the rain", filler + filler, "", "a letter"]
    let cut = try EmbeddingIndex(lines: lines, encoder: model)
    #expect(cut.cutCount == 2 && cut.count == 5)
    let query = try model.embed(["a single man of large fortune"], prompt: .query)
    let index = try EmbeddingIndex(lines: lines, encoder: model, chunking: .init(overlap: 6))
    #expect(index.cutCount == 0 && index.count > 5)
    try index.write(to: folder("chunks.index"))
    for index in [index, try EmbeddingIndex(contentsOf: folder("chunks.index"))] {
      let found = try index.search(query, limit: 10)[0]
      #expect(found[0].line == 2)
      // Each line that is not empty is found once, with its best chunk.
      #expect(found.map(\.line).sorted() == [1, 2, 3, 4, 6])
      let all = try (0..<index.count).map { position in
        zip(try index.vector(position).array, query.array).reduce(0) { $0 + $1.0 * $1.1 }
      }
      for match in found {
        // The index holds the chunks of the first line, then those of the second, and so on. An empty line has none.
        let counts = try lines.prefix(match.line).map {
          $0.isEmpty ? 0 : try model.chunks(of: $0, overlap: 6, prompt: .document).count
        }
        let end = counts.reduce(0, +)
        let places = end - counts.last!..<end
        #expect(abs(match.score - places.map { all[$0] }.max()!) < 1e-5, "line \(match.line)")
        // If several chunks of a line are equally good, the match is the first of them.
        #expect(match.position == places.first { abs(all[$0] - match.score) < 1e-6 }, "line \(match.line)")
      }
    }
    try cut.write(to: folder("cut.index"))
    #expect(try EmbeddingIndex(contentsOf: folder("cut.index")).cutCount == 2)
  }

  @Test("chunks hold every word in order, fit the limit, and overlap", arguments: [0, 1, 7, 14])
  func chunkWords(overlap: Int) throws {
    var generator = TestGenerator(seed: UInt64(overlap))
    for _ in 0..<30 {
      let text = generator.text(wordCount: 0...120)
      let words = text.split(separator: " ")
      let chunks = try model.chunks(of: text, overlap: overlap)
      if try !model.isCut(text) {
        #expect(chunks == [text])
        continue
      }
      var end = 0
      for chunk in chunks {
        let own = chunk.split(separator: " ")
        #expect(try own.count == 1 || !model.isCut(chunk))
        // The chunk begins at most `overlap` words before the end of the previous chunk. The overlap is counted in
        // tokens, and each word counts as at least one token.
        let start = try #require((max(0, end - overlap)...end).first { words[$0...].starts(with: own) })
        end = start + own.count
      }
      #expect(end == words.count)
    }
    expectError("overlap", "15") { _ = try model.chunks(of: "a", overlap: 15) }
    expectError("overlap", "-1") { _ = try model.chunks(of: "a", overlap: -1) }
    #expect(try model.chunks(of: String(repeating: "wxyz", count: 60)).count == 1)
    // Words that are too long are split at punctuation marks and ideographs. Control characters are words without
    // tokens. The model must not cut any chunk. Each chunk must add something new; otherwise there would be more
    // chunks.
    for text in [
      String(repeating: "a.b,", count: 60), String(repeating: "愛", count: 100),
      "a b c d e f g h " + String(repeating: "x.", count: 40) + " u v",
      String(repeating: "\u{1} ", count: 500) + "the man "
        + String(repeating: "x.", count: 60),
    ] {
      let chunks = try model.chunks(of: text, overlap: 14)
      #expect(chunks.count < 20 && chunks.count > 1)
      for chunk in chunks { #expect(try !model.isCut(chunk)) }
    }
  }

  @Test("if texts are equal, the earlier ones come first, wherever they are in the index", arguments: [1, 2, 3])
  func ties(limit: Int) throws {
    let seed: UInt64 = 4
    var generator = TestGenerator(seed: seed)
    var texts = generator.texts(Self.manyCount)
    let places = [8_999, 8_192, 8_191, 5_000, 77, 3]
    for place in places { texts[place] = "A single man in that house." }
    let index = try EmbeddingIndex(texts: texts, encoder: model)
    for context in AttentionContext.everyPath {
      let matches = try index.search(model.embed(["A single man in that house."]), limit: limit, context: context)[0]
      let found = matches.map(\.position)
      #expect(matches.allSatisfy { abs($0.score - 1) < 1e-6 }, "\(context.path), seed \(seed)")
      // OpenBLAS sums the last few rows of a block in another order, so equal vectors may have different scores.
      let isRight =
        context.resolvedAlgorithm == .openBLAS
        ? Set(found).isSubset(of: places) && found.count == limit : found == Array(places.sorted().prefix(limit))
      #expect(isRight, "\(found), \(context.path), seed \(seed)")
    }
  }

  @Test("a query among many has the same scores as in a search of its own")
  func manyQueries() throws {
    var generator = TestGenerator(seed: 6)
    let index = try EmbeddingIndex(texts: generator.texts(300), encoder: model)
    let queries = try model.embed(generator.texts(150))
    for context in AttentionContext.everyPath {
      let together = try index.search(queries, limit: 4, context: context)
      #expect(together.count == 150)
      for (query, found) in together.enumerated() {
        let alone = try index.search(queries.slice(query..<query + 1, axis: 0), limit: 4, context: context)[0]
        #expect(mismatch(found.map(\.score), alone.map { Double($0.score) }, tolerance: 1e-6) == nil, "query \(query)")
      }
    }
  }

  @Test("limits of 0, of all texts and more, and below 0")
  func limits() throws {
    var generator = TestGenerator(seed: 2)
    let index = try EmbeddingIndex(texts: generator.texts(20), encoder: model)
    let queries = try model.embed(["house", "rain"])
    #expect(try index.search(queries, limit: 0) == [[], []])
    for limit in [20, 21, Int.max] {
      let found = try index.search(queries, limit: limit)
      #expect(found.map { $0.map(\.position).sorted() } == [Array(0..<20), Array(0..<20)])
    }
    #expect(try index.search(model.embed([]), limit: 3) == [])
    for limit in [-1, Int.min] {
      expectError("a limit from 0 expected; got \(limit)", code: .invalidArgument) {
        _ = try index.search(queries, limit: limit)
      }
    }
  }

  @Test("queries of another width or rank throw")
  func wrongQueries() throws {
    let index = try EmbeddingIndex(texts: ["house"], encoder: model)
    for shape in [[1, 47], [48], [1, 1, 48], [0, 0]] {
      expectError("queries [Q, 48] expected; got \(shape)", code: .shapeMismatch) {
        _ = try index.search(Tensor(repeating: 1, shape: shape), limit: 3)
      }
    }
  }

  @Test("an index without texts finds nothing, in memory and after it was read from a file")
  func noTexts() throws {
    let path = folder("empty")
    for index in [
      try EmbeddingIndex(texts: [], encoder: model), try EmbeddingIndex(lines: ["", " \t"], encoder: model),
    ] {
      try index.write(to: path)
      for index in [index, try EmbeddingIndex(contentsOf: path)] {
        #expect(index.count == 0)
        #expect(index.dimension == 48)
        #expect(try index.search(model.embed(["house", "rain"]), limit: 5) == [[], []])
        try index.check(model)
      }
    }
  }

  @Test("an index that was read from its file has the same texts, vectors and results")
  func roundTrip() throws {
    var generator = TestGenerator(seed: 3)
    let texts = generator.texts(300) + ["", "\u{0}\n\r\n", "é e\u{301} 愛 👩‍👩‍👧", String(repeating: "long ", count: 1000)]
    let index = try EmbeddingIndex(texts: texts, encoder: model)
    let path = folder("index")
    #expect(!EmbeddingIndex.isIndex(path: path))
    try index.write(to: path)
    #expect(EmbeddingIndex.isIndex(path: path))
    // A file counts as an index if it begins in the same way as an index. The error of opening it then says what is
    // wrong. A text file does not count as an index.
    #expect(EmbeddingIndex.isIndex(path: Fixture.tinyReference))
    #expect(!EmbeddingIndex.isIndex(path: Fixture.tiny + "/vocab.txt"))
    let read = try EmbeddingIndex(contentsOf: path)
    #expect(read.count == texts.count)
    for (position, text) in texts.enumerated() {
      #expect(Array(read.text(position).utf8) == Array(text.utf8))
      #expect(sameBits(try read.vector(position).array, try index.vector(position).array))
    }
    let queries = try model.embed(generator.texts(5) + [""])
    #expect(try read.search(queries, limit: 20) == index.search(queries, limit: 20))
    // An index that was read from a file is written as the same bytes.
    let again = folder("again")
    try read.write(to: again)
    #expect(try readBytes(again) == readBytes(path))
  }

  @Test("the vectors are those of embed, and positions that do not exist are errors")
  func vectors() throws {
    var generator = TestGenerator(seed: 5)
    let texts = generator.texts(1100)
    let index = try EmbeddingIndex(texts: texts, encoder: model)
    let vectors = try rows(model.embed(texts))
    #expect(try texts.indices.allSatisfy { sameBits(try index.vector($0).array, vectors[$0]) })
    for position in [-1, 1100, Int.max] {
      #expect(throws: AttentionError.self) { try index.vector(position) }
    }
  }

  @Test("blank lines are left out, and the others keep their numbers")
  func blankLines() throws {
    let lines = ["", "house", " ", "\t\u{3000}", "rain", "", "", " letter", "\r"]
    let path = folder("lines")
    let index = try EmbeddingIndex(lines: lines, encoder: model)
    try index.write(to: path)
    for index in [index, try EmbeddingIndex(contentsOf: path)] {
      let found = try index.search(model.embed(["rain"]), limit: 9)[0]
      #expect(found.first?.text == "rain")
      let order = found.sorted { $0.position < $1.position }
      #expect(order.map(\.text) == ["house", "rain", " letter"])
      #expect(order.map(\.line) == [2, 5, 8])
      #expect(order.map(\.position) == [0, 1, 2])
    }
  }

  @Test("progress is reported from 0 to the number of texts, and an error that it throws stops the indexing")
  func progress() throws {
    struct Stop: Error {}
    let texts = Array(repeating: "house", count: 2500)
    var reports: [Int] = []
    _ = try EmbeddingIndex(texts: texts, encoder: model) { done, all in
      #expect(all == 2500)
      reports.append(done)
    }
    #expect(reports.first == 0)
    #expect(reports.last == 2500)
    #expect(zip(reports, reports.dropFirst()).allSatisfy { $0 < $1 })
    var count = 0
    #expect(throws: Stop.self) {
      try EmbeddingIndex(texts: texts, encoder: model) { _, _ in
        count += 1
        if count == 2 { throw Stop() }
      }
    }
    #expect(count == 2)
  }

  @Test("an index accepts the model that it was made with, and refuses any other model, on every path")
  func check() throws {
    let index = try EmbeddingIndex(texts: ["house"], encoder: model)
    let other = try ModelCopy()
    try other.editWeights { tensors in
      var values: [Float] = try tensors.values("encoder.layer.1.output.dense.bias")
      values[7] += 0.5
      tensors.set("encoder.layer.1.output.dense.bias", to: values)
    }
    let otherModel = try SentenceEncoder(directory: other.path)
    let firstToken = try SentenceEncoder(tokenizer: model.tokenizer, encoder: model.encoder, pooling: .cls)
    for context in AttentionContext.everyPath {
      try index.check(model, context: context)
      for wrong in [otherModel, firstToken] {
        expectError("the model that the index was made with expected", code: .invalidArgument) {
          try index.check(wrong, context: context)
        }
      }
    }
  }
}
