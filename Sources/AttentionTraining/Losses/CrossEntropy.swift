public import Attention
internal import CLibrary

/// A loss, and its gradient with respect to the tensor that it was computed from.
public struct Loss<Element: AttentionElement>: Sendable {
  /// The loss: a finite number.
  public let value: Double
  /// ∂loss/∂input, of the input's shape.
  public let gradient: Tensor<Element>
}

/// The cross entropy of rows of logits: the mean over all rows of −ln softmax(row)[target].
///
///     loss = mean(ln Σⱼ exp(xⱼ) − x[target])  ⇒  dx = (softmax(x) − onehot(target)) / rows
///
/// The softmax is computed once, for the loss and for its gradient. The same as PyTorch's `F.cross_entropy`.
///
/// - Parameters:
///   - logits: `[…, V]`; any strides.
///   - targets: `[…]`: the right class of each row, from 0 to V − 1.
///   - ignoredTarget: Rows with this target count neither in the loss nor in its gradient. PyTorch's default is −100.
///   - context: Threads, instruction set. The bits do not depend on the number of threads.
/// - Returns: The loss and the gradient of the logits. If all rows are ignored, both are 0; PyTorch returns NaN.
/// - Throws: `AttentionError` if the shapes disagree, for a target that is no class, or with the code `.notFinite` if the loss is
///   not finite. The message names the first row of such a loss.
@_specialize(where Element == Float)
@_specialize(where Element == Double)
public func crossEntropy<Element: AttentionElement>(
  _ logits: Tensor<Element>, targets: Tensor<Int32>, ignoring ignoredTarget: Int32? = -100,
  context: AttentionContext = .default
) throws -> Loss<Element> {
  try requireShape(
    logits.rank >= 1 && targets.shape == Array(logits.shape.dropLast()), "crossEntropy",
    "logits [..., V] and targets [...] expected; got \(logits.shape) and \(targets.shape)")
  let classCount = logits.shape[logits.rank - 1]
  let classes = targets.array.map { $0 == ignoredTarget ? nil : Int($0) }
  if let row = classes.firstIndex(where: { $0.map { !(0..<classCount).contains($0) } ?? false }) {
    throw AttentionError(
      .invalidArgument, "crossEntropy",
      "targets from 0 to \(classCount - 1) expected\(ignoredTarget.map { ", or \($0)" } ?? ""); row \(row) has "
        + "\(classes[row]!)")
  }
  let kernels = try context.kernels(for: Element.self)
  var gradient = try logits.copied()
  let count = classes.count { $0 != nil }
  let share = Element(_nearest: 1 / Double(max(count, 1)))
  var losses = [Double](repeating: 0, count: classes.count)
  try gradient.withMutableView { view in
    losses.withUnsafeMutableBufferPointer { losses in
      let (base, losses) = (UncheckedSendable(view.base), UncheckedSendable(losses.baseAddress))
      // An estimate that sets the size of tasks: one thread takes 0.5 ns for each element.
      context.parallelFor(count: classes.count, nanosecondsPerItem: 0.5 * Double(classCount)) { rows, _ in
        for row in rows {
          let x = base.value + row * classCount
          guard let target = classes[row] else {
            x.update(repeating: 0, count: classCount)
            continue
          }
          let own = x[target]
          let maximum = kernels.maximum(classCount, x)
          let sum = kernels.exponentialSum(classCount, x, maximum, x)
          losses.value![row] = log(sum._double) + (maximum._double - own._double)
          kernels.scale(classCount, x, share / sum, x)
          x[target] -= share
        }
      }
    }
  }
  if let row = losses.firstIndex(where: { !$0.isFinite }) {
    throw AttentionError(
      .notFinite, "crossEntropy", "a finite loss expected; the loss of row \(row) is \(losses[row])")
  }
  return Loss(value: losses.reduce(0, +) / Double(max(count, 1)), gradient: gradient)
}
