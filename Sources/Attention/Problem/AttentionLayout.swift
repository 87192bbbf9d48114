/// The order of a tensor's axes: B elements of the batch, H heads, L queries or keys, E elements of each. A tensor of
/// rank 3 has no batch axis; one of rank 2 has no heads either: `[L, E]`.
public enum AttentionLayout: Sendable, Hashable {
  /// `[B, H, L, E]`, `[H, L, E]`: PyTorch's order.
  case headsFirst
  /// `[B, L, H, E]`, `[L, H, E]`: the order of a projection's output, and JAX's.
  case lengthFirst

  /// The shape and strides of a tensor viewed as `[B, H, L, E]`. Nil if its rank is not 2, 3 or 4.
  func canonical(_ shape: [Int], _ strides: [Int]) -> (shape: [Int], strides: [Int])? {
    guard (2...4).contains(shape.count) else { return nil }
    // If there is no axis to add or exchange, no array needs to be allocated.
    if shape.count == 4 && self == .headsFirst { return (shape, strides) }
    let added = 4 - shape.count
    var shape = Array(repeating: 1, count: added) + shape
    var strides = Array(repeating: 0, count: added) + strides
    // Without a head axis there is nothing to exchange.
    if self == .lengthFirst && added < 2 {
      shape.swapAt(1, 2)
      strides.swapAt(1, 2)
    }
    return (shape, strides)
  }

  /// The shape of a tensor with `rank` axes in this layout, from its shape `[B, H, L, E]`.
  func shape(_ canonical: [Int], rank: Int) -> [Int] {
    var shape = canonical
    if self == .lengthFirst && rank > 2 { shape.swapAt(1, 2) }
    return rank == 4 ? shape : Array(shape.suffix(rank))
  }
}
