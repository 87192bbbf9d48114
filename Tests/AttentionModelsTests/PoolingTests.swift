import AttentionModels
import AttentionProblems
import AttentionTensors
import AttentionTestSupport
import Testing

@Suite("Pooling")
struct PoolingTests {
  /// The pooled states by the definition, in Double.
  private func pooled(_ states: [[Float]], _ pooling: Pooling, isNormalized: Bool) -> [Double] {
    let columns = (0..<48).map { column in states.map { Double($0[column]) } }
    let vector = columns.map { column in
      switch pooling {
      case .mean: column.reduce(0, +) / Double(column.count)
      case .cls: column[0]
      case .max: column.max()!
      case .meanSquareRoot: column.reduce(0, +) / Double(column.count).squareRoot()
      case .weightedMean:
        column.enumerated().reduce(0) { $0 + Double($1.offset + 1) * $1.element }
          / Double(column.count * (column.count + 1) / 2)
      case .lastToken: column.last!
      }
    }
    if !isNormalized { return vector }
    let length = vector.reduce(0) { $0 + $1 * $1 }.squareRoot()
    return vector.map { $0 / length }
  }

  @Test("each kind of pooling agrees with its definition in Double", arguments: Pooling.allCases, [false, true])
  func definition(pooling: Pooling, isNormalized: Bool) throws {
    let tiny = try SentenceEncoder(directory: Fixture.tiny)
    let model = try SentenceEncoder(
      tokenizer: tiny.tokenizer, encoder: tiny.encoder, pooling: pooling, isNormalized: isNormalized)
    let seed: UInt64 = 3
    var generator = TestGenerator(seed: seed)
    let texts = generator.texts(40, wordCount: 0...25)
    for context in AttentionContext.everyPath {
      let vectors = try rows(model.embed(texts, context: context))
      for (text, vector) in zip(texts, vectors) {
        let states = try rows(model.encoder.hiddenStates([model.tokens(text)], context: context))
        let expected = pooled(states, pooling, isNormalized: isNormalized)
        // A sum that is divided by √n has √n times the error of a mean.
        let isSum = pooling == .meanSquareRoot && !isNormalized
        let tolerance = 1e-5 * (isSum ? Double(states.count).squareRoot() : 1)
        #expect(mismatch(vector, expected, tolerance: tolerance, "\(context.path), seed \(seed)") == nil)
      }
    }
  }

  @Test(
    "each kind of pooling has a name in the older and in the newer form of settings",
    arguments: [
      (Pooling.mean, "mean", "mean_tokens"), (.cls, "cls", "cls_token"), (.max, "max", "max_tokens"),
      (.meanSquareRoot, "mean_sqrt_len_tokens", "mean_sqrt_len_tokens"),
      (.weightedMean, "weightedmean", "weightedmean_tokens"), (.lastToken, "lasttoken", "lasttoken"),
    ])
  func names(pooling: Pooling, newer: String, older: String) throws {
    let copy = try ModelCopy()
    try copy.write("{\"pooling_mode_\(older)\": true}", to: "1_Pooling/config.json")
    #expect(try SentenceEncoder(directory: copy.path).pooling == pooling)
    try copy.write("{\"pooling_mode\": \"\(newer)\"}", to: "1_Pooling/config.json")
    #expect(try SentenceEncoder(directory: copy.path).pooling == pooling)
  }
}
