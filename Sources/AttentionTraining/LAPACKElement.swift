public import AttentionBLAS
internal import CLAPACKE

/// A type of number whose matrices LAPACK factorises: Float or Double. Other types must not conform.
public protocol LAPACKElement: BLASElement {
  /// Factorises a column-major `m × n` matrix A = Q·R with m ≥ n, where m is `rowCount` and n is `columnCount`.
  ///
  /// R and the reflections that make up Q replace A. Returns LAPACKE's status. Not part of the API.
  static func _geqrf(
    rowCount: Int, columnCount: Int, _ a: UnsafeMutablePointer<Self>, _ reflectors: UnsafeMutablePointer<Self>
  ) -> Int
  /// Replaces the reflections by the first `columnCount` columns of Q. Returns LAPACKE's status. Not part of the API.
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
