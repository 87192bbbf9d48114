import ArgumentParser
import AttentionTensors
import Foundation

struct Serve: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Answer requests, one JSON object a line, and stay warm in between.",
    discussion: """
      {"op":"sdpa","batch":1,"heads":8,"kv_heads":8,"queries":1024,"keys":1024,"width":64,"iterations":5}
      {"op":"machine"}
      op: sdpa mha block gemm batched_gemm softmax embed machine. Fields and their defaults: Benchmarks/README.md. A line that cannot \
      be served is answered with {"error":"…"}.
      """)

  /// The part that every request has.
  private struct Operation: Decodable { let op: String }

  func run() throws {
    // Successive requests for the same inputs share them, so that the inputs are not made again if two programs take
    // turns.
    var workloads = WorkloadCache()
    var embedding: EmbeddingWorkload?
    while let line = readLine() {
      if line.allSatisfy(\.isWhitespace) { continue }
      do {
        if try JSONDecoder().decode(Operation.self, from: Data(line.utf8)).op == "embed" {
          let request = try JSONDecoder().decode(EmbeddingRequest.self, from: Data(line.utf8))
          if embedding?.hasInputs(of: request) != true { embedding = try EmbeddingWorkload(request) }
          try answer(try embedding!.run(request))
          continue
        }
        let request = try JSONDecoder().decode(Request.self, from: Data(line.utf8))
        if request.op == .machine {
          try answer(try Machine.measure(threads: request.threads))
        } else {
          try answer(try workloads.run(request))
        }
      } catch {
        try answer(["error": describe(error)])
      }
    }
  }

  private func answer(_ value: some Encodable) throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    encoder.nonConformingFloatEncodingStrategy = .convertToString(
      positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
    let line = (try? encoder.encode(value)) ?? Data("{\"error\":\"the answer could not be encoded\"}".utf8)
    // The answer is written without a buffer, so that it does not wait for the next answer.
    do { try FileHandle.standardOutput.write(contentsOf: line + Data("\n".utf8)) } catch {
      throw AttentionError(.inputOutput, "standard output", "an answer could not be written")
    }
  }
}

/// One sentence that says why a request cannot be served.
func describe(_ error: any Error) -> String {
  guard let error = error as? DecodingError else { return "\(error)" }
  switch error {
  case .keyNotFound(let key, _): return "field \"\(key.stringValue)\" expected"
  case .typeMismatch(_, let context), .valueNotFound(_, let context), .dataCorrupted(let context):
    let path = context.codingPath.map(\.stringValue).joined(separator: ".")
    return path.isEmpty
      ? "one JSON object a line expected: \(context.debugDescription)"
      : "field \"\(path)\": \(context.debugDescription)"
  @unknown default: return "\(error)"
  }
}
