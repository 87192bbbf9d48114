// Attention in ten lines: two heads and three tokens, each of which attends to itself and to the tokens before it.

import Attention

let query = try Tensor<Float>(uniform: -1..<1, shape: [1, 2, 3, 4], seed: 1)  // [batch, heads, length, width]
let key = try Tensor<Float>(uniform: -1..<1, shape: [1, 2, 3, 4], seed: 2)
let value = try Tensor<Float>(uniform: -1..<1, shape: [1, 2, 3, 4], seed: 3)

let result = try scaledDotProductAttention(
  query: query, key: key, value: value, mask: .causal, returning: .weights)
print("output \(result.output.shape)\n\(result.output)\n")
print("weights \(try result.weights.shape)\n\(try result.weights)")
