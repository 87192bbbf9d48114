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

  /// A step of training of one layer of BERT: a block with norms after its sublayers, an inner dimension of 4·d and GELU.
  ///
  /// The result is the gradient of the input, then those of the parameters in alphabetical order of their names, one after
  /// another. The backward pass of a product is two products of its size.
  static func block<Element: AttentionElement>(_ request: Request, _: Element.Type) throws -> Workload {
    let dimension = request.heads * request.width
    func random(_ shape: [Int], _ seed: UInt64, _ bound: Double) throws -> Tensor<Element> {
      try Tensor(uniform: -bound..<bound, shape: shape, seed: request.seed &* 31 &+ seed)
    }
    func norm(_ seed: UInt64) throws -> TransformerBlock<Element>.Norm {
      .layer(
        try LayerNorm(
          weight: Tensor(repeating: 1, shape: [dimension]), bias: random([dimension], seed, 0.1), epsilon: 1e-12))
    }
    let bound = 1 / Double(dimension).squareRoot()
    let layer = try TransformerBlock<Element>(
      selfAttention: MultiHeadAttention(
        embeddingDimension: dimension, headCount: request.heads, seed: request.seed),
      feedForward: FeedForward(
        up: Linear(
          weight: random([4 * dimension, dimension], 1, bound), bias: random([4 * dimension], 2, bound),
          activation: .gelu),
        down: Linear(weight: random([dimension, 4 * dimension], 3, bound / 2), bias: random([dimension], 4, bound))),
      norms: [norm(5), norm(6)], normPlacement: .after)
    let shape = [request.batch, request.queries, dimension]
    let (x, outputGradient) = (try random(shape, 7, 1), try random(shape, 8, 1))
    var gradients = ParameterGradients<Element>()
    var inputGradient = x
    func joined() throws -> Tensor<Element> {
      let numbers = inputGradient.array + gradients.names.flatMap { gradients[$0]!.array }
      return try Tensor(numbers, shape: [numbers.count])
    }
    let (tokens, d) = (Double(request.batch * request.queries), Double(dimension))
    var workload = Workload(
      operationCount: 3 * 24 * tokens * d * d + 3.5 * 4 * tokens * Double(request.queries) * d,
      checksum: { try joined().array.reduce(0) { $0 + $1._double } }, maxError: nil,
      tensors: {
        var writer = SafeTensorsWriter()
        for (name, tensor) in try layer.parameters() { try writer.add(name, tensor) }
        try writer.add("input", x)
        try writer.add("grad_output", outputGradient)
        try writer.add("output", joined())
        return writer
      }
    ) { algorithm, context in
      guard case .library = algorithm else {
        throw AttentionError(.unsupported, "field \"algorithm\"", "an algorithm of the library expected")
      }
      // Weights change in each step of training, so their packed copies are made anew. `forEachParameter` discards the
      // packed copies, as a step of an optimizer does.
      var changed = layer
      try changed.forEachParameter(prefix: "") { _, _ in }
      gradients.reset()
      let (_, pullback) = try changed.valueWithPullback(x, context: context)
      inputGradient = try pullback(outputGradient, adding: &gradients)
    }
    workload.keptByteCount = 1 << 30
    return workload
  }
}
