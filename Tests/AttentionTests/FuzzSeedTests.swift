import Attention
import AttentionProblems
import AttentionTestSupport
import Foundation
import Testing

/// Runs the inputs that the fuzzers start with, and the inputs that made them fail, in every test run.
@Suite("Fuzzers' seeds")
struct FuzzSeedTests {
  private static func seeds(_ name: String) -> [String] {
    let folder = "\(packageFolder)/Tests/Fuzz/Seeds/\(name)"
    return (try? FileManager.default.contentsOfDirectory(atPath: folder))?.sorted().map { "\(folder)/\($0)" } ?? []
  }

  private func bytes(_ path: String) throws -> [UInt8] { Array(try Data(contentsOf: URL(fileURLWithPath: path))) }

  @Test("problems of attention agree with the reference on every path", arguments: seeds("attention"))
  func attention(path: String) throws {
    try bytes(path).withUnsafeBytes { bytes in
      for context in AttentionContext.everyPath {
        let problem = FuzzedAttention(bytes, path: context)
        let finding = try problem.mismatch() ?? problem.differenceMismatch()
        #expect(finding == nil, "\(problem)")
      }
    }
  }

  @Test("gradients of thousands of random problems agree with central differences of the reference")
  func differences() throws {
    let seed = UInt64.random(in: 0..<1 << 32)
    var generator = TestGenerator(seed: seed)
    let contexts = AttentionContext.everyPath
    var count = 0
    for index in 0..<3000 {
      let bytes = (0..<96).map { _ in UInt8.random(in: 0...255, using: &generator) }
      let problem = bytes.withUnsafeBytes { FuzzedAttention($0, path: contexts[index % contexts.count], limit: 5000) }
      if problem.isDifferentiable { count += 1 }
      guard let finding = try problem.differenceMismatch() else { continue }
      Issue.record("problem \(index) of seed \(seed), \(problem): \(finding)")
    }
    #expect(count > 2000, "seed \(seed)")
  }

  @Test("safetensors files are refused or survive a round trip", arguments: seeds("safetensors"))
  func safeTensors(path: String) throws {
    let finding = try bytes(path).withUnsafeBytes(fuzzSafeTensors)
    #expect(finding == nil)
  }

  @Test("there are seeds")
  func present() {
    #expect(Self.seeds("attention").count >= 20)
    #expect(Self.seeds("safetensors").count >= 8)
  }
}
