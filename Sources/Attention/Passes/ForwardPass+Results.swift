internal import AttentionTensors

// Writes the results of a tile of queries to the outputs of the call, or to a state that will be merged.

extension ForwardPass {
  /// Copies the maximum, sum and mean of every row into a state, to be merged with states of other keys.
  /// - Returns: False if a result is not finite.
  func store(_ tile: QueryTile, into state: RowState<Element>) -> Bool {
    let memory = tiles.memory
    state.maximum.update(from: memory.maximum, count: tile.rowCount)
    state.sum.update(from: memory.sum, count: tile.rowCount)
    for row in 0..<tile.rowCount {
      memory.targets[row] = UnsafeMutableRawPointer(state.result + row * call.shape.valueDimension)
    }
    return tiles.writeResult(tile, columnStride: 1)
  }

  /// Writes the results of a pass over all keys.
  /// - Returns: False if `check` asks for finite results and some result is not finite. The written results are then
  ///   incomplete.
  func finish(_ tile: QueryTile, _ check: ResultCheck) -> Bool {
    guard let outputs = call.outputs else { return true }
    let (memory, columnCount) = (tiles.memory, call.shape.valueDimension)
    let isConverted = outputs.output.half != nil
    let byteStride = isConverted ? columnCount * MemoryLayout<Element>.stride : outputs.output.rowByteStride
    tile.forEachHead(0..<tile.rowCount) { rows, head, query in
      let first =
        isConverted
        ? UnsafeMutableRawPointer(memory.modifiers.converted + rows.lowerBound * columnCount)
        : outputs.output.row(batch: tile.batch, head: head, index: query)
      for row in rows { memory.targets[row] = first + (row - rows.lowerBound) * byteStride }
    }
    let isFinite = tiles.writeResult(tile, columnStride: isConverted ? 1 : outputs.output.columnStride)
    if !isFinite && check == .finite { return false }
    if isConverted { writeOutput(tile, memory.modifiers.converted, outputs) }
    writeLogSumExp(tile, maximum: memory.maximum, sum: memory.sum, outputs)
    writeWeights(tile, maximum: memory.maximum, sum: memory.sum)
    return true
  }

  /// Writes the results of a tile from the merged state of all splits of its keys.
  func finish(_ tile: QueryTile, _ state: RowState<Element>) {
    guard let outputs = call.outputs, tile.rowCount > 0 else { return }
    if let sinks = call.sinks {
      state.addSinks({ sinks[tile.head(ofRow: $0)] }, rowCount: tile.rowCount, call.kernels)
    }
    writeOutput(tile, state.result, outputs)
    writeLogSumExp(tile, maximum: state.maximum, sum: state.sum, outputs)
    writeWeights(tile, maximum: state.maximum, sum: state.sum)
  }

  /// Writes the results of the queries that lie after the end of their sequence. Their outputs and weights are 0. Their
  /// log-sum-exp is −inf, or the head's sink if there are sinks.
  func clearEmptyQueries(_ tile: QueryTile) {
    guard let outputs = call.outputs, !tile.emptyQueries.isEmpty else { return }
    let shape = call.shape
    for head in tile.heads {
      for query in tile.emptyQueries {
        outputs.output.clear(
          count: shape.valueDimension, outputs.output.row(batch: tile.batch, head: head, index: query))
        let row = shape.row(batch: tile.batch, head: head, query: query)
        outputs.logSumExp?[row] = call.sinks?[head] ?? -.infinity
        if let weights = outputs.weights {
          (weights + row * shape.keyCount).update(repeating: 0, count: shape.keyCount)
        }
      }
    }
  }

  /// Writes contiguous rows to the output, in the output's type and with its strides.
  private func writeOutput(
    _ tile: QueryTile, _ rows: UnsafePointer<Element>, _ outputs: AttentionOutputs<Element>
  ) {
    let columnCount = call.shape.valueDimension
    tile.forEachRow(0..<tile.rowCount) { row, head, query in
      outputs.output.write(
        call.kernels, count: columnCount, from: rows + row * columnCount,
        to: outputs.output.row(batch: tile.batch, head: head, index: query))
    }
  }

  private func writeLogSumExp(
    _ tile: QueryTile, maximum: UnsafePointer<Element>, sum: UnsafePointer<Element>,
    _ outputs: AttentionOutputs<Element>
  ) {
    guard let logSumExp = outputs.logSumExp else { return }
    tile.forEachRow(0..<tile.rowCount) { row, head, query in
      logSumExp[call.shape.row(batch: tile.batch, head: head, query: query)] =
        sum[row] == 0 ? -.infinity : maximum[row] + Element(_nearest: sum[row]._double.naturalLogarithm)
    }
  }
}

/// Which results may be written.
enum ResultCheck {
  /// Only finite results. Others are computed again first.
  case finite
  /// All results, finite or not.
  case any
}
