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
  /// Their mean, the state of token i (from 1) weighing i times as much as the first.
  case weightedMean
  /// That of the last token.
  case lastToken

  /// The vector of the states in `rows`, `dimension` each, one after another from row 0 on; zeros where there is none.
  func apply(
    _ states: UnsafePointer<Float>, rows: Range<Int>, dimension: Int, into vector: UnsafeMutablePointer<Float>
  ) {
    guard let first = rows.first else { return vector.update(repeating: 0, count: dimension) }
    func state(_ row: Int) -> UnsafePointer<Float> { states + row * dimension }
    switch self {
    case .cls: vector.update(from: state(first), count: dimension)
    case .lastToken: vector.update(from: state(rows.upperBound - 1), count: dimension)
    case .max:
      vector.update(from: state(first), count: dimension)
      for row in rows.dropFirst() {
        let state = state(row)
        for i in 0..<dimension { vector[i] = Swift.max(vector[i], state[i]) }
      }
    case .mean, .meanSquareRoot:
      vector.update(from: state(first), count: dimension)
      for row in rows.dropFirst() {
        let state = state(row)
        for i in 0..<dimension { vector[i] += state[i] }
      }
      let factor = 1 / (self == .mean ? Float(rows.count) : Float(rows.count).squareRoot())
      for i in 0..<dimension { vector[i] *= factor }
    case .weightedMean:
      vector.update(repeating: 0, count: dimension)
      var sum: Float = 0
      for row in rows {
        let (state, weight) = (state(row), Float(row + 1))
        for i in 0..<dimension { vector[i] += weight * state[i] }
        sum += weight
      }
      for i in 0..<dimension { vector[i] /= sum }
    }
  }

  /// x ← x / ‖x‖; zeros stay.
  static func normalize(_ vector: UnsafeMutablePointer<Float>, dimension: Int) {
    var sum: Float = 0
    for i in 0..<dimension { sum += vector[i] * vector[i] }
    // PyTorch's floor.
    let factor = 1 / Swift.max(sum.squareRoot(), 1e-12)
    for i in 0..<dimension { vector[i] *= factor }
  }
}
