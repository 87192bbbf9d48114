import AttentionFiles
import AttentionTensors
import AttentionTestSupport
import Foundation
import Testing

@Suite("attend")
struct AttendTests {
  static let fixtures = "\(packageFolder)/Tests/Fixtures"
  static let layer = "\(packageFolder)/Examples/Data/minilm-layer0.safetensors"
  private let folder: TemporaryFolder
  init() throws { folder = try TemporaryFolder() }

  private func attend(_ arguments: String..., environment: [String: String] = [:]) throws -> Command {
    try Command("attend", arguments, environment: environment)
  }

  private func json(_ command: Command) throws -> [String: Any] {
    try #require(try JSONSerialization.jsonObject(with: Data(command.output.utf8)) as? [String: Any])
  }

  // MARK: check

  static let instructionSets = ["portable", "avx2", "avx512", "neon", "avx512-bf16", "amx"]

  @Test(
    "every conformance case passes", arguments: instructionSets, ["packed", "openblas", "matrix"])
  func conformance(isa: String, algorithm: String) throws {
    let present = try #require(try json(attend("info", "--json"))["isaPresent"] as? [String])
    guard present.contains(isa) else {
      print("skipped, because this machine does not have the instruction set: conformance with \(isa)")
      return
    }
    // Only the matrix algorithm uses these instructions.
    if ["avx512-bf16", "amx"].contains(isa) && algorithm != "matrix" { return }
    for threads in ["1", "2"] {
      let path = ["--isa", isa, "--algorithm", algorithm, "--threads", threads]
      for (folder, count, rest) in [
        ("sdpa", 41, [String]()), ("gradients", 20, []), ("mha", 12, [String]()), ("onnx", 71, []),
      ] {
        let command = try Command("attend", ["check"] + path + rest + ["\(Self.fixtures)/\(folder)"])
        #expect(command.lines.last == "\(count) passed, 0 failed", "\(command.output)")
        #expect(command.status == 0)
      }
    }
  }

  static let onnxCases = ((try? FileManager.default.contentsOfDirectory(atPath: "\(fixtures)/onnx")) ?? []).filter {
    $0.hasPrefix("test_attention") && !$0.contains("bf16") && !$0.contains("fp16")
  }.sorted()

  /// ONNX's own cases have a relative tolerance of 1e-3. This test is stricter: it compares the results in Float with
  /// the results in Double.
  @Test("ONNX's cases have the same results in Float as in Double", arguments: onnxCases, ["packed", "openblas"])
  func onnxInDouble(name: String, algorithm: String) throws {
    let file = try SafeTensorsFile(contentsOf: "\(Self.fixtures)/onnx/\(name)")
    guard file.entry("in.Q")?.dataType == .float32 else { return }
    var writer = SafeTensorsWriter()
    writer.metadata = file.metadata
    for entry in file.entries where entry.name.hasPrefix("in.") {
      switch entry.dataType {
      case .bool: try writer.add(entry.name, file.tensor(entry.name, as: Bool.self))
      case .int64: try writer.add(entry.name, file.tensor(entry.name, as: Int64.self))
      default: try writer.add(entry.name, file.tensor(entry.name, convertingTo: Double.self))
      }
    }
    try writer.write(to: folder("in.safetensors"))
    func results(_ input: String) throws -> SafeTensorsFile {
      let command = try attend("compute", input, "-o", folder("out.safetensors"), "--algorithm", algorithm)
      #expect(command.status == 0, "\(command.errors)")
      return try SafeTensorsFile(contentsOf: folder("out.safetensors"), loading: .copied)
    }
    let (narrow, wide) = (try results(file.path), try results(folder("in.safetensors")))
    for entry in wide.entries {
      let exact = try wide.tensor(entry.name, as: Float.self).array.map(Double.init)
      let size = exact.reduce(1) { $1.isFinite ? max($0, abs($1)) : $0 }
      let difference = mismatch(
        try narrow.tensor(entry.name, as: Float.self).array, exact, tolerance: 1e-6 * size, entry.name)
      #expect(difference == nil)
    }
  }

