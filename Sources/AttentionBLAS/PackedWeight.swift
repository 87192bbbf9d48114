package import AttentionTensors

/// A weight `[out, in]`, packed for the kernels of one instruction set: its transpose in panels of columns.
///
/// Panels are as wide as the kernels' panels. If they were twice as wide, half of every second cache line that the
/// kernels read would belong to another panel, and what they read would no longer fit the first-level cache: layers
/// took 5 to 22 % more time with such panels (AVX2, Zen 3; Benchmarks/NOTES.md).
///
/// The weight is packed once, and the kernels add the bias. Compared with packing the weight at each call and writing
/// the bias to the result first, layers of attention take 2 to 5 % less time, and a layer of 12 tokens and dimension
/// 384 takes 24 % less (2 threads of an EPYC of family 25, AVX-512, 2026-11).
package final class PackedWeight<Element: BLASElement>: Sendable {
  private let columnCount: Int
  private let depth: Int
  private let storage: TensorStorage
  private let kernels: Kernels<Element>
  private let lanes: Int

  /// The columns of a panel, and its width in elements. The last panel may be filled up to a whole vector; its width
  /// then exceeds the number of its columns.
  private struct Panel {
    let columns: Range<Int>
    let width: Int
  }
  private let panels: [Panel]
  /// The number of panels.
  package var panelCount: Int { panels.count }

  /// Packs the weight on the threads of `context`, for its instruction set.
  package init(_ weight: Tensor<Element>, _ bias: Tensor<Element>?, context: AttentionContext) throws {
    let kernels = try context.kernels(for: Element.self)
    columnCount = weight.shape[0]
    depth = weight.shape[1]
    self.kernels = kernels
    let lanes = kernels.laneCount
    self.lanes = lanes
    let wholeCount = columnCount / lanes
    var panels: [Panel] = []
    // Rows of A that lie a multiple of 4 KiB apart share a set of the first-level cache. With a wider panel, the kernel
    // reads fewer rows at once, which leaves room in that set. With wider panels, layers take 4 % less time at
    // dimension 1024, where rows share a set, and 2 % more elsewhere (Intel, model 85; Benchmarks/NOTES.md).
    let isAliased = depth * MemoryLayout<Element>.stride % 4096 == 0
    forEachPanel(vectorCount: wholeCount, limit: isAliased ? kernels.productVectorCount : kernels.panelVectorCount) {
      panels.append(Panel(columns: $0.lowerBound * lanes..<$0.upperBound * lanes, width: $0.count * lanes))
    }
    let end = wholeCount * lanes
    if end < columnCount { panels.append(Panel(columns: end..<columnCount, width: lanes)) }
    self.panels = panels
    let paddedCount = panels.reduce(0) { $0 + $1.width }
    storage = try TensorStorage(
      byteCount: max(1, paddedCount * (depth + 1) * MemoryLayout<Element>.stride))
    let base = storage.base.assumingMemoryBound(to: Element.self)
    let (source, target) = (UncheckedSendable(weight.base), UncheckedSendable(base))
    let (rowStride, columnStride, rowLength) = (weight.strides[0], weight.strides[1], weight.shape[1])
    func pack(_ range: Range<Int>) {
      for panel in panels[range] {
        let rows = panel.columns.map { UnsafeRawPointer(source.value + $0 * rowStride) }
        kernels.pack(
          .scaled(by: 1), rowCount: rows.count, columnCount: rowLength, rows: rows, columnStride: columnStride,
          into: target.value + panel.columns.lowerBound * rowLength, stride: panel.width)
      }
    }
    // A lock is held while a weight is packed. So only the package's own threads may help. An executor that the program
    // provides may make this thread wait for another thread, which in turn waits for the lock.
    if context.executor is ThreadTeam {
      // An estimate that sets the size of tasks: one thread takes 1 ns for each element.
      let nanosecondsPerPanel = Double(lanes * kernels.panelVectorCount * rowLength)
      context.parallelFor(count: panels.count, nanosecondsPerItem: nanosecondsPerPanel) { range, _ in pack(range) }
    } else {
      pack(panels.indices)
    }
    withExtendedLifetime(weight) {}
    // The bias, followed by zeros.
    let biases = base + paddedCount * depth
    biases.update(repeating: 0, count: paddedCount)
    if let bias { for i in 0..<columnCount { biases[i] = bias.base[i * bias.strides[0]] } }
    hasBias = bias != nil
    self.paddedCount = paddedCount
  }

  private let hasBias: Bool
  private let paddedCount: Int

  /// The number of elements of working memory that a thread needs.
  package var scratchCount: Int { (PanelEdge<Element>.rowCount + kernels.productVectorCount) * lanes }

  /// Computes the columns of some panels of `f(A·Wᵀ + b)`, where f is `activation` and b the bias. One of A's strides
  /// must be 1.
  package func multiply(
    _ a: StridedMatrix<Element>, panels range: Range<Int>, _ activation: Activation, depthLimit: Int,
    into c: UnsafeMutablePointer<Element>, stride: Int, scratch: UnsafeMutablePointer<Element>
  ) {
    let base = UnsafePointer(storage.base.assumingMemoryBound(to: Element.self))
    let biases = hasBias ? base + paddedCount * depth : nil
    let ones = scratch
    let onesCount = kernels.productVectorCount * lanes
    ones.update(repeating: 1, count: onesCount)
    let edge = scratch + onesCount
    for panel in panels[range] {
      let first = panel.columns.lowerBound
      let packed = base + first * depth
      let bias = biases.map { $0 + first }
      if panel.columns.count == panel.width {
        multiplyPanel(a, packed, panel.width, bias, activation, depthLimit, c + first, stride, ones)
        continue
      }
      PanelEdge(memory: edge, stride: panel.width).write(
        rowCount: a.rowCount, columnCount: panel.columns.count, isAdded: false, into: c + first, stride: stride
      ) { rows in
        multiplyPanel(a.rows(rows), packed, panel.width, bias, activation, depthLimit, edge, panel.width, ones)
      }
    }
  }

  /// The elements that follow a block of a panel in memory: the next block, or the next panel. The kernel prefetches
  /// them line by line while it reads the rows of A. Nil if A has fewer than 32 rows, because with so few rows the
  /// weights stream from memory anyway.
  private func following(_ base: UnsafePointer<Element>, count: Int, rowCount: Int) -> RowsAhead? {
    if rowCount < 32 { return nil }
    let lineByteCount = 64
    let lineCount = (count * MemoryLayout<Element>.stride + lineByteCount - 1) / lineByteCount
    return RowsAhead(base: base, rowCount: lineCount, stride: lineByteCount, byteCount: lineByteCount)
  }

  private func multiplyPanel(
    _ a: StridedMatrix<Element>, _ packed: UnsafePointer<Element>, _ width: Int, _ bias: UnsafePointer<Element>?,
    _ activation: Activation, _ depthLimit: Int, _ c: UnsafeMutablePointer<Element>,
    _ stride: Int, _ ones: UnsafePointer<Element>
  ) {
    forEachDepthBlock(depth, limit: depthLimit) { block in
      // With the last block, the kernel also adds the bias and applies the activation.
      let isLast = block.upperBound == depth
      kernels.multiply(
        vectorCount: width / lanes, a.columns(block), packed + block.lowerBound * width, bStride: width, into: c,
        stride: stride, rescale: block.lowerBound > 0 ? ones : nil, bias: isLast ? bias : nil,
        activation: isLast ? activation : .none,
        next: following(packed + block.upperBound * width, count: block.count * width, rowCount: a.rowCount))
    }
  }
}
