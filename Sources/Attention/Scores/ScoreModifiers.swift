internal import AttentionTensors

/// What is done to scores between the product and the softmax, always in this order: softcap, functions, ALiBi, biases,
/// boolean masks, block masks.
struct ScoreModifiers<Layout: ScoreLayout> {
  typealias Element = Layout.Element

  let layout: Layout
  private var call: AttentionCall<Element> { layout.call }

  /// True if nothing is done to the scores of a block.
  func areNone(_ block: Block<Element>) -> Bool { call.softcap == nil && terms(block) == nil }

  /// The first bias, if nothing is done to the scores before it is added. Then the product itself may add the bias.
  func leadingBias(_ block: Block<Element>) -> Operand? {
    guard let terms = terms(block), call.scale != 0, call.softcap == nil, terms.functions.isEmpty,
      terms.distances.isEmpty
    else { return nil }
    return terms.biases.first
  }

  /// True if nothing is left to be done to the scores after a product that has added `leadingBias`.
  func areDone(_ block: Block<Element>, after leadingBias: Operand?) -> Bool {
    if call.softcap != nil { return false }
    guard let terms = terms(block) else { return true }
    return leadingBias != nil && terms.biases.count == 1 && terms.booleans.isEmpty && !block.hasBlocks
  }

  /// Changes the scores of a block to which the product has added `leadingBias`.
  /// - Returns: `known` if `maximum` was raised to all scores of the block.
  func apply(
    to block: Block<Element>, _ tile: QueryTile, after leadingBias: Operand?, maximum: UnsafeMutablePointer<Element>?
  ) -> ScoreMaximum {
    if let cap = call.softcap { layout.softcap(block, cap) }
    if let saved = block.cappedScores {
      layout.forEachLine(of: block) { (saved + $0).update(from: block.scores + $0, count: $1) }
    }
    guard let terms = terms(block) else { return .unknown }
    apply(terms.functions, to: block, tile)
    for distances in terms.distances {
      tile.forEachRow(block.rows) { row, head, query in
        layout.memory.slope[row - block.rows.lowerBound] = distances.slopes[head]
        layout.memory.position[row - block.rows.lowerBound] = Element(
          distances.key(ofQuery: query, batch: tile.batch) - block.keys.lowerBound)
      }
      layout.subtractDistances(block)
    }
    // The last bias or boolean mask also raises the maximum, which saves a pass over the scores.
    let biases = terms.biases.dropFirst(leadingBias == nil ? 0 : 1)
    var rest = biases.count + terms.booleans.count
    let last = block.hasBlocks ? nil : maximum
    let isFound = rest > 0 && last != nil
    for bias in biases {
      rest -= 1
      layout.add(bias, to: block, tile, maximum: rest == 0 ? last : nil)
    }
    for boolean in terms.booleans {
      rest -= 1
      layout.hide(boolean, in: block, tile, maximum: rest == 0 ? last : nil)
    }
    if block.hasBlocks {
      for mask in terms.blocks { layout.hide(mask, in: block, tile) }
    }
    return isFound ? .known : .unknown
  }

  /// The terms that apply to a block. Nil if the mask has no terms, or if every query attends to the block's keys,
  /// whatever the mask says.
  func terms(_ block: Block<Element>) -> MaskTerms<Element>? {
    block.set.isMasked ? call.schedule.terms : nil
  }

  private func apply(_ functions: [AttentionScoreFunction<Element>], to block: Block<Element>, _ tile: QueryTile) {
    if functions.isEmpty { return }
    var forbidden: [Int] = []
    for (index, function) in functions.enumerated() {
      var view = view(block.scores, of: block, tile)
      function.body(&view)
      // A function cannot allow a key that an earlier function has forbidden.
      for place in forbidden { block.scores[place] = -.infinity }
      if index + 1 == functions.count { return }
      for row in block.rows {
        for key in block.keys where block.scores[block.place(row: row, key: key)] == -.infinity {
          forbidden.append(block.place(row: row, key: key))
        }
      }
    }
  }

  /// Stores the head and the query of each row of a block in ``ModifierMemory/heads`` and `queries`.
  private func findPlaces(of block: Block<Element>, _ tile: QueryTile) {
    let memory = layout.memory
    tile.forEachRow(block.rows) { row, head, query in
      memory.heads[row - block.rows.lowerBound] = Int32(head)
      memory.queries[row - block.rows.lowerBound] = Int32(query)
    }
  }

  /// Applies dropout to numbers that have the same layout as the scores of a block: weights, or the gradients of the
  /// weights after dropout. Nothing happens if the call has no dropout.
  func dropOut(_ numbers: UnsafeMutablePointer<Element>, of block: Block<Element>, _ tile: QueryTile) {
    guard let rule = call.dropout else { return }
    findPlaces(of: block, tile)
    layout.dropOut(rule, numbers, of: block, batch: tile.batch)
  }

  /// A view of some numbers of a block, in the form that functions of scores take. The numbers have the same layout as
  /// the block's scores.
  func view(
    _ numbers: UnsafeMutablePointer<Element>, of block: Block<Element>, _ tile: QueryTile
  ) -> AttentionScoreTile<Element> {
    findPlaces(of: block, tile)
    let memory = layout.memory
    return AttentionScoreTile(
      batch: tile.batch, keys: block.keys, rowCount: block.rows.count, scores: numbers, rowStride: block.rowStride,
      keyStride: block.keyStride, heads: memory.heads, queries: memory.queries)
  }
}
