public import AttentionTensors
internal import COpenBLAS

/// A number type that OpenBLAS multiplies: Float and Double. Other types must not adopt it.
public protocol BLASElement: RealTensorElement, BinaryFloatingPoint {
  /// C ← α·op(A)·op(B) + β·C, row-major, in one call of OpenBLAS. Not API.
  static func _gemm(
    transposeA: Bool, transposeB: Bool, rowCount: Int, columnCount: Int, depth: Int,
    alpha: Self, a: UnsafePointer<Self>, aStride: Int, b: UnsafePointer<Self>, bStride: Int,
    beta: Self, c: UnsafeMutablePointer<Self>, cStride: Int)
}

extension Float: BLASElement {
  public static func _gemm(
    transposeA: Bool, transposeB: Bool, rowCount: Int, columnCount: Int, depth: Int,
    alpha: Float, a: UnsafePointer<Float>, aStride: Int, b: UnsafePointer<Float>, bStride: Int,
    beta: Float, c: UnsafeMutablePointer<Float>, cStride: Int
  ) {
    OpenBLAS.withCall {
      cblas_sgemm(
        CblasRowMajor, transposeA ? CblasTrans : CblasNoTrans, transposeB ? CblasTrans : CblasNoTrans, CInt(rowCount),
        CInt(columnCount), CInt(depth), alpha, a, CInt(aStride), b, CInt(bStride), beta, c, CInt(cStride))
    }
  }
}

extension Double: BLASElement {
  public static func _gemm(
    transposeA: Bool, transposeB: Bool, rowCount: Int, columnCount: Int, depth: Int,
    alpha: Double, a: UnsafePointer<Double>, aStride: Int, b: UnsafePointer<Double>, bStride: Int,
    beta: Double, c: UnsafeMutablePointer<Double>, cStride: Int
  ) {
    OpenBLAS.withCall {
      cblas_dgemm(
        CblasRowMajor, transposeA ? CblasTrans : CblasNoTrans, transposeB ? CblasTrans : CblasNoTrans, CInt(rowCount),
        CInt(columnCount), CInt(depth), alpha, a, CInt(aStride), b, CInt(bStride), beta, c, CInt(cStride))
    }
  }
}
