import AttentionTensors
import Testing

/// Expected texts are what NumPy 2 prints for the same arrays.
@Suite("Tensor.description reads like NumPy's")
struct TensorDescriptionTests {
  @Test("floats")
  func floats() {
    #expect(([[1, 2.5], [-3, 4]] as Tensor<Float>).description == "[[ 1.   2.5]\n [-3.   4. ]]")
    #expect(([1, 2, 3] as Tensor<Double>).description == "[1. 2. 3.]")
    #expect(([0.1, 0.25, 100] as Tensor<Double>).description == "[  0.1    0.25 100.  ]")
    #expect((try! Tensor<Double>([1.0 / 3, 2.0 / 3], shape: [2])).description == "[0.33333333 0.66666667]")
    #expect((try! Tensor<Double>([3.5], shape: [])).description == "3.5")
    #expect(([-0.85426652, 0.40058702] as Tensor<Float>).description == "[-0.8542665   0.40058702]")
    #expect((try! Tensor<Float>([0.1, 1.0 / 3], shape: [2])).description == "[0.1        0.33333334]")
  }

  @Test("numbers of very different magnitudes are printed with an exponent")
  func exponents() {
    #expect(([1e-8, 1] as Tensor<Double>).description == "[1.e-08 1.e+00]")
    #expect(([1e10, 1] as Tensor<Double>).description == "[1.e+10 1.e+00]")
    #expect(([1234567, 0.5] as Tensor<Double>).description == "[1.234567e+06 5.000000e-01]")
  }

  @Test("infinities, NaN, booleans, integers")
  func others() throws {
    #expect((try Tensor<Double>([.nan, .infinity, -1.5], shape: [3])).description == "[ nan  inf -1.5]")
    #expect(([true, false] as Tensor<Bool>).description == "[ True False]")
    #expect(([[1, 20], [300, 4]] as Tensor<Int32>).description == "[[  1  20]\n [300   4]]")
    #expect((try Tensor<Float>(repeating: 0, shape: [0])).description == "[]")
  }

  @Test("more axes, and long axes")
  func shapes() throws {
    let x = try Tensor((0..<24).map(Double.init), shape: [2, 3, 4])
    #expect(
      x.description == """
        [[[ 0.  1.  2.  3.]
          [ 4.  5.  6.  7.]
          [ 8.  9. 10. 11.]]

         [[12. 13. 14. 15.]
          [16. 17. 18. 19.]
          [20. 21. 22. 23.]]]
        """)
    let long = try Tensor((0..<2000).map(Double.init), shape: [2, 1000])
    #expect(
      long.description == """
        [[0.000e+00 1.000e+00 2.000e+00 ... 9.970e+02 9.980e+02 9.990e+02]
         [1.000e+03 1.001e+03 1.002e+03 ... 1.997e+03 1.998e+03 1.999e+03]]
        """)
  }
}