  @Test("a wrong result fails")
  func wrongResult() throws {
    let file = try SafeTensorsFile(contentsOf: "\(Self.fixtures)/sdpa/plain_cross.safetensors")
    var writer = SafeTensorsWriter()
    writer.metadata = file.metadata
    for entry in file.entries {
      var tensor = try file.tensor(entry.name, as: Float.self)
      if entry.name == "output" { tensor[0, 0, 0, 0] += 1e-4 }
      try writer.add(entry.name, tensor)
    }
    try writer.write(to: folder("wrong.safetensors"))
    let command = try attend("check", "--forward", folder("wrong.safetensors"))
    #expect(command.status == 1)
    #expect(command.lines.first?.hasPrefix("FAIL  wrong  output") == true)
    #expect(command.lines.last == "0 passed, 1 failed")
  }

  @Test("a tolerance must be a finite number from 0", arguments: ["inf", "1e400", "nan", "abc", "", "-1"])
  func tolerances(text: String) throws {
    let file = try SafeTensorsFile(contentsOf: "\(Self.fixtures)/sdpa/single_key.safetensors")
    var writer = SafeTensorsWriter()
    writer.metadata = file.metadata
    writer.metadata["tolerance.output"] = text
    for entry in file.entries { try writer.add(entry.name, try file.tensor(entry.name, as: Float.self)) }
    try writer.write(to: folder("case.safetensors"))
    let command = try attend("check", "--forward", folder("case.safetensors"))
    #expect(command.status == 1)
    #expect(command.output.contains("tolerance.output: a finite number from 0 expected"), "\(command.output)")
  }

  @Test("hostile cases are failures with a reason, not crashes")
  func hostileCases() throws {
    func write(_ name: String, _ metadata: [String: String], _ tensors: [String: Tensor<Float>]) throws {
      var writer = SafeTensorsWriter()
      writer.metadata = metadata
      for (name, tensor) in tensors { try writer.add(name, tensor) }
      try writer.write(to: folder("\(name).safetensors"))
    }
    func zeros(_ shape: [Int]) throws -> Tensor<Float> { try Tensor(repeating: 0, shape: shape) }
    let long = try zeros([0, 1, 1 << 61, 1])
    try write("long", ["causal": "bottom_right"], ["query": long, "key": long, "value": long])
    try write(
      "narrow", ["num_heads": "2"],
      [
        "state.out_proj.weight": zeros([0, 0]), "state.in_proj_weight": zeros([2, 8]), "query": zeros([1, 2, 0]),
        "key": zeros([1, 2, 0]), "value": zeros([1, 2, 0]),
      ])
    try write(
      "scalar", ["num_heads": "2"],
      [
        "state.out_proj.weight": zeros([8, 8]), "state.q_proj_weight": zeros([8, 8]), "state.k_proj_weight": zeros([]),
        "state.v_proj_weight": zeros([8, 8]), "state.in_proj_bias": zeros([24]), "query": zeros([1, 2, 8]),
        "key": zeros([1, 2, 8]), "value": zeros([1, 2, 8]),
      ])
    try write("heads", ["num_heads": "99999999999999999999"], ["state.out_proj.weight": zeros([8, 8])])
    try write("rank", [:], ["query": zeros([3]), "key": zeros([3]), "value": zeros([3])])
    try write(
      "window", ["window": "1.5,2"],
      ["query": zeros([1, 1, 3, 4]), "key": zeros([1, 1, 3, 4]), "value": zeros([1, 1, 3, 4])])
    let command = try attend("check", "--forward", folder.path)
    #expect(command.lines.last == "0 passed, 6 failed", "\(command.output)")
    for name in ["long", "narrow", "scalar", "heads", "rank", "window"] {
      let result = try attend("compute", folder("\(name).safetensors"), "-o", folder("out"))
      #expect(result.status == 1 && result.output.isEmpty, "\(name): \(result.errors)")
    }
    #expect(try !folder.fileNames.contains("out"))
  }

  @Test("map draws weights that are NaN, and does not print the control characters in words")
  func hostileMap() throws {
    let layer = try SafeTensorsFile(contentsOf: Self.layer)
    var writer = SafeTensorsWriter()
    writer.metadata = ["num_heads": "12", "tokens": "a \u{1b}[31mred b"]
    for entry in layer.entries where entry.name.contains("projection") {
      try writer.add(entry.name, try layer.tensor(entry.name, as: Float.self))
    }
    try writer.add("input", Tensor<Float>(repeating: .nan, shape: [1, 3, 384]))
    try writer.write(to: folder("nan.safetensors"))
    let command = try attend("map", folder("nan.safetensors"), "--token", "b")
    #expect(command.status == 0, "\(command.errors)")
    #expect(!command.output.contains("\u{1b}"))
  }

