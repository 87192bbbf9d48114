internal import AttentionTensors

/// How the hidden states of a text become one vector.
public enum Pooling: String, Sendable, Hashable, CaseIterable {
  /// Their mean.
  case mean
  /// That of the first token.
  case cls
  /// The largest of each column.
  case max
  /// Their sum over the root of their number.
  case meanSquareRoot

  /// The vector of `count` states of `width`, one after another; zeros where there is none.
  func apply(_ states: UnsafePointer<Float>, count: Int, width: Int, into vector: UnsafeMutablePointer<Float>) {
    guard count > 0 else { return vector.update(repeating: 0, count: width) }
    vector.update(from: states, count: width)
    if self == .cls { return }
    for row in 1..<count {
      let state = states + row * width
      if self == .max {
        for i in 0..<width { vector[i] = Swift.max(vector[i], state[i]) }
      } else {
        for i in 0..<width { vector[i] += state[i] }
      }
    }
    if self == .max { return }
    let factor = 1 / (self == .mean ? Float(count) : Float(count).squareRoot())
    for i in 0..<width { vector[i] *= factor }
  }

  /// x ← x / ‖x‖; zeros stay.
  static func normalize(_ vector: UnsafeMutablePointer<Float>, width: Int) {
    var sum: Float = 0
    for i in 0..<width { sum += vector[i] * vector[i] }
    // PyTorch's floor.
    let factor = 1 / Swift.max(sum.squareRoot(), 1e-12)
    for i in 0..<width { vector[i] *= factor }
  }
}
