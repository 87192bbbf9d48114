internal import AttentionTensors

/// What is done to scores between the product and the softmax, in the one order that there is: softcap, functions, ALiBi,
/// biases, boolean masks, block masks.
struct ScoreModifiers<Layout: ScoreLayout> {
  typealias Element = Layout.Element

  let layout: Layout
  private var call: AttentionCall<Element> { layout.call }

  /// The first bias, if it is what comes first after the product, which then may add it on its way.
  func leadingBias(_ block: Block<Element>) -> Operand? {
    let schedule = call.schedule
    guard hasMask(block), call.scale != 0, call.softcap == nil, schedule.functions.isEmpty, schedule.distances.isEmpty
    else { return nil }
    return schedule.biases.first
  }

  /// True if scores are as they shall be after the product, which has added `leadingBias`.
  func areDone(_ block: Block<Element>, after leadingBias: Operand?) -> Bool {
    if call.softcap != nil { return false }
    if !hasMask(block) { return true }
    let schedule = call.schedule
    return leadingBias != nil && schedule.biases.count == 1 && schedule.booleans.isEmpty && !block.hasBlocks
  }

  /// Changes the scores of a block to which the product has added `leadingBias`.
  /// - Returns: Whether `maximum` was raised to all of them.
  func apply(
    to block: Block<Element>, _ tile: QueryTile, after leadingBias: Operand?, maximum: UnsafeMutablePointer<Element>?
  ) -> ScoreMaximum {
    if let cap = call.softcap { layout.softcap(block, cap) }
    if !hasMask(block) { return .unknown }
    let schedule = call.schedule
    applyFunctions(to: block, tile)
    for distances in schedule.distances {
      tile.forEachRow(block.rows) { row, head, query in
        layout.memory.slope[row - block.rows.lowerBound] = distances.slopes[head]
        layout.memory.position[row - block.rows.lowerBound] = Element(
          distances.key(ofQuery: query, batch: tile.batch) - block.keys.lowerBound)
      }
      layout.subtractDistances(block)
    }
    // Whichever comes last finds the maximum on its way.
    let biases = schedule.biases.dropFirst(leadingBias == nil ? 0 : 1)
    var rest = biases.count + schedule.booleans.count
    let last = block.hasBlocks ? nil : maximum
    let isFound = rest > 0 && last != nil
    for bias in biases {
      rest -= 1
      layout.add(bias, to: block, tile, maximum: rest == 0 ? last : nil)
    }
    for boolean in schedule.booleans {
      rest -= 1
      layout.hide(boolean, in: block, tile, maximum: rest == 0 ? last : nil)
    }
    if block.hasBlocks {
      for mask in schedule.blocks { layout.hide(mask, in: block, tile) }
    }
    return isFound ? .known : .unknown
  }

  /// Keys that every query attends to are not changed by masks either.
  private func hasMask(_ block: Block<Element>) -> Bool { block.set.isMasked && call.schedule.hasTerms }

  private func applyFunctions(to block: Block<Element>, _ tile: QueryTile) {
    let functions = call.schedule.functions
    if functions.isEmpty { return }
    let memory = layout.memory
    tile.forEachRow(block.rows) { row, head, query in
      memory.heads[row - block.rows.lowerBound] = Int32(head)
      memory.queries[row - block.rows.lowerBound] = Int32(query)
    }
    var forbidden: [Int] = []
    for (index, function) in functions.enumerated() {
      var view = AttentionScoreTile(
        batch: tile.batch, keys: block.keys, rowCount: block.rows.count, scores: block.scores,
        rowStride: block.rowStride, keyStride: block.keyStride, heads: memory.heads, queries: memory.queries)
      function.body(&view)
      // What one function forbids, the next does not allow.
      for place in forbidden { block.scores[place] = -.infinity }
      if index + 1 == functions.count { return }
      for row in block.rows {
        for key in block.keys where block.scores[block.place(row: row, key: key)] == -.infinity {
          forbidden.append(block.place(row: row, key: key))
        }
      }
    }
  }
}
