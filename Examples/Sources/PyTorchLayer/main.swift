// A layer with PyTorch's weights, which is stored and loaded under the names that `torch.nn.MultiheadAttention` uses.
//
//     python: safetensors.torch.save_file(layer.state_dict(), "layer.safetensors")
//     here:   PyTorchLayer layer.safetensors HEADS
//
// Without arguments, the program makes a new layer, stores it in a temporary file, and loads that file.

import Attention
import AttentionFiles
import Foundation

let arguments = CommandLine.arguments.dropFirst()
var path = NSTemporaryDirectory() + "/attention-example-\(ProcessInfo.processInfo.processIdentifier).safetensors"
var headCount = 8
var isOurs = true

if let first = arguments.first, let last = arguments.last.flatMap({ Int($0) }), arguments.count == 2 {
  (path, headCount, isOurs) = (first, last, false)
} else {
  let layer = try MultiHeadAttention<Float>(embeddingDimension: 64, headCount: headCount, seed: 1)
  var writer = SafeTensorsWriter()
  for (name, tensor) in try layer.stateDictionary(naming: .pyTorch) { try writer.add(name, tensor) }
  try writer.write(to: path)
}
defer { if isOurs { try? FileManager.default.removeItem(atPath: path) } }

let file = try SafeTensorsFile(contentsOf: path)
for entry in file.entries { print(entry.name, entry.shape) }
let layer = try MultiHeadAttention(stateDictionary: file.tensors(convertingTo: Float.self), headCount: headCount)

// A batch of two sentences: the first has five tokens; the second has three, and padding up to five.
let x = try Tensor<Float>(uniform: -1..<1, shape: [2, 5, layer.configuration.embeddingDimension], seed: 2)
let result = try layer.forward(query: x, key: x, value: x, mask: .keyLengths([5, 3]), weights: .averaged)
print("output \(result.output.shape), averaged weights of the second sentence:")
print(try result.weights.select(1, axis: 0))
