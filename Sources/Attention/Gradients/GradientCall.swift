internal import AttentionTensors

/// Everything that defines one backward pass: the forward call whose gradients are wanted, its output and the gradient
/// of that output, and the memory to which the gradients are written.
final class GradientCall<Element: AttentionElement>: @unchecked Sendable {
  // Sendable: during the pass, tasks only read the inputs, and write disjoint parts of the results.
  let call: AttentionCall<Element>
  /// dO: the gradient of the output.
  let outputGradient: Operand
  /// O: the output.
  let output: Operand
  /// `[B, H, L]`: the log-sum-exp of every query.
  let logSumExp: UnsafePointer<Element>
  /// `[B, H, L]`: Δ = rowsum(dO ∘ O), written by the pass before anything else.
  let delta: UnsafeMutablePointer<Element>
  let query: MutableOperand
  let key: MutableOperand
  let value: MutableOperand
  /// The gradients of the mask's biases, in the order of the biases; empty if they are not wanted.
  let biases: [BiasGradient<Element>]
  /// The number of copies of the gradients of biases. Each unit (see ``unitCount``) adds to one copy.
  let copyCount: Int
  /// For each element of the batch, the ranges of queries that the tiles of one head hold.
  private let queryRanges: [[Range<Int>]]
  /// For each of these ranges of queries, a range that holds all keys to which its queries may attend.
  private let keyReaches: [[Range<Int>]]
  /// The sums over the keys of each row, from which some gradients are made: ``RowSums``.
  let rowSums: RowSums<Element>
  /// For each element of the batch, the ranges into which its keys are cut.
  let keyRegions: [[Range<Int>]]
  /// The gradients of the parameters of a function of scores.
  let parameterSums: ScoreParameterSums<Element>

  init(
    call: AttentionCall<Element>, outputGradient: Operand, output: Operand, logSumExp: UnsafePointer<Element>,
    delta: UnsafeMutablePointer<Element>, query: MutableOperand, key: MutableOperand, value: MutableOperand,
    biases: [BiasGradient<Element>], copyCount: Int, rowSums: RowSums<Element>, keyRegions: [[Range<Int>]],
    parameterSums: ScoreParameterSums<Element>
  ) {
    self.call = call
    self.outputGradient = outputGradient
    self.output = output
    self.logSumExp = logSumExp
    self.delta = delta
    self.query = query
    self.key = key
    self.value = value
    self.biases = biases
    self.copyCount = copyCount
    self.rowSums = rowSums
    self.keyRegions = keyRegions
    self.parameterSums = parameterSums
    let ranges = (0..<call.shape.batchCount).map { Self.queryRanges(call, batch: $0) }
    queryRanges = ranges
    keyReaches = ranges.indices.map { batch in
      ranges[batch].map { call.schedule.reach(batch: batch, queries: $0) }
    }
  }

  // MARK: Units

  /// The number of units. A unit is a key/value head of an element of the batch, with all queries of its group.
  var unitCount: Int { call.shape.batchCount * call.shape.keyValueHeadCount }
  func batch(ofUnit unit: Int) -> Int { unit / call.shape.keyValueHeadCount }

  /// How many tiles of queries a unit has.
  func tileCount(ofUnit unit: Int) -> Int { call.shape.groupSize * queryRanges[batch(ofUnit: unit)].count }
  /// The most tiles of queries that a unit has.
  var mostTiles: Int { call.shape.groupSize * (queryRanges.map(\.count).max() ?? 0) }

  /// False if it is known that no query of a tile of a unit attends to a key of a region. With packed documents the
  /// result is false for nearly all pairs of a tile and a region, so the pass asks for it before it computes anything.
  func mayAttend(unit: Int, index: Int, to region: Range<Int>) -> Bool {
    let reaches = keyReaches[batch(ofUnit: unit)]
    return reaches[index % reaches.count].overlaps(region)
  }

  /// A tile of queries of a unit: some queries of one head. The tiles are numbered head by head.
  func tile(unit: Int, index: Int) -> QueryTile {
    let batch = batch(ofUnit: unit)
    let (head, range) = index.quotientAndRemainder(dividingBy: queryRanges[batch].count)
    let queries = queryRanges[batch][range]
    let keyValueHead = unit % call.shape.keyValueHeadCount
    let first = keyValueHead * call.shape.groupSize + head
    let end = min(max(call.schedule.queryCount(batch: batch, of: call.shape), queries.lowerBound), queries.upperBound)
    return QueryTile(
      batch: batch, keyValueHead: keyValueHead, heads: first..<first + 1, queries: queries.lowerBound..<end,
      emptyQueries: end..<queries.upperBound)
  }

