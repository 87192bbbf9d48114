internal import AttentionTensors

/// Where results go; nil: not wanted.
struct AttentionOutputs<Element> {
  /// Of the query's type.
  let output: UnsafeMutableRawPointer
  let elementByteCount: Int
  /// Nil: the type that is computed with.
  let half: HalfFormat?
  let batchStride: Int
  let headStride: Int
  let lengthStride: Int
  let widthStride: Int
  /// `[B, H, L]`.
  let logSumExp: UnsafeMutablePointer<Element>?
  /// `[B, H, L, S]`.
  let weights: UnsafeMutablePointer<Element>?

  func outputRow(batch: Int, head: Int, query: Int) -> UnsafeMutableRawPointer {
    output + (batch * batchStride + head * headStride + query * lengthStride) * elementByteCount
  }
}

extension AttentionCall {
  /// Adds what another part of the keys gave: means are averaged by their sums, brought to the greater maximum.
  func merge(_ part: RowState<Element>, into whole: RowState<Element>, _ tile: Tile) {
    // A row that has attended to nothing has sum 0; to nothing but NaN, sum NaN and maximum −inf.
    for row in 0..<tile.rowCount where part.sum[row] != 0 {
      let target = whole.result + row * shape.valueWidth
      let source = part.result + row * shape.valueWidth
      // Not max: NaN must win, in either operand.
      let most = whole.maximum[row] > part.maximum[row] ? whole.maximum[row] : part.maximum[row]
      // Equal ones first: ∞ − ∞ is NaN.
      func factor(_ maximum: Element) -> Element {
        maximum == most ? 1 : Element(nearest: (maximum - most).asDouble.exponential)
      }
      let ours = whole.sum[row] == 0 ? 0 : whole.sum[row] * factor(whole.maximum[row])
      let theirs = part.sum[row] * factor(part.maximum[row])
      let sum = ours + theirs
      let (ourShare, theirShare) = (ours / sum, theirs / sum)
      for column in 0..<shape.valueWidth {
        let mean = target[column] * ourShare + source[column] * theirShare
        // Rounded shares may sum to a little more than 1.
        let isRounding = mean.isInfinite && target[column].isFinite && source[column].isFinite
        target[column] = isRounding ? (mean < 0 ? -1 : 1) * Element.greatestFiniteMagnitude : mean
      }
      whole.sum[row] = sum
      whole.maximum[row] = whole.maximum[row].isNaN ? .nan : most
    }
  }

  /// result ← result / sum: the mean of the values; 0 for a row that attends to nothing. Not of rows that are means already.
  func divideBySums(_ tile: Tile, _ state: RowState<Element>, unless isMean: (_ row: Int) -> Bool) {
    for row in 0..<tile.rowCount where !isMean(row) {
      let result = state.result + row * shape.valueWidth
      kernels.scale(shape.valueWidth, result, state.sum[row] == 0 ? 0 : 1 / state.sum[row], result)
    }
  }

  /// Writes the output and the log-sum-exp.
  func finish(_ tile: Tile, _ state: RowState<Element>) {
    tile.forEachRow(0..<tile.rowCount) { row, head, query in
      writeOutput(state.result + row * shape.valueWidth, tile, head: head, query: query)
    }
    writeLogSumExp(tile, maximum: state.maximum, sum: state.sum)
  }

  /// One row of the output, in its type and strides.
  func writeOutput(_ row: UnsafePointer<Element>, _ tile: Tile, head: Int, query: Int) {
    let target = outputs.outputRow(batch: tile.batch, head: head, query: query)
    if let half = outputs.half {
      kernels.narrow(half, shape.valueWidth, row, target, stride: outputs.widthStride)
    } else {
      copyStridedRow(
        count: shape.valueWidth, elementByteCount: outputs.elementByteCount, from: row, stride: 1, to: target,
        stride: outputs.widthStride)
    }
  }

  func writeLogSumExp(_ tile: Tile, maximum: UnsafePointer<Element>, sum: UnsafePointer<Element>) {
    guard let logSumExp = outputs.logSumExp else { return }
    tile.forEachRow(0..<tile.rowCount) { row, head, query in
      logSumExp[(tile.batch * shape.headCount + head) * shape.queryCount + query] =
        sum[row] == 0 ? -.infinity : maximum[row] + Element(nearest: sum[row].asDouble.naturalLogarithm)
    }
  }

  /// The weights, or the scores, of one query: `[S]`.
  func row(of matrix: UnsafeMutablePointer<Element>, _ tile: Tile, head: Int, query: Int) -> UnsafeMutablePointer<
    Element
  > {
    matrix + ((tile.batch * shape.headCount + head) * shape.queryCount + query) * shape.keyCount
  }

  func fill(_ matrix: UnsafeMutablePointer<Element>, _ tile: Tile, with element: Element) {
    tile.forEachRow(0..<tile.rowCount) { _, head, query in
      row(of: matrix, tile, head: head, query: query).update(repeating: element, count: shape.keyCount)
    }
  }

  /// NaN for every attended key of the rows whose sum is NaN, 0 for the others: exp(−inf − NaN) would make NaN of what
  /// is masked, too.
  func correctWeights(
    _ weights: UnsafeMutablePointer<Element>, _ tile: Tile, sum: UnsafePointer<Element>, _ forbidden: [[Bool]]
  ) {
    tile.forEachRow(0..<tile.rowCount) { row, head, query in
      guard sum[row].isNaN else { return }
      let target = self.row(of: weights, tile, head: head, query: query)
      for key in 0..<shape.keyCount {
        let isAttended =
          (forbidden.isEmpty || !forbidden[row][key])
          && schedule.attends(batch: tile.batch, head: head, query: query, key: key)
        target[key] = isAttended ? .nan : 0
      }
    }
  }
}
