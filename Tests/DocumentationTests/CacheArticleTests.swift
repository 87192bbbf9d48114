import Attention
import AttentionBLAS
import AttentionTestSupport
import Testing

@Suite("Documentation: scores and caches")
struct CacheArticleTests {
  @Test("the generation loop generates the same tokens as attention to the whole sequence")
  func generation() throws {
    let layer = try MultiHeadAttention<Float>(
      configuration: .init(
        embeddingDimension: 64, headCount: 8, keyValueHeadCount: 2, rotary: RotaryEmbedding(dimension: 8)), seed: 1)
    let embeddings = try Tensor<Float>(uniform: -1..<1, shape: [100, 64], seed: 2)
    func embedded(_ tokens: [Int]) throws -> Tensor<Float> {
      try Tensor(tokens.flatMap { try embeddings.select($0, axis: 0).array }, shape: [1, tokens.count, 64])
    }

    let cache = try KeyValueCache<Float>(batchCount: 1, headCount: 2, headDimension: 8)
    var tokens = [3, 14, 15, 92, 65]
    var new = tokens
    while tokens.count < 20 {
      let output = try layer.forward(embedded(new), cache: cache).output  // [1, new.count, 64]
      let last = try output.slice(new.count - 1..<new.count, axis: 1).reshaped([1, 64])
      let likeness = try matmul(last, embeddings.transposed()).array  // one for each token of the vocabulary
      new = [likeness.indices.max { likeness[$0] < likeness[$1] }!]
      tokens += new
    }
    print(cache.lengths)  // [19]: the last token has not gone in
    #expect(cache.lengths == [19])

    // Compute every generated token again, in one call for the whole sequence.
    let whole = try layer(embedded(Array(tokens.dropLast())), mask: .causal)
    let likeness = try matmul(whole.reshaped([19, 64]), embeddings.transposed())
    for token in 5..<20 {
      let row = try likeness.select(token - 1, axis: 0).array
      #expect(row.indices.max { row[$0] < row[$1] } == tokens[token])
    }

    let before = cache.lengths[0]
    _ = try layer.forward(embedded([7, 8, 9, 10]), cache: cache)
    try cache.truncate(to: before + 2)  // two of them were right
    #expect(cache.lengths == [21])

    let rotary = try RotaryEmbedding(dimension: 8)
    let query = try Tensor<Float>(uniform: -1..<1, shape: [1, 8, 1, 8], seed: 3)
    let key = try Tensor<Float>(uniform: -1..<1, shape: [1, 2, 1, 8], seed: 4)
    let value = key
    let table: RotaryTable<Float> = try rotary.table(.startingAtEach(cache.lengths), count: 1)
    try cache.append(key: key, value: value, rotary: table)
    let attended = try scaledDotProductAttention(query: table.rotated(query), cache: cache)
    #expect(attended.shape == [1, 8, 1, 8])
  }

  @Test("samples, forks and files work as the article shows")
  func forks() throws {
    let prompts = try Tensor<Float>(uniform: -1..<1, shape: [2, 2, 5, 8], seed: 1)
    let batch = try KeyValueCache<Float>(batchCount: 2, headCount: 2, headDimension: 8)
    try batch.append(key: prompts, value: prompts, counts: [5, 3])  // [2, 2, 5, 8]
    print(batch.lengths)  // [5, 3]
    print(try batch.mask(queryCount: 5).drawing(queryCount: 5, keyCount: 5, batchCount: 2))
    let newest = try Tensor<Float>(uniform: -1..<1, shape: [2, 8, 5, 8], seed: 5)
    let padded = try scaledDotProductAttention(
      query: newest, cache: batch, mask: .leftPadding([1, 0]).combined(with: .window(left: 2, right: 0)))
    #expect(padded.shape == [2, 8, 5, 8])
    #expect(batch.lengths == [5, 3])

    let words = try Tensor<Float>(uniform: -1..<1, shape: [1, 2, 40, 8], seed: 1)
    let prompt = try KeyValueCache<Float>(
      batchCount: 1, headCount: 2, headDimension: 8, placement: .paged(pageLength: 16))
    try prompt.append(key: words, value: words)  // [1, 2, 40, 8]
    let answers = try prompt.fork(samples: [0, 0, 0, 0])
    print(answers.batchCount, answers.pageCount)  // 4 3: four samples, three pages in all
    #expect(answers.batchCount == 4 && answers.pageCount == 3)

    let folder = try TemporaryFolder()
    let path = folder("prompt.safetensors")
    try prompt.write(to: path)
    let restored = try KeyValueCache<Float>(contentsOf: path)
    #expect(restored.lengths == [40])
  }

  @Test("scores work as the article shows", arguments: [false, true])
  func scores(isSunday: Bool) throws {
    let q = try Tensor<Float>(uniform: -1..<1, shape: [1, 8, 16, 4], seed: 1)
    let (k, v) = (q, q)
    let sinks = try Tensor<Float>(repeating: -1, shape: [8])
    let capped = try scaledDotProductAttention(
      query: q, key: k, value: v, mask: .causal, options: AttentionOptions(softcap: 50, sinks: sinks))
    #expect(capped.shape == q.shape)

    // Distances count twice on Sundays.
    let factor: Float = isSunday ? 2 : 1
    let relative = AttentionMask.scores(Float.self) { tile in
      tile.update { score, at in score - factor * Float(abs(at.query - at.key)) / Float(1 + at.head) }
    }
    let output = try scaledDotProductAttention(query: q, key: k, value: v, mask: relative.combined(with: .causal))
    let slopes = (0..<8).map { Double(factor) / Double(1 + $0) }
    let expected = try scaledDotProductAttention(
      query: q, key: k, value: v, mask: .alibi(slopes: slopes).combined(with: .causal))
    #expect(mismatch(output.array, expected.array.map(Double.init), tolerance: 1e-6) == nil)

    let seen = try scaledDotProductAttention(
      query: q, key: k, value: v, mask: relative.combined(with: .causal), options: AttentionOptions(softcap: 50),
      returning: [.maskedScores, .weights])
    print(try seen.maskedScores.shape, try seen.weights.shape)  // [1, 8, 16, 16] [1, 8, 16, 16]
    #expect(try seen.maskedScores.shape == [1, 8, 16, 16])

    func part(_ keys: Range<Int>) throws -> AttentionPartial<Float> {
      try AttentionPartial(query: q, key: k.slice(keys, axis: 2), value: v.slice(keys, axis: 2))
    }
    let whole = try part(0..<7).merged(with: part(7..<16)).output
    #expect(
      mismatch(
        whole.array, try scaledDotProductAttention(query: q, key: k, value: v).array.map(Double.init), tolerance: 1e-6)
        == nil)
  }
}
