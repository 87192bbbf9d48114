internal import AttentionTensors

/// How the hidden states of a text become one vector.
public enum Pooling: String, Sendable, Hashable, CaseIterable {
  /// The mean of the states.
  case mean
  /// The state of the first token.
  case cls
  /// The largest element of each column.
  case max
  /// The sum of the states divided by the square root of their number.
  case meanSquareRoot
  /// A weighted mean: the state of token i (counted from 1) has i times the weight of the state of token 1.
  case weightedMean
  /// The state of the last token.
  case lastToken

  /// Pools the states in `rows` into `vector`. `states` holds all rows, from row 0 on, with `dimension` elements each.
  /// If `rows` is empty, `vector` is filled with zeros.
  package func apply(
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

  /// x ← x / ‖x‖; a vector of zeros stays as it is.
  static func normalize(_ vector: UnsafeMutablePointer<Float>, dimension: Int) {
    var sum: Float = 0
    for i in 0..<dimension { sum += vector[i] * vector[i] }
    // As in PyTorch's `normalize`, the divisor is at least 1e-12.
    let factor = 1 / Swift.max(sum.squareRoot(), 1e-12)
    for i in 0..<dimension { vector[i] *= factor }
  }
}
