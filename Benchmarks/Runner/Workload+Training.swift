import Attention
import AttentionFiles
import AttentionTensors

extension Workload {
  /// A step of training: the forward pass and the gradients of query, key, value and, if the mask has one, of the bias.
  ///
  /// The result is all gradients one after another. The operations count as 3.5 times those of the forward pass,
  /// because the forward pass has two products and the backward pass has five.
  static func training<Stored: AttentionStorage>(_ request: Request, _: Stored.Type) throws -> Workload {
    typealias Element = Stored.Arithmetic
    let (batch, heads, keyValueHeads) = (request.batch, request.heads, request.keyValueHeads)
    let query: Tensor<Stored> = try random([batch, heads, request.queries, request.width], request, 1)
    let key: Tensor<Stored> = try random([batch, keyValueHeads, request.keys, request.width], request, 2)
    let value: Tensor<Stored> = try random([batch, keyValueHeads, request.keys, request.valueWidth], request, 3)
    let outputGradient: Tensor<Stored> = try random([batch, heads, request.queries, request.valueWidth], request, 4)
    let mask = try RequestedMask(request, Element.self)
    let extras: AttentionGradientExtras = mask.bias == nil ? [] : .biases
    var gradients: AttentionGradients<Stored, Stored>?
    func joined() throws -> Tensor<Element> {
      let gradients = gradients!
      var numbers: [Element] = []
      for tensor in [gradients.query, gradients.key, gradients.value] {
        numbers += tensor.array.map { Element(_nearest: $0._double) }
      }
      if mask.bias != nil { numbers += try gradients.biases[0].array }
      return try Tensor(numbers, shape: [numbers.count])
    }
    return Workload(
      operationCount: 3.5 * 2 * Double(batch * heads) * Double(request.queries) * Double(request.keys)
        * Double(request.width + request.valueWidth) * mask.share,
      checksum: { try joined().array.reduce(0) { $0 + $1._double } }, maxError: nil,
      tensors: {
        var writer = SafeTensorsWriter()
        for (name, tensor) in [
          ("query", query), ("key", key), ("value", value), ("grad_output", outputGradient),
        ] { try writer.add(name, tensor) }
        try writer.add("output", joined())
        try mask.add(to: &writer)
        return writer
      }
    ) { algorithm, context in
      guard case .library = algorithm else {
        throw AttentionError(.unsupported, "field \"algorithm\"", "an algorithm of the library expected")
      }
      let result = try scaledDotProductAttention(
        query: query, key: key, value: value, mask: mask.mask, returning: .logSumExp, context: context)
      gradients = try scaledDotProductAttentionGradients(
        query: query, key: key, value: value, mask: mask.mask, result: result, outputGradient: outputGradient,
        returning: extras, context: context)
    }
  }
}