  /// The ranges into which the queries of an element of the batch are cut: at multiples of a tile's length, counted
  /// from the first query of their sequence.
  private static func queryRanges(_ call: AttentionCall<Element>, batch: Int) -> [Range<Int>] {
    call.schedule.sequences.sequencesOfQueries(batch: batch, shape: call.shape).flatMap { sequence in
      stride(from: sequence.lowerBound, to: sequence.upperBound, by: call.plan.queryTileLength).map {
        $0..<min($0 + call.plan.queryTileLength, sequence.upperBound)
      }
    }
  }
}

extension AttentionCall {
  /// The ranges into which the keys of an element of the batch are cut in the backward pass: at multiples of a tile's
  /// length, counted from the first key of their sequence.
  func keyRegions(batch: Int) -> [Range<Int>] {
    var regions: [Range<Int>] = []
    var low = 0
    while low < shape.keyCount {
      let sequence = schedule.sequences.sequence(ofKey: low, batch: batch)
      let next = ((low - sequence.lowerBound) / plan.keyTileLength + 1) * plan.keyTileLength
      let end = min(sequence.upperBound, sequence.lowerBound + next)
      regions.append(low..<end)
      low = end
    }
    return regions
  }
}

/// The gradients of the parameters of a function of scores, `[units, regions, parameters]`: one sum for each region of
/// keys of each unit, so that regions can be computed in any order. They are 0 before the pass.
struct ScoreParameterSums<Element: AttentionElement> {
  let base: UnsafeMutablePointer<Element>
  let regionCount: Int
  let parameterCount: Int

  func sums(unit: Int, region: Int) -> UnsafeMutableBufferPointer<Element> {
    let first = (unit * regionCount + region) * parameterCount
    return UnsafeMutableBufferPointer(start: base + first, count: parameterCount)
  }
}

/// Where the blocks of one region add the gradients that many queries share: those of biases, and those of the
/// parameters of a function of scores.
struct SharedSums<Element: AttentionElement> {
  /// The index of the copy of the gradients of biases to which the region adds.
  let copy: Int
  /// The gradients of the parameters of a function of scores.
  let parameters: UnsafeMutableBufferPointer<Element>
}

/// The gradient of a bias, whose shape broadcasts to `[B, H, L, S]`.
struct BiasGradient<Element: AttentionElement> {
  private let base: UnsafeMutablePointer<Element>
  private let batchStride: Int
  private let headStride: Int
  private let queryStride: Int
  /// True if the bias has one element for all keys. Then its gradient is made of row sums.
  let isBroadcastOverKeys: Bool
  /// The number of elements of one copy of the gradient. Units that share elements of a bias add to several copies,
  /// which are merged at the end of the pass.
  let count: Int

  /// `shape`: the shape of the bias, with an axis for each of `[B, H, L, S]`.
  init(_ base: UnsafeMutablePointer<Element>, shape: [Int]) {
    self.base = base
    let strides = zip(shape, rowMajorStrides(of: shape)).map { $0 == 1 ? 0 : $1 }
    (batchStride, headStride, queryStride) = (strides[0], strides[1], strides[2])
    isBroadcastOverKeys = strides[3] == 0
    count = shape.reduce(1, *)
  }

  /// True if two units may add to the same element.
  func isShared(by shape: AttentionShape) -> Bool {
    !isBroadcastOverKeys
      && ((batchStride == 0 && shape.batchCount > 1) || (headStride == 0 && shape.keyValueHeadCount > 1))
  }

  func row(batch: Int, head: Int, query: Int, copy: Int = 0) -> UnsafeMutablePointer<Element> {
    base + copy * count + batch * batchStride + head * headStride + query * queryStride
  }

  /// Adds all other copies to the first copy. A gradient that is made of row sums has only one copy.
  func merge(copyCount: Int, _ kernels: Kernels<Element>, _ context: AttentionContext) {
    if isBroadcastOverKeys || copyCount == 1 { return }
    let base = UncheckedSendable(base)
    context.parallelFor(count: count, nanosecondsPerItem: 0.3 * Double(copyCount)) { elements, _ in
      for copy in 1..<copyCount {
        kernels.add(
          elements.count, base.value + copy * count + elements.lowerBound, to: base.value + elements.lowerBound)
      }
    }
  }
}

/// Sums over the keys of each query, `[sums, B, H, L]`: Σ dS for each bias that is broadcast over keys, and
/// Σ dS·|position − key| for each linear bias. The gradients of these biases and slopes are computed from the sums
/// after the pass. The sums are 0 before the pass.
struct RowSums<Element: AttentionElement> {
  /// For each bias that is broadcast over keys, its index among the biases of the mask.
  let biases: [Int]
  /// The number of linear biases (ALiBi), whose sums come after those of the biases; 0 if their gradients are not
  /// wanted.
  let distanceCount: Int
  let sums: UnsafeMutablePointer<Element>

  var count: Int { biases.count + distanceCount }
}
