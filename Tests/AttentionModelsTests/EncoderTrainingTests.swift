import Attention
import AttentionFiles
import AttentionTestSupport
import Foundation
import Testing

import AttentionModels

@Suite("Training of encoders")
struct EncoderTrainingTests {
  private static let texts = ["a good man", "she walks in the rain, and he is happy!", "", "the house of her sister"]

  private func vectors(_ encoder: SentenceEncoder) throws -> Tensor<Float> { try encoder.embed(Self.texts) }

  private func loss(_ vectors: Tensor<Float>, _ outputGradient: Tensor<Float>) -> Double {
    zip(vectors.array, outputGradient.array).reduce(0) { $0 + Double($1.0) * Double($1.1) }
  }

  @Test("the value with a pullback is that of embed, and its gradient is the slope along random directions")
  func gradient() throws {
    let encoder = try SentenceEncoder(directory: Fixture.tiny)
    let expected = try vectors(encoder).array.map { Double($0) }
    for recomputes in [false, true] {
      let (value, pullback) = try encoder.valueWithPullback(Self.texts, recomputes: recomputes)
      #expect(mismatch(value.array, expected, tolerance: 2e-6) == nil)
      let outputGradient = try Tensor<Float>(uniform: -1..<1, shape: value.shape, seed: 3)
      var gradients = ParameterGradients<Float>()
      try pullback(outputGradient, adding: &gradients, prefix: "m.")
      let parameters = try encoder.parameters(prefix: "m.")
      #expect(Set(gradients.names) == Set(parameters.map(\.name)))
      // Each parameter in turn moves along its own gradient. The slope of the loss is then the gradient's squared norm.
      for (name, parameter) in parameters {
        let gradient = try #require(gradients[name])
        let square = gradient.array.reduce(0.0) { $0 + Double($1) * Double($1) }
        // A bias of keys has the gradient 0: a softmax does not change when all scores of a query grow by the same
        // number.
        if square < 1e-8 { continue }
        let step = min(0.02 / square.squareRoot(), 1e3) * (parameter.count > 5000 ? 1 : 0.5)
        func moved(_ factor: Double) throws -> Double {
          var changed = encoder
          try changed.forEachParameter(prefix: "m.") { own, value in
            guard own == name else { return }
            let sum = zip(value.array, gradient.array).map { Float(Double($0) + factor * step * Double($1)) }
            value = try Tensor(sum, shape: value.shape)
          }
          return try loss(vectors(changed), outputGradient)
        }
        let slope = try (moved(1) - moved(-1)) / (2 * step)
        #expect(abs(slope - square) <= 0.02 * square + 2e-4, "\(name): \(slope) for \(square)")
      }
    }
  }

  @Test("every pooling's gradient agrees with central differences", arguments: Pooling.allCases)
  func pooling(pooling: Pooling) {
    var generator = TestGenerator(seed: 5)
    let dimension = 7
    let states = generator.numbers(5 * dimension).map { Float($0) }
    let outputGradient = generator.numbers(dimension).map { Float($0) }
    let rows = 1..<4
    func value(_ states: [Float]) -> Double {
      var vector = [Float](repeating: .nan, count: dimension)
      pooling.apply(states, rows: rows, dimension: dimension, into: &vector)
      return zip(vector, outputGradient).reduce(0) { $0 + Double($1.0) * Double($1.1) }
    }
    var gradient = [Float](repeating: 0, count: states.count)
    pooling.addGradient(outputGradient, states, rows: rows, dimension: dimension, to: &gradient)
    for index in states.indices {
      var (more, less) = (states, states)
      more[index] += 1e-3
      less[index] -= 1e-3
      let expected = (value(more) - value(less)) / Double(more[index] - less[index])
      #expect(abs(Double(gradient[index]) - expected) < 2e-3, "\(pooling), element \(index)")
    }
  }

  @Test("a changed model that is written and loaded again gives the same vectors; settings and other weights are kept")
  func written() throws {
    var encoder = try SentenceEncoder(directory: Fixture.tiny)
    try encoder.forEachParameter(prefix: "") { _, value in
      value = try Tensor(value.array.map { $0 * 1.25 }, shape: value.shape)
    }
    let folder = try TemporaryFolder()
    try encoder.write(to: folder("new"), settingsFrom: Fixture.tiny)
    let loaded = try SentenceEncoder(directory: folder("new"))
    #expect(try vectors(loaded) == vectors(encoder))
    #expect(loaded.poolings == encoder.poolings && loaded.maximumLength == encoder.maximumLength)
    // The settings may also be read through a symbolic link to the folder.
    try FileManager.default.createSymbolicLink(atPath: folder("link"), withDestinationPath: Fixture.tiny)
    try encoder.write(to: folder("linked"), settingsFrom: folder("link"))
    #expect(try vectors(SentenceEncoder(directory: folder("linked"))) == vectors(encoder))
    let (old, new) = (
      try SafeTensorsFile(contentsOf: Fixture.tiny + "/model.safetensors"),
      try SafeTensorsFile(contentsOf: folder("new/model.safetensors"))
    )
    #expect(Set(old.entries.map(\.name)) == Set(new.entries.map(\.name)))
    let refusal = #expect(throws: AttentionError.self) {
      try encoder.write(to: folder("new"), settingsFrom: Fixture.tiny)
    }
    #expect(refusal?.description.contains("the path of a new folder expected") == true)
    #expect(throws: AttentionError.self) { try encoder.write(to: folder("other"), settingsFrom: folder("nothing")) }
    #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted() == ["link", "linked", "new"])
  }

  @Test("any number of threads gives the same bits")
  func threads() throws {
    let encoder = try SentenceEncoder(directory: Fixture.tiny)
    func gradients(_ threadCount: Int) throws -> [String: [Float]] {
      let (value, pullback) = try encoder.valueWithPullback(
        Self.texts, context: AttentionContext(threadCount: threadCount))
      var gradients = ParameterGradients<Float>()
      try pullback(Tensor(uniform: -1..<1, shape: value.shape, seed: 3), adding: &gradients)
      return gradients.tensors.mapValues(\.array)
    }
    let expected = try gradients(1)
    for threadCount in [2, 16] {
      for (name, values) in try gradients(threadCount) { #expect(sameBits(values, expected[name]!), "\(name)") }
    }
  }
}
