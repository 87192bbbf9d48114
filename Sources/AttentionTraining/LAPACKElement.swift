public import AttentionBLAS
internal import CLAPACKE

/// A type of number that LAPACK factorises: Float and Double. Not for other types to adopt.
public protocol LAPACKElement: BLASElement {
  /// A = Q·R for a column-major `m × n` matrix, m ≥ n. R and the reflections that make up Q replace A.
  /// Returns LAPACKE's status. Not API.
  static func _geqrf(
    rowCount: Int, columnCount: Int, _ a: UnsafeMutablePointer<Self>, _ reflectors: UnsafeMutablePointer<Self>
  ) -> Int
  /// Replaces the reflections by the first n columns of Q. Returns LAPACKE's status. Not API.
  static func _orgqr(
    rowCount: Int, columnCount: Int, _ a: UnsafeMutablePointer<Self>, _ reflectors: UnsafePointer<Self>
  ) -> Int
}

extension Float: LAPACKElement {
  public static func _geqrf(
    rowCount: Int, columnCount: Int, _ a: UnsafeMutablePointer<Float>, _ reflectors: UnsafeMutablePointer<Float>
  ) -> Int {
    Int(LAPACKE_sgeqrf(LAPACK_COL_MAJOR, CInt(rowCount), CInt(columnCount), a, CInt(rowCount), reflectors))
  }

  public static func _orgqr(
    rowCount: Int, columnCount: Int, _ a: UnsafeMutablePointer<Float>, _ reflectors: UnsafePointer<Float>
  ) -> Int {
    Int(
      LAPACKE_sorgqr(
        LAPACK_COL_MAJOR, CInt(rowCount), CInt(columnCount), CInt(columnCount), a, CInt(rowCount), reflectors))
  }
}

extension Double: LAPACKElement {
  public static func _geqrf(
    rowCount: Int, columnCount: Int, _ a: UnsafeMutablePointer<Double>, _ reflectors: UnsafeMutablePointer<Double>
  ) -> Int {
    Int(LAPACKE_dgeqrf(LAPACK_COL_MAJOR, CInt(rowCount), CInt(columnCount), a, CInt(rowCount), reflectors))
  }

  public static func _orgqr(
    rowCount: Int, columnCount: Int, _ a: UnsafeMutablePointer<Double>, _ reflectors: UnsafePointer<Double>
  ) -> Int {
    Int(
      LAPACKE_dorgqr(
        LAPACK_COL_MAJOR, CInt(rowCount), CInt(columnCount), CInt(columnCount), a, CInt(rowCount), reflectors))
  }
}
