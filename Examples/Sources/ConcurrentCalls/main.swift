// Calls from many tasks at once, as in a server: each gets the bits that it would get alone.

import Attention

// Each call uses one thread, because the concurrent calls together keep all CPUs busy.
let context = AttentionContext(threadCount: 1)

@Sendable func serve(_ request: Int) throws -> Float {
  let x = try Tensor<Float>(uniform: -1..<1, shape: [4, 64, 32], seed: UInt64(request))  // [heads, length, width]
  return try scaledDotProductAttention(query: x, key: x, value: x, mask: .causal, context: context)[3, 63, 31]
}

let alone = try (0..<100).map(serve)
let together = try await withThrowingTaskGroup(of: (Int, Float).self) { group in
  for request in alone.indices { group.addTask { (request, try serve(request)) } }
  var answers = [Float](repeating: .nan, count: alone.count)
  for try await (request, answer) in group { answers[request] = answer }
  return answers
}
print(alone == together ? "100 concurrent calls gave the bits of 100 lone ones" : "the answers differ")
if alone != together { fatalError("concurrent calls must not disturb each other") }
