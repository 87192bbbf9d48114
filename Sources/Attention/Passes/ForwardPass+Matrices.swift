internal import AttentionTensors

// Writes weights and scores as matrices `[B, H, L, S]`, which have one number for each element of the batch, head,
// query and key. The scores are computed a second time, in the same blocks as in the pass over the keys. So they have
// the same bits as in that pass, and no score exceeds its row's maximum.

extension ForwardPass {
  /// Writes the scores as they go into the softmax, −inf where they are masked.
  func writeScores(_ scores: UnsafeMutablePointer<Element>, _ tile: QueryTile) {
    for head in tile.heads {
      for queries in [tile.queries, tile.emptyQueries] where !queries.isEmpty {
        row(of: scores, tile, head: head, query: queries.lowerBound).update(
          repeating: -.infinity, count: queries.count * call.shape.keyCount)
      }
    }
    if tile.rowCount == 0 { return }
    tiles.begin(tile)
    call.forEachKeyTile(tile, in: 0..<call.shape.keyCount) { keyTile in
      let key = tiles.keys(tile, keyTile.keys, keyTile.set)
      forEachBlock(tile, keyTile) { block, cut in
        _ = computeScores(block, cut, tile, key.rows(block.keys.counted(from: keyTile.keys)), next: nil)
        if let cut {
          cut.forEachSlice(of: block) { writeScores(of: $0, tile, to: scores) }
        } else {
          writeScores(of: block, tile, to: scores)
        }
      }
    }
  }

  private func writeScores(of block: Block<Element>, _ tile: QueryTile, to matrix: UnsafeMutablePointer<Element>) {
    tile.forEachRow(block.rows) { row, head, query in
      let keys = block.keys(ofQuery: query, batch: tile.batch)
      tiles.memory.targets[row] = UnsafeMutableRawPointer(
        self.row(of: matrix, tile, head: head, query: query) + keys.lowerBound)
    }
    tiles.writeScores(block, tile)
  }

  /// Writes the weights, if they are wanted: exp(score − maximum) / sum, after dropout.
  func writeWeights(_ tile: QueryTile, maximum: UnsafePointer<Element>, sum: UnsafePointer<Element>) {
    guard let weights = call.outputs?.weights else { return }
    writeScores(weights, tile)
    let keyCount = call.shape.keyCount
    tile.forEachRow(0..<tile.rowCount) { row, head, query in
      let target = self.row(of: weights, tile, head: head, query: query)
      if sum[row].isNaN {
        // NaN for every key that is attended to, 0 for the others. Only the scores tell which keys a function forbids.
        for key in 0..<keyCount {
          let isAttended =
            (call.schedule.terms?.functions.isEmpty != false || target[key] != -.infinity)
            && call.schedule.attends(batch: tile.batch, head: head, query: query, key: key)
          target[key] = isAttended ? .nan : 0
        }
      } else if sum[row] == 0 {
        target.update(repeating: 0, count: keyCount)
      } else {
        _ = call.kernels.exponentialSum(keyCount, target, maximum[row], target)
        call.kernels.scale(keyCount, target, 1 / sum[row], target)
      }
      if let rule = call.dropout { dropOut(rule, target, batch: tile.batch, head: head, query: query) }
    }
  }

  /// Dropout of the weights of one query.
  private func dropOut(
    _ rule: DropoutRule, _ weights: UnsafeMutablePointer<Element>, batch: Int, head: Int, query: Int
  ) {
    withUnsafePointer(to: Int32(head)) { head in
      withUnsafePointer(to: Int32(query)) { query in
        call.kernels.dropOut(
          rule, batch: batch, rowCount: 1, heads: head, queries: query, keys: 0..<call.shape.keyCount, rows: weights,
          stride: 0)
      }
    }
  }

  /// The weights, or the scores, of one query: `[S]`.
  private func row(
    of matrix: UnsafeMutablePointer<Element>, _ tile: QueryTile, head: Int, query: Int
  ) -> UnsafeMutablePointer<Element> {
    matrix + call.shape.row(batch: tile.batch, head: head, query: query) * call.shape.keyCount
  }
}
