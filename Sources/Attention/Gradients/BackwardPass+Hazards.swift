internal import AttentionTensors

extension BackwardPass {
  /// Computes the gradients of a block one score after another. This is needed if the mask hides keys from some
  /// queries, and a query, a key or a gradient of the output is not finite, or a log-sum-exp or Δ is NaN.
  ///
  /// Hazard: the weight of a masked key is 0, but 0·NaN is NaN. So nothing is computed for a key to which a row does
  /// not attend.
  @inline(never)
  func differentiateWithHazards(
    _ block: Block<Element>, _ cut: BlockCut?, _ tile: QueryTile, _ key: StridedMatrix<Element>,
    _ value: StridedMatrix<Element>, _ shared: SharedSums<Element>
  ) {
    let (shape, gradient) = (call.shape, tiles.scoreGradients(block))
    let forbidden = placesForbiddenByFunctions(block)
    var attended: [(row: Int, key: Int)] = []
    // Until dS is computed, `gradient` holds the factors of dropout, and 0 for keys to which a row does not attend.
    for row in block.rows {
      for key in block.keys { gradient[block.place(row: row, key: key)] = 1 }
    }
    modifiers.dropOut(gradient, of: block, tile)
    tile.forEachRow(block.rows) { row, head, query in
      for key in block.keys {
        let place = block.place(row: row, key: key)
        if !forbidden.contains(place) && attends(block.set, tile, head: head, query: query, key: key) {
          attended.append((row, key))
        } else {
          gradient[place] = 0
        }
      }
    }
    tiles.computeWeights(block, tile, cut)
    for (row, index) in attended {
      let (place, delta) = (block.place(row: row, key: index), tiles.delta[row])
      let source = value.rows(index - block.keys.lowerBound..<index - block.keys.lowerBound + 1)
      let outputGradient = tiles.outputGradient(ofRow: row)
      let target = tiles.valueGradient(index)
      let factor = gradient[place]
      var sum: Element = 0
      for column in 0..<shape.valueDimension {
        sum += outputGradient[column] * source.base[column * source.columnStride]
        target[column] += block.scores[place] * factor * outputGradient[column]
      }
      gradient[place] = block.scores[place] * (factor * sum - delta)
    }
    differentiateModifiers(block, tile, cut, shared)
    if call.scale == 0 { return }
    for (row, index) in attended {
      let dS = gradient[block.place(row: row, key: index)]
      let source = key.rows(index - block.keys.lowerBound..<index - block.keys.lowerBound + 1)
      let query = tiles.query(ofRow: row)
      let (dQ, stride) = tiles.queryGradient(ofRow: row, group: block.group)
      let dK = tiles.keyGradient(index)
      for column in 0..<shape.headDimension {
        dQ[column * stride] += dS * source.base[column * source.columnStride]
        dK[column] += dS * query[column]
      }
    }
  }
}
