public import AttentionTensors

extension AttentionMask {
  /// Which query may attend to which key, as a boolean tensor: true where it may.
  ///
  /// Use this to look at a mask or to hand it to other software. Attention itself never makes an `L × S` matrix of a mask.
  ///
  /// - Parameters:
  ///   - queryCount: L.
  ///   - keyCount: S.
  ///   - batchCount: B, if elements of the batch have lengths or tensors of their own.
  ///   - headCount: H, if heads have tensors of their own.
  /// - Returns: `[B, H, L, S]`. A bias forbids keys where it is −inf. Functions of scores count as if they forbade nothing.
  /// - Throws: `AttentionError` if the mask does not fit the extents.
  public func attendance(
    queryCount: Int, keyCount: Int, batchCount: Int = 1, headCount: Int = 1
  ) throws -> Tensor<Bool> {
    let isDouble = (biases.map(\.dataType) + functions.map(\.dataType)).contains(.float64)
    return try isDouble
      ? attendance(Double.self, [batchCount, headCount, queryCount, keyCount])
      : attendance(Float.self, [batchCount, headCount, queryCount, keyCount])
  }

  private func attendance<Element: AttentionElement>(_: Element.Type, _ extents: [Int]) throws -> Tensor<Bool> {
    _ = try elementCount(of: extents)
    let keys = [extents[0], extents[1], extents[3], 1]
    let shape = try AttentionShape(query: extents.dropLast() + [1], key: keys, value: keys)
    let schedule = try MaskSchedule<Element>(self, shape: shape)
    return try Tensor(shape: extents) { target in
      var position = 0
      for batch in 0..<extents[0] {
        for head in 0..<extents[1] {
          for query in 0..<extents[2] {
            for key in 0..<extents[3] {
              target[position] = schedule.attends(batch: batch, head: head, query: query, key: key)
              position += 1
            }
          }
        }
      }
    }
  }

  /// A drawing of the mask: a line for each query, with ● for each key that the query may attend to, and · for each
  /// other key.
  ///
  ///     print(try AttentionMask.causal.drawing(queryCount: 2, keyCount: 4))
  ///     // ● ● ● ·
  ///     // ● ● ● ●
  ///
  /// - Parameters:
  ///   - queryCount: L.
  ///   - keyCount: S.
  ///   - batchCount: B, if elements of the batch have lengths or tensors of their own. The drawings of the elements follow
  ///     one another, with an empty line between them.
  /// - Returns: The drawing of the first head, without a line break at the end.
  /// - Throws: `AttentionError` if the mask does not fit the extents.
  public func drawing(queryCount: Int, keyCount: Int, batchCount: Int = 1) throws -> String {
    // The number of heads is the largest among the tensors, block masks and slopes. Tensors and block masks of one head
    // broadcast to it.
    let tensorHeads = (booleans.map(\.shape) + biases.map(\.shape)).compactMap { $0.dropLast(2).last }
    let headCount = (tensorHeads + blocks.map(\.headCount) + distances.map(\.slopes.count)).max() ?? 1
    let flags = try attendance(
      queryCount: queryCount, keyCount: keyCount, batchCount: batchCount, headCount: max(headCount, 1))
    let drawings = (0..<batchCount).map { batch in
      (0..<queryCount).map { query in
        (0..<keyCount).map { flags[batch, 0, query, $0] ? "●" : "·" }.joined(separator: " ")
      }.joined(separator: "\n")
    }
    return drawings.joined(separator: "\n\n")
  }
}

extension AttentionMask: CustomStringConvertible {
  /// The drawing that ``drawing(queryCount:keyCount:batchCount:)`` makes.
  ///
  /// The numbers of queries and keys are taken from the mask's tensors, block masks, lengths and documents; they are 8
  /// if none of these gives a number. If an extent exceeds 64, the description gives only the extents.
  public var description: String {
    let tensors = booleans.map(\.shape) + biases.map(\.shape)
    func extent(_ axis: Int, _ others: [Int]) -> Int {
      let own = tensors.compactMap { $0.count >= axis ? $0[$0.count - axis] : nil }.filter { $0 > 1 } + others
      return own.max() ?? 8
    }
    var (queries, keys, batches): ([Int], [Int], [Int]) = ([], [], [])
    for rule in rules {
      switch rule {
      case .documents(let queryOffsets, let keyOffsets, _, _):
        queries += queryOffsets.suffix(1)
        keys += keyOffsets.suffix(1)
      case .prefix(let lengths, _):
        keys += lengths.map { max($0, 8) }
        batches.append(lengths.count)
      default: break
      }
    }
    for case .offsets(let offsets) in alignments { batches.append(offsets.count) }
    let lengths = keyLengths + leftPaddings
    let queryCount = extent(2, queries + blocks.map(\.queryCount) + queryLengths.flatMap { $0 })
    let keyCount = extent(1, keys + blocks.map(\.keyCount) + lengths.flatMap { $0 })
    let batchCount = extent(
      4, batches + blocks.map(\.batchCount) + (lengths + queryLengths).map(\.count) + [1])
    let name = "a mask of \(batchCount) × \(queryCount) queries by \(keyCount) keys"
    if queryCount > 64 || keyCount > 64 || batchCount > 64 { return name }
    return (try? drawing(queryCount: queryCount, keyCount: keyCount, batchCount: batchCount)) ?? name
  }
}