  @Test("a case that is not supported counts as failed, with the reason")
  func unsupported() throws {
    var strange = SafeTensorsWriter()
    let layer = try SafeTensorsFile(contentsOf: "\(Self.fixtures)/mha/mha_self.safetensors")
    strange.metadata = layer.metadata
    for (name, tensor) in try layer.tensors(as: Float.self) { try strange.add(name, tensor) }
    try strange.add("grad.sinks", [1] as Tensor<Float>)
    try strange.write(to: folder("gradient.safetensors"))
    let gradients = try attend("check", folder("gradient.safetensors"))
    #expect(gradients.status == 1)
    #expect(gradients.output.contains("the gradient grad.sinks is not supported"))
    try FileManager.default.removeItem(atPath: folder("gradient.safetensors"))
    var writer = SafeTensorsWriter()
    try writer.add("in.Q", [1] as Tensor<Float>)
    try writer.write(to: folder("onnx.safetensors"))
    try Data("junk".utf8).write(to: URL(fileURLWithPath: folder("junk.safetensors")))
    let command = try attend("check", folder.path)
    #expect(command.lines.count == 3)
    #expect(command.lines.last == "0 passed, 2 failed")
    #expect(command.output.contains("op_type: Attention or RotaryEmbedding expected; got none"))
    #expect(command.output.contains("8 bytes of header length expected"))
  }

  @Test("--json prints the counts and the cases as JSON")
  func checkJSON() throws {
    let command = try attend("check", "--forward", "--json", "\(Self.fixtures)/mha")
    let summary = try json(command)
    #expect(summary["passed"] as? Int == 12)
    #expect(summary["failed"] as? Int == 0)
    #expect((summary["cases"] as? [[String: Any]])?.count == 12)
  }

