/// The order of a tensor's axes. Rank 3 leaves out the batch, rank 2 the heads too: `[L, E]`.
public enum AttentionLayout: Sendable, Hashable {
  /// `[B, H, L, E]`, `[H, L, E]`: PyTorch's.
  case headsFirst
  /// `[B, L, H, E]`, `[L, H, E]`: what a projection gives, and JAX's.
  case lengthFirst

  /// A tensor's axes as `[B, H, L, E]`: a view.
  func canonical(_ shape: [Int], _ strides: [Int]) -> (shape: [Int], strides: [Int])? {
    guard (2...4).contains(shape.count) else { return nil }
    // Nothing to add or exchange, nor to allocate.
    if shape.count == 4 && self == .headsFirst { return (shape, strides) }
    let added = 4 - shape.count
    var shape = Array(repeating: 1, count: added) + shape
    var strides = Array(repeating: 0, count: added) + strides
    // Without heads there is nothing to exchange.
    if self == .lengthFirst && added < 2 {
      shape.swapAt(1, 2)
      strides.swapAt(1, 2)
    }
    return (shape, strides)
  }

  /// A canonical shape with as many axes as `rank`, in this layout.
  func shape(_ canonical: [Int], rank: Int) -> [Int] {
    var shape = canonical
    if self == .lengthFirst && rank > 2 { shape.swapAt(1, 2) }
    return rank == 4 ? shape : Array(shape.suffix(rank))
  }
}
