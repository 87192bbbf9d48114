/// Describes for people how a result differs from what is expected; nil if every element is within the tolerance.
///
///     #expect(mismatch(result, expected, tolerance: 1e-6) == nil)
///
/// Infinities must match exactly. A NaN matches only a NaN.
@_specialize(where Actual == Float)
@_specialize(where Actual == Double)
public func mismatch<Actual: BinaryFloatingPoint>(
  _ actual: [Actual], _ expected: [Double], tolerance: Double, _ what: String = "result"
) -> String? {
  if actual.count != expected.count {
    return "\(what): \(expected.count) elements expected; got \(actual.count)"
  }
  var worst = -1.0
  var worstIndex = 0
  var count = 0
  for i in actual.indices {
    let got = Double(actual[i])
    let want = expected[i]
    if got == want || (got.isNaN && want.isNaN) { continue }
    let difference = abs(got - want)
    let error = difference.isNaN ? .infinity : difference
    if error <= tolerance { continue }
    count += 1
    if error > worst { (worst, worstIndex) = (error, i) }
  }
  if count == 0 { return nil }
  return "\(what): \(count) of \(actual.count) differ by more than \(tolerance); worst at \(worstIndex): "
    + "expected \(expected[worstIndex]), got \(actual[worstIndex]), error \(worst)"
}

/// True if both arrays have the same bits, element by element: −0 differs from 0, and a NaN equals only a NaN of the
/// same bits.
@_specialize(where Number == Float)
@_specialize(where Number == Double)
public func sameBits<Number: BinaryFloatingPoint>(_ a: [Number], _ b: [Number]) -> Bool {
  a.count == b.count
    && a.indices.allSatisfy {
      a[$0].sign == b[$0].sign && a[$0].exponentBitPattern == b[$0].exponentBitPattern
        && a[$0].significandBitPattern == b[$0].significandBitPattern
    }
}

/// A tolerance for Float, converted to the same number of units in the last place of another type. The error of a
/// Double result that was narrowed to Float on the way exceeds it.
public func tolerance<Number: BinaryFloatingPoint>(ofFloat tolerance: Double, as _: Number.Type) -> Double {
  tolerance * Double(Number.ulpOfOne) / Double(Float.ulpOfOne)
}