  @Test("the error for an impossible instruction set, algorithm or thread count says what is possible")
  func absentPaths() throws {
    for (option, value, present) in [
      ("--isa", "sse9", "portable"), ("--algorithm", "fast", "openblas"), ("--algorithm", "amx", "packed"),
      ("--threads", "0", "from 1"), ("--threads", "x", "threads"),
    ] {
      let command = try attend("check", option, value, "\(Self.fixtures)/mha")
      #expect(command.status == 64)
      #expect(command.output.isEmpty)
      #expect(command.errors.contains(present), "\(command.errors)")
    }
    let wrong = try attend("check", "\(Self.fixtures)/mha", environment: ["ATTENTION_ISA": "sse9"])
    #expect(wrong.status == 1)
    #expect(
      wrong.errors.contains(
        "ATTENTION_ISA: one of portable, neon, avx2, avx512, avx512-bf16, amx expected; got \"sse9\""))
  }

  @Test("a path that does not exist is an error, and nothing is written", arguments: ["check", "compute", "map"])
  func missingPaths(command: String) throws {
    let arguments = [command, folder("missing")] + (command == "compute" ? ["-o", folder("out")] : [])
    let result = try Command("attend", arguments)
    #expect(result.status == 1)
    #expect(result.output.isEmpty)
    #expect(result.errors.contains("missing"))
    #expect(try folder.fileNames.isEmpty)
  }

  // MARK: compute

  @Test("compute writes what the case expects")
  func compute() throws {
    let path = "\(Self.fixtures)/sdpa/gqa.safetensors"
    let command = try attend("compute", path, "-o", folder("out.safetensors"))
    #expect(command.status == 0, "\(command.errors)")
    let expected = try SafeTensorsFile(contentsOf: path)
    let results = try SafeTensorsFile(contentsOf: folder("out.safetensors"))
    for name in ["output", "weights", "lse"] {
      let difference = mismatch(
        try results.tensor(name, as: Float.self).array,
        try expected.tensor(name, as: Float.self).array.map(Double.init),
        tolerance: 1e-5, name)
      #expect(difference == nil)
    }
    #expect(try folder.fileNames == ["out.safetensors"])
    let layer = try attend("compute", "\(Self.fixtures)/mha/mha_cross.safetensors", "-o", folder("layer.safetensors"))
    #expect(layer.output.contains("weights_averaged"))
  }

  @Test("compute leaves no file behind when it fails")
  func computeFails() throws {
    let source = try SafeTensorsFile(contentsOf: "\(Self.fixtures)/sdpa/softcap_small.safetensors")
    var writer = SafeTensorsWriter()
    writer.metadata = ["softcap": "-3"]
    for name in ["query", "key", "value"] { try writer.add(name, source.tensor(name, as: Float.self)) }
    let wrong = try TemporaryFolder()
    try writer.write(to: wrong("softcap.safetensors"))
    let softcap = try attend("compute", wrong("softcap.safetensors"), "-o", folder("out"))
    #expect(softcap.status == 1)
    #expect(softcap.errors.contains("a softcap that is positive and finite"))
    for target in ["", "\(folder.path)", "/dev/null"] {
      let refused = try attend("compute", "\(Self.fixtures)/sdpa/gqa.safetensors", "-o", target)
      #expect(refused.status == 1, "\(target): \(refused.output)")
    }
    let nowhere = try attend("compute", "\(Self.fixtures)/sdpa/gqa.safetensors", "-o", folder("no/such/folder/out"))
    #expect(nowhere.status == 1)
    #expect(nowhere.errors.contains("cannot be created"))
    #expect(try folder.fileNames.isEmpty)
  }

  // MARK: map

  @Test("map draws a sentence and agrees with the stored results")
  func map() throws {
    let command = try attend("map", Self.layer, "--token", "it")
    #expect(command.status == 0, "\(command.errors)")
    #expect(command.output.contains("mean over 12 heads"))
    #expect(command.output.contains("\"it\" looks at"))
    #expect(!command.output.contains("\u{1b}["), "no colours expected: the output is not a terminal")
    #expect(try attend("map", Self.layer, "--color").output.contains("\u{1b}[48;5;"))
    let picture = try json(attend("map", Self.layer, "--json", "--sentence", "2", "--head", "3"))
    let tokens = try #require(picture["rows"] as? [String])
    #expect(tokens == ["[CLS]", "attention", "is", "all", "you", "need", ".", "[SEP]"])
    let weights = try #require(picture["weights"] as? [[Double]])
    #expect(weights.count == 8 && weights.allSatisfy { $0.count == 8 && abs($0.reduce(0, +) - 1) < 1e-5 })
    let comparisons = try #require(picture["comparisons"] as? [[String: Any]])
    #expect(comparisons.compactMap { $0["name"] as? String } == ["context", "output", "weights"])
    #expect(comparisons.allSatisfy { ($0["error"] as? Double ?? 1) <= 1e-5 })
  }

  @Test("errors of map say which sentences, heads and tokens there are")
  func mapErrors() throws {
    for (arguments, message) in [
      (["--sentence", "4"], "from 0 to 3"), (["--sentence=-1"], "from 0 to 3"), (["--head", "12"], "from 0 to 11"),
      (["--token", "cat"], "animal"),
    ] {
      let command = try Command("attend", ["map", Self.layer] + arguments)
      #expect(command.status == 64)
      #expect(command.errors.contains(message), "\(command.errors)")
    }
    let other = try attend("map", "\(Self.fixtures)/sdpa/gqa.safetensors")
    #expect(other.status == 1)
  }

  // MARK: info and help

  @Test("info says what is used and why")
  func info() throws {
    let facts = try json(attend("info", "--json"))
    for key in ["version", "openblasConfiguration", "openblasCore", "openblasCoreReason", "isa", "threadsReason"] {
      #expect((facts[key] as? String)?.isEmpty == false, "\(key)")
    }
    let forced = try attend("info", environment: ["ATTENTION_NUM_THREADS": "3", "ATTENTION_ISA": "portable"])
    #expect(forced.output.contains("3 (ATTENTION_NUM_THREADS)"))
    #expect(forced.output.contains("portable (ATTENTION_ISA"))
    let found = try attend("info", environment: ["OPENBLAS_CORETYPE": "Prescott"])
    #expect(found.output.contains("OPENBLAS_CORETYPE is set"))
    let kept = try attend("info", environment: ["ATTENTION_OPENBLAS_KEEP_THREADS": "1"])
    #expect(kept.output.contains("left alone (ATTENTION_OPENBLAS_KEEP_THREADS)"))
  }

  @Test(
    "help and version",
    arguments: [
      ["--help"], ["check", "--help"], ["compute", "--help"], ["map", "--help"], ["info", "--help"], ["--version"],
    ])
  func help(arguments: [String]) throws {
    let command = try Command("attend", arguments)
    #expect(command.status == 0)
    #expect(!command.output.isEmpty)
    #expect(command.errors.isEmpty)
  }
}
