internal import AttentionTensors

/// Where results go; nil: not wanted.
struct AttentionOutputs<Element> {
  let output: UnsafeMutablePointer<Element>
  let batchStride: Int
  let headStride: Int
  let lengthStride: Int
  let widthStride: Int
  /// `[B, H, L]`.
  let logSumExp: UnsafeMutablePointer<Element>?
  /// `[B, H, L, S]`.
  let weights: UnsafeMutablePointer<Element>?

  func outputRow(batch: Int, head: Int, query: Int) -> UnsafeMutablePointer<Element> {
    output + (batch * batchStride + head * headStride + query * lengthStride)
  }
}

extension AttentionDriver {
  /// Adds what another part of the keys gave: both are brought to the greater maximum.
  func merge(_ part: RowState<Element>, into whole: RowState<Element>, _ tile: Tile) {
    for row in 0..<tile.rowCount where part.maximum[row] != -.infinity {
      let target = whole.result + row * shape.valueWidth
      let source = part.result + row * shape.valueWidth
      // Not max: NaN must win, in either operand.
      let most = whole.maximum[row] > part.maximum[row] ? whole.maximum[row] : part.maximum[row]
      let ours =
        whole.maximum[row] == -.infinity ? 0 : Element(nearest: (whole.maximum[row] - most).asDouble.exponential)
      let theirs = Element(nearest: (part.maximum[row] - most).asDouble.exponential)
      for column in 0..<shape.valueWidth { target[column] = target[column] * ours + source[column] * theirs }
      whole.sum[row] = whole.sum[row] * ours + part.sum[row] * theirs
      whole.maximum[row] = whole.maximum[row].isNaN ? .nan : most
    }
  }

  /// Divides by the sums and writes what was asked for.
  func finish(_ tile: Tile, _ state: RowState<Element>, _ scratch: TileScratch<Element>) {
    for row in 0..<tile.rowCount {
      let head = tile.head(ofRow: row)
      let index = tile.query(ofRow: row)
      // A row that attends to nothing: result 0, sum 0, maximum −inf.
      let factor = state.sum[row] == 0 ? 0 : 1 / state.sum[row]
      let source = state.result + row * shape.valueWidth
      let target = outputs.outputRow(batch: tile.batch, head: head, query: index)
      if outputs.widthStride == 1 {
        kernels.scale(shape.valueWidth, source, factor, target)
      } else {
        for column in 0..<shape.valueWidth { target[column * outputs.widthStride] = source[column] * factor }
      }
      if let logSumExp = outputs.logSumExp {
        let position = (tile.batch * shape.headCount + head) * shape.queryCount + index
        logSumExp[position] =
          state.sum[row] == 0
          ? -.infinity : state.maximum[row] + Element(nearest: state.sum[row].asDouble.naturalLogarithm)
      }
    }
    if let weights = outputs.weights { writeWeights(tile, state, weights, scratch) }
  }

  /// weights = exp(score − maximum) / sum, from scores computed once more.
  private func writeWeights(
    _ tile: Tile, _ state: RowState<Element>, _ weights: UnsafeMutablePointer<Element>, _ scratch: TileScratch<Element>
  ) {
    func target(_ row: Int) -> UnsafeMutablePointer<Element> {
      let head = tile.batch * shape.headCount + tile.head(ofRow: row)
      return weights + (head * shape.queryCount + tile.query(ofRow: row)) * shape.keyCount
    }
    for row in 0..<tile.rowCount { target(row).update(repeating: 0, count: shape.keyCount) }
    let queries = queryMatrix(tile, scratch)
    // In the same blocks as before, so that the scores have the same bits and none exceeds its maximum.
    func forEachBlock(_ body: (Block) -> Void) {
      for split in 0..<plan.splitCount { self.forEachBlock(tile, keys(of: tile, split: split), body) }
    }
    forEachBlock { block in
      computeScores(block, tile, queries, scratch)
      for row in 0..<block.rows.count where state.sum[block.rows.lowerBound + row] != 0 {
        let begin = block.isRagged ? Int(scratch.begin[row]) : 0
        let end = block.isRagged ? Int(scratch.end[row]) : block.keys.count
        let target = target(block.rows.lowerBound + row) + block.keys.lowerBound + begin
        if state.sum[block.rows.lowerBound + row].isNaN {
          // exp(−inf − NaN) would make NaN of what is masked.
          let head = tile.head(ofRow: block.rows.lowerBound + row)
          let query = tile.query(ofRow: block.rows.lowerBound + row)
          for key in 0..<end - begin
          where schedule.attends(
            batch: tile.batch, head: head, query: query, key: block.keys.lowerBound + begin + key)
          { target[key] = .nan }
          continue
        }
        _ = kernels.exponentialSum(
          end - begin, scratch.scores + row * scratch.scoreStride + begin,
          state.maximum[block.rows.lowerBound + row], target)
        kernels.scale(end - begin, target, 1 / state.sum[block.rows.lowerBound + row], target)
      }
    }
  }
}
