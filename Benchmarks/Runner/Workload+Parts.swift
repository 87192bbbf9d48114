import Attention
import AttentionBLAS
import AttentionFiles
import AttentionTensors

extension Workload {
  /// A multi-head attention layer; the model has the width `width` × `heads`.
  static func layer<Element: AttentionElement>(_ request: Request, _: Element.Type) throws -> Workload {
    let width = request.width * request.heads
    let layer = try MultiHeadAttention<Element>(embeddingDimension: width, headCount: request.heads, seed: request.seed)
    let x: Tensor<Element> = try random([request.batch, request.queries, width], request, 1)
    let mask = try RequestedMask(request, Element.self)
    let slot = Slot(x)
    let rows = Double(request.batch * request.queries)
    return Workload(
      operationCount: 8 * rows * Double(width) * Double(width) + 4 * rows * Double(request.queries) * Double(width)
        * mask.share,
      checksum: slot.checksum,
      maxError: slot.comparison {
        let exact = try MultiHeadAttention(
          stateDictionary: layer.stateDictionary().mapValues(wide), headCount: request.heads)
        return try exact(wide(x), mask: RequestedMask(request, Double.self).mask)
      },
      tensors: {
        var writer = try layer.stateDictionary().sorted { $0.key < $1.key }.reduce(into: SafeTensorsWriter()) {
          try $0.add($1.key, $1.value)
        }
        try writer.add("input", x)
        try writer.add("output", slot.tensor)
        return writer
      }
    ) { _, context in slot.tensor = try layer(x, mask: mask.mask, context: context) }
  }

  /// `batch × heads` products [queries, width] · [keys, width]ᵀ or [queries, keys] · [keys, width].
  static func product<Element: AttentionElement>(_ request: Request, _: Element.Type) throws -> Workload {
    let batch = request.op == .gemm ? [] : [request.batch * request.heads]
    let depth = request.transposed ? request.width : request.keys
    let columns = request.transposed ? request.keys : request.width
    let a: Tensor<Element> = try random(batch + [request.queries, depth], request, 1)
    let stored: Tensor<Element> = try random(batch + [request.keys, request.width], request, 2)
    let b = request.transposed ? try stored.transposed() : stored
    let slot = Slot(try Tensor<Element>(repeating: .nan, shape: batch + [request.queries, columns]))
    return Workload(
      operationCount: 2 * Double(batch.first ?? 1) * Double(request.queries) * Double(columns) * Double(depth),
      checksum: slot.checksum, maxError: slot.comparison { try matmul(wide(a), wide(b)) },
      tensors: {
        var writer = SafeTensorsWriter()
        for (name, tensor) in [("first", a), ("second", stored), ("output", slot.tensor)] {
          try writer.add(name, tensor)
        }
        return writer
      }
    ) { _, context in
      try slot.tensor.withMutableView { try matmul(a, b, .replacing, into: &$0, context: context) }
    }
  }

  /// Softmax of `batch × heads × queries` rows of `keys` elements.
  static func softmax<Element: AttentionElement>(_ request: Request, _: Element.Type) throws -> Workload {
    let x: Tensor<Element> = try random([request.batch * request.heads * request.queries, request.keys], request, 1)
    let slot = Slot(x)
    return Workload(
      // Counted as usual: a maximum, a subtraction, an exponential, a sum and a division for each element.
      operationCount: 5 * Double(x.count),
      checksum: slot.checksum, maxError: slot.comparison { try Attention.softmax(wide(x)) },
      tensors: {
        var writer = SafeTensorsWriter()
        try writer.add("input", x)
        try writer.add("output", slot.tensor)
        return writer
      }
    ) { _, context in slot.tensor = try Attention.softmax(x, context: context) }
  }
}
