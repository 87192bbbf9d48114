import Attention
import AttentionProblems
import AttentionTestSupport
import Testing

@Suite("Packed sequences")
struct PackedSequenceTests {
  typealias Layer = MultiHeadAttention<Float>

  static let configurations: [Layer.Configuration] = [
    Layer.Configuration(embeddingDimension: 24, headCount: 3),
    Layer.Configuration(
      embeddingDimension: 32, headCount: 4, keyValueHeadCount: 2, rotary: try! RotaryEmbedding(dimension: 8, base: 500),
      normEpsilon: 1e-5),
    Layer.Configuration(embeddingDimension: 20, headCount: 2, softcap: 2, window: 3, hasSinks: true),
  ]

  static let lengths: [[Int]] = [[], [0], [1], [5, 5, 5], [7, 7, 3, 1, 0, 1, 12], [40, 1, 40, 33, 33, 0, 0]]

  @Test("each packed sequence has the same result as in a call of its own", arguments: configurations, lengths)
  func alone(configuration: Layer.Configuration, lengths: [Int]) throws {
    let layer = try Layer(configuration: configuration, seed: 5)
    let total = lengths.reduce(0, +)
    let x = try Tensor<Float>(uniform: -1..<1, shape: [total, configuration.embeddingDimension], seed: 9)
    for context in AttentionContext.everyPath {
      for isCausal in [false, true] {
        let y = try layer.forward(packed: x, lengths: lengths, isCausal: isCausal, context: context)
        #expect(y.shape == x.shape)
        var row = 0
        for length in lengths {
          let rows = row..<row + length
          let part = try x.slice(rows, axis: 0)
          let whole = try layer(part, mask: isCausal ? .causal : .none, context: context)
          let what = "\(context.path) \(lengths) rows \(rows)"
          #expect(
            try mismatch(y.slice(rows, axis: 0).array, whole.array.map(Double.init), tolerance: 2e-6, what) == nil)
          // A sequence has the same bits whether it is packed together with others or by itself.
          let single = try layer.forward(packed: part, lengths: [length], isCausal: isCausal, context: context)
          if context.resolvedAlgorithm != .openBLAS {
            #expect(try sameBits(y.slice(rows, axis: 0).array, single.array), "\(what)")
          }
          row += length
        }
      }
    }
  }

  @Test("lengths that do not sum to the number of tokens, and layers that add keys of their own, are errors")
  func errors() throws {
    let layer = try Layer(embeddingDimension: 8, headCount: 2, seed: 1)
    let x = try Tensor<Float>(repeating: 1, shape: [5, 8])
    for lengths in [[4], [6], [-1, 6], [.max, 2], []] {
      #expect(throws: AttentionError.self) { try layer.forward(packed: x, lengths: lengths) }
    }
    #expect(throws: AttentionError.self) { try layer.forward(packed: x.reshaped([1, 5, 8]), lengths: [5]) }
    let adding = try Layer(
      configuration: Layer.Configuration(embeddingDimension: 8, headCount: 2, addsZeroAttention: true), seed: 1)
    #expect(throws: AttentionError.self) { try adding.forward(packed: x, lengths: [5]) }
  }
}
