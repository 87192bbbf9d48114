import AttentionFiles
import AttentionTensors
import AttentionTestSupport
import Foundation
import Testing

@Suite("attention-runner")
struct RunnerTests {
  private func answers(_ requests: String...) throws -> [[String: Any]] {
    let command = try Command("attention-runner", [], input: requests.joined(separator: "\n") + "\n")
    #expect(command.status == 0)
    return try command.lines.map { line in
      try #require(try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any])
    }
  }

  @Test("answers each request with one line, and continues after an invalid request")
  func answersEach() throws {
    let answers = try answers(
      #"{"op":"sdpa","batch":1,"heads":2,"kv_heads":1,"queries":32,"keys":48,"width":16,"value_width":8,"dtype":"f32","mask":"causal","window":7,"pass":"forward","algorithm":"auto","threads":2,"iterations":3,"seed":1,"error":true}"#,
      "junk", #"{"op":"fly"}"#, #"{"op":"sdpa"}"#, #"{"op":"sdpa","queries":-1}"#,
      #"{"op":"softmax","queries":4,"dtype":"bf16"}"#,
      #"{"op":"mha","queries":4,"pass":"forward_backward"}"#, #"{"op":"sdpa","queries":4,"algorithm":"fast"}"#,
      #"{"op":"sdpa","queries":4,"heads":3,"kv_heads":2,"algorithm":"naive"}"#,
      #"{"op":"softmax","batch":1048576,"heads":1048576,"queries":1048576}"#, #"{"op":"sdpa","queries":1e300}"#,
      #"{"op":"mha","queries":4,"width":4294967296,"heads":4294967296}"#,
      #"{"op":"mha","heads":2,"queries":8,"width":4,"iterations":1}"#,
      #"{"op":"gemm","queries":8,"keys":9,"width":4,"iterations":1,"transposed":true,"dtype":"f64"}"#,
      #"{"op":"batched_gemm","batch":3,"queries":8,"width":4,"iterations":1}"#,
      #"{"op":"softmax","queries":8,"keys":100,"iterations":1}"#,
      #"{"op":"sdpa","queries":4,"heads":2,"dtype":"bf16","error":true}"#,
      #"{"op":"sdpa","queries":4,"keys":70,"cache":"paged","rotation":2}"#,
      #"{"op":"sdpa","queries":4,"heads":3,"mask":"alibi_function"}"#,
      #"{"op":"sdpa","queries":4,"heads":3,"mask":"alibi_function","algorithm":"unfused"}"#,
      #"{"op":"sdpa","queries":4,"keys":3,"cache":"growing"}"#, #"{"op":"block","queries":4}"#)
    #expect(answers.count == 22)
    #expect((answers[0]["seconds"] as? [Double])?.count == 3)
    #expect(answers[0]["algorithm"] as? String == "packed")
    #expect((answers[0]["max_error"] as? Double ?? 1) < 1e-5)
    for bad in 1...11 { #expect((answers[bad]["error"] as? String)?.isEmpty == false, "\(bad)") }
    for bad in 19...21 { #expect((answers[bad]["error"] as? String)?.isEmpty == false, "\(bad)") }
    for good in 12...18 { #expect((answers[good]["gflops"] as? Double ?? 0) > 0, "\(answers[good])") }
    // Each of the 8 rows of the softmax sums to 1.
    #expect(abs((answers[15]["checksum"] as? Double ?? 0) - 8) < 1e-4)
  }

  @Test("inputs and output are saved to a file that another program can read")
  func save() throws {
    let folder = try TemporaryFolder()
    let requests = [
      #"{"op":"sdpa","batch":2,"heads":4,"kv_heads":2,"queries":5,"keys":9,"width":8,"mask":"key_lengths","#,
      #"{"op":"mha","heads":2,"queries":8,"width":4,"#, #"{"op":"softmax","queries":8,"keys":100,"#,
      #"{"op":"batched_gemm","batch":3,"queries":8,"width":4,"#,
      #"{"op":"block","heads":2,"queries":8,"width":4,"pass":"forward_backward","#,
    ]
    for (index, request) in requests.enumerated() {
      let path = folder("\(index).safetensors")
      let answer = try answers(request + #""iterations":1,"save":"\#(path)"}"#)[0]
      let output = try SafeTensorsFile(contentsOf: path).tensor("output", as: Float.self).array
      #expect(abs((answer["checksum"] as? Double ?? .nan) - output.reduce(0) { $0 + Double($1) }) < 1e-9)
    }
    let names = try SafeTensorsFile(contentsOf: folder("0.safetensors")).entries.map(\.name).sorted()
    #expect(names == ["key", "key_lengths", "output", "query", "value"])
    let refused = try answers(#"{"op":"softmax","queries":8,"keys":9,"save":"\#(folder("none/x"))"}"#)[0]
    #expect((refused["error"] as? String)?.contains("none/x") == true)
  }

  @Test(
    "the same seed gives the same checksum with one and two threads; another seed gives another checksum",
    arguments: ["none", "causal", "causal_top_left", "boolean", "bias", "key_lengths"])
  func checksums(mask: String) throws {
    func request(_ seed: Int, _ threads: Int) -> String {
      #"{"op":"sdpa","batch":2,"heads":2,"queries":40,"width":16,"mask":"\#(mask)","threads":\#(threads),"iterations":1,"seed":\#(seed)}"#
    }
    let sums = try answers(request(1, 1), request(1, 2), request(2, 1)).map { $0["checksum"] as? Double }
    #expect(sums[0] != nil && sums[0] == sums[1] && sums[0] != sums[2])
  }

  @Test(
    "the implementations that the library is compared with give the same results",
    arguments: [
      "", #","mask":"causal""#, #","mask":"bias""#, #","mask":"boolean""#, #","mask":"key_lengths""#,
      #","mask":"causal","window":7"#,
    ])
  func baselines(mask: String) throws {
    let problem =
      #"{"op":"sdpa","batch":2,"heads":6,"kv_heads":2,"queries":33,"width":16,"iterations":1,"error":true"# + mask
    let answers = try answers(
      problem + "}", problem + #","algorithm":"unfused"}"#, problem + #","algorithm":"naive"}"#,
      problem + #","rotation":3}"#)
    for answer in answers { #expect((answer["max_error"] as? Double ?? 1) < 1e-5, "\(answer)") }
    #expect(answers.map { $0["algorithm"] as? String } == ["packed", "unfused", "naive", "packed"])
    #expect((answers[3]["read_gbps"] as? Double ?? 0) > 0)
    #expect((answers[3]["read_limit_gbps"] as? Double ?? 0) > 0)
  }

  @Test("bench measures the given workloads, forward and backward")
  func bench() throws {
    let folder = try TemporaryFolder()
    let command = try Command(
      "attention-runner", ["bench", "tiny-16", "train-512", "--rounds", "1", "--json", "--svg", folder("bench.svg")])
    #expect(command.status == 0, "\(command.errors)")
    let report = try #require(
      try JSONSerialization.jsonObject(with: Data(command.output.utf8)) as? [String: Any])
    let rows = try #require(report["rows"] as? [[String: Any]])
    #expect(rows.map { $0["name"] as? String } == ["tiny-16", "train-512"])
    for field in ["milliseconds", "gflops", "shareOfPeak", "unfusedMilliseconds", "naiveMilliseconds"] {
      #expect((rows[0][field] as? Double ?? 0) > 0, "\(field)")
    }
    for field in ["milliseconds", "gflops", "shareOfPeak"] { #expect((rows[1][field] as? Double ?? 0) > 0, "\(field)") }
    #expect(try String(contentsOfFile: folder("bench.svg"), encoding: .utf8).contains("tiny-16"))
    let table = try Command("attention-runner", ["bench", "tiny-16", "--rounds", "1"])
    #expect(table.lines.last?.hasPrefix("tiny-16") == true)
    for bad in [["bench", "no-such"], ["bench", "--rounds", "0"], ["bench", "--threads", "0"]] {
      #expect(try Command("attention-runner", bad).status == 64)
    }
  }

  @Test("tune prints a time ratio for each value of a constant; for an unknown constant it lists the known ones")
  func tune() throws {
    let command = try Command("attention-runner", ["tune", "unpackedRowLimit", "--rounds", "1"])
    #expect(command.status == 0, "\(command.errors)")
    let head = try #require(command.lines.first { $0.hasPrefix("unpackedRowLimit") }).split(separator: " ")
    #expect(head.filter { $0.hasSuffix("*") }.count == 1, "\(head)")
    let rows = command.lines.filter { $0.hasPrefix("  ") }
    #expect(rows.count == 3)
    for row in rows {
      let ratios = row.split(separator: " ").suffix(head.count - 1).map { Double($0) ?? 0 }
      #expect(ratios.allSatisfy { $0 > 0 }, "\(row)")
    }
    let wrong = try Command("attention-runner", ["tune", "no-such"])
    #expect(wrong.status == 64 && wrong.errors.contains("rowTarget"))
  }

  @Test(
    "only the scores that the mask keeps count as operations",
    arguments: [
      // L, S, window, kept scores. A causal mask with L = S and no window counts as half of the square, as is usual.
      (8, 8, nil, 32.0), (1, 100, nil, 100), (1, 100, 9, 10), (4, 100, nil, 97 + 98 + 99 + 100),
      (6, 6, 2, 1 + 2 + 3 + 3 + 3 + 3),
    ] as [(Int, Int, Int?, Double)])
  func operations(L: Int, S: Int, window: Int?, kept: Double) throws {
    let request =
      #"{"op":"sdpa","queries":\#(L),"keys":\#(S),"width":4,"mask":"causal","window":\#(window.map(String.init) ?? "null"),"iterations":1}"#
    #expect(try answers(request)[0]["operations"] as? Double == 4 * 4 * kept)
  }

  @Test("chart draws valid input, and refuses invalid input")
  func chart() throws {
    let folder = try TemporaryFolder()
    let bars = #"{"title":"t","subtitle":"s","series":["a"],"groups":[{"label":"x","values":[0.5],"notes":["half"]}]}"#
    #expect(try Command("attention-runner", ["chart", "-o", folder("c.svg")], input: bars).status == 0)
    #expect(try String(contentsOfFile: folder("c.svg"), encoding: .utf8).contains("half"))
    let refused = try Command("attention-runner", ["chart", "-o", folder("d.svg")], input: "{}")
    #expect(refused.status == 64 && refused.errors.contains("title"))
    let short = bars.replacing(#"["half"]"#, with: "[]")
    #expect(try Command("attention-runner", ["chart", "-o", folder("e.svg")], input: short).status == 64)
    #expect(try folder.fileNames == ["c.svg"])
  }
}
