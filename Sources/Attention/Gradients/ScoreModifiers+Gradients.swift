internal import AttentionTensors

extension ScoreModifiers {
  /// Applies the derivatives of the changes to scores, in reverse order.
  ///
  /// `gradients` holds dS, the gradients of the scores that the softmax took. They become the gradients of the scaled
  /// products. On the way, the gradients of biases (in the copy that `shared` names), those of parameters (in `shared`)
  /// and the ``RowSums`` are added up.
  func differentiate(
    _ block: Block<Element>, _ tile: QueryTile, _ cut: BlockCut?, _ gradients: UnsafeMutablePointer<Element>,
    _ wanted: GradientCall<Element>, _ shared: SharedSums<Element>, _ memory: GradientMemory<Element>,
    rowSum: (_ index: Int) -> UnsafeMutablePointer<Element>
  ) {
    if let terms = terms(block) {
      if wanted.rowSums.count > 0 || wanted.biases.contains(where: { !$0.isBroadcastOverKeys }) {
        addRows(block, tile, gradients, wanted, terms, copy: shared.copy, memory, rowSum: rowSum)
      }
      if let derivative = terms.functions.first?.derivative {
        forEachSlice(of: block, cut) { slice in
          guard let scores = slice.cappedScores else { return }
          let place = block.place(row: slice.rows.lowerBound, key: slice.keys.lowerBound)
          let inputs = view(scores, of: slice, tile)
          var results = view(gradients + place, of: slice, tile)
          var parameters = shared.parameters.mutableSpan
          derivative(inputs, &results, &parameters)
        }
      }
    }
    // forward: S = cap·tanh(x / cap)  ⇒  dx = dS·(1 − (S / cap)²)
    guard let cap = layout.call.softcap, let capped = block.cappedScores else { return }
    forEachSlice(of: block, cut) { slice in
      let first = block.place(row: slice.rows.lowerBound, key: slice.keys.lowerBound)
      layout.forEachLine(of: slice) {
        layout.call.kernels.softcapGradient($1, capped + first + $0, cap, gradients + first + $0)
      }
    }
  }

  /// Calls `body` for each slice of a block that was computed at once. Outside these slices, the block's memory may
  /// hold anything.
  private func forEachSlice(of block: Block<Element>, _ cut: BlockCut?, _ body: (Block<Element>) -> Void) {
    if let cut { cut.forEachSlice(of: block, body) } else { body(block) }
  }

  private func addRows(
    _ block: Block<Element>, _ tile: QueryTile, _ gradients: UnsafeMutablePointer<Element>,
    _ wanted: GradientCall<Element>, _ terms: MaskTerms<Element>, copy: Int, _ memory: GradientMemory<Element>,
    rowSum: (_ index: Int) -> UnsafeMutablePointer<Element>
  ) {
    let kernels = layout.call.kernels
    layout.forEachRow(of: block, tile, gradients, memory) { row, head, query, keys, numbers in
      // forward: S = x + bias  ⇒  dbias += dS
      for bias in wanted.biases where !bias.isBroadcastOverKeys {
        let target = bias.row(batch: tile.batch, head: head, query: query, copy: copy)
        kernels.add(keys.count, numbers, to: target + keys.lowerBound)
      }
      for index in wanted.rowSums.biases.indices { rowSum(index)[row] += kernels.sum(keys.count, numbers) }
      // forward: S = x − slope·|position − key|  ⇒  dslope = −Σ dS·|position − key|. The sum is negated after the pass.
      for index in 0..<wanted.rowSums.distanceCount {
        let position = terms.distances[index].key(ofQuery: query, batch: tile.batch) - keys.lowerBound
        rowSum(wanted.rowSums.biases.count + index)[row] += kernels.distanceSum(
          keys.count, numbers, position: Element(position))
      }
    }
  }
}
