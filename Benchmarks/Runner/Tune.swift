import ArgumentParser
import AttentionTensors
import Foundation

struct Tune: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Sweep the constants of plans, and print each value's time over the chosen one's.",
    discussion: """
      All values of a constant take turns on the same inputs, round by round; the median of the rounds' ratios counts. \
      Below 1 is faster than what is chosen. Noise on a shared machine is 1 to 2 percent.
      """)

  @Argument(help: ArgumentHelp("Constants by name (default: all).", valueName: "constant"))
  var names: [String] = []

  @Option(help: ArgumentHelp("Threads at most (default: CPUs that this process may use).", valueName: "count"))
  var threads: Int?

  @Option(help: ArgumentHelp("Rounds.", valueName: "count"))
  var rounds = 7

  /// One constant, the values to try, and the problems in which it matters.
  private struct Sweep {
    let name: String
    let field: any WritableKeyPath<Tuning, Int> & Sendable
    let values: [Int]
    let problems: [(name: String, request: String)]
  }

  private static let sweeps = [
    Sweep(
      name: "rowTarget", field: \.rowTarget, values: [96, 192, 288, 384, 576, 768],
      problems: [
        attention("L512", heads: 12, 512, 64), attention("L4096", heads: 8, 4096, 64),
        attention("L2048 E128 causal", heads: 8, 2048, 128, #","mask":"causal""#),
        attention("L1024 E1024", heads: 2, 1024, 1024),
      ]),
    Sweep(
      name: "farRowByteCount", field: \.farRowByteCount, values: [2048, 4096, 8192, 1 << 30],
      problems: [
        layer("d384 L512", heads: 6, 512), layer("d768 L512", heads: 12, 512), layer("d1024 L1024", heads: 16, 1024),
      ]),
    Sweep(
      name: "leastPackedRowCount", field: \.leastPackedRowCount, values: [48, 96, 192, 384],
      problems: [
        layer("B8 d384 L128", batch: 8, heads: 6, 128), layer("B4 d768 L128", batch: 4, heads: 12, 128),
        layer("d768 L256", heads: 12, 256), layer("d1024 L256", heads: 16, 256),
      ]),
    Sweep(
      name: "keyTileByteCount", field: \.keyTileByteCount, values: [256, 512, 1024, 2048, 4096],
      problems: [
        attention("L512", heads: 12, 512, 64), attention("L4096", heads: 8, 4096, 64),
        attention("L4096 causal", heads: 8, 4096, 64, #","mask":"causal""#),
        attention("L1024 E256", heads: 8, 1024, 256), attention("L2048 bias", heads: 8, 2048, 64, #","mask":"bias""#),
      ]),
    Sweep(
      name: "headTurnByteCount", field: \.headTurnByteCount, values: [0, 2 << 20, 4 << 20, 16 << 20],
      problems: [
        attention("L1024 bias", heads: 16, 1024, 64, #","mask":"bias""#),
        attention("L2048 bias", heads: 8, 2048, 64, #","mask":"bias""#),
        attention("L2048 E128 bias", heads: 16, 2048, 128, #","mask":"bias""#),
        attention("L2048 boolean", heads: 8, 2048, 64, #","mask":"boolean""#),
      ]),
    Sweep(
      name: "taskTarget", field: \.taskTarget, values: [4, 8, 16, 32],
      problems: [
        attention("H2 L512", heads: 2, 512, 64), attention("H1 L2048", heads: 1, 2048, 64),
        decoding("H8/8 S8192", heads: 8, 8, 8192), decoding("H32/8 S4096", heads: 32, 8, 4096),
      ]),
    Sweep(
      name: "fewRowSplitLength", field: \.fewRowSplitLength, values: [256, 512, 1024, 2048],
      problems: [
        decoding("H1/1 S8192", heads: 1, 1, 8192), decoding("H8/2 S4096", heads: 8, 2, 4096),
        decoding("H32/8 S1024", heads: 32, 8, 1024),
      ]),
    Sweep(
      name: "splitLength", field: \.splitLength, values: [512, 1024, 2048, 4096, 8192],
      problems: [
        attention("L4096", heads: 8, 4096, 64), attention("H1 L4096", heads: 1, 4096, 64),
        attention("L4096 causal", heads: 8, 4096, 64, #","mask":"causal""#),
      ]),
    Sweep(
      name: "fewRowDivisor", field: \.fewRowDivisor, values: [16, 4, 3, 2, 1],
      problems: [
        decoding("1 row", heads: 8, 8, 2048), decoding("4 rows", heads: 32, 8, 2048),
        decoding("6 rows", heads: 48, 8, 2048), decoding("8 rows", heads: 64, 8, 2048),
        decoding("12 rows", heads: 96, 8, 2048),
      ]),
    Sweep(
      name: "blockLength", field: \.blockLength, values: [32, 64, 128],
      problems: [
        attention("L4096 causal", heads: 8, 4096, 64, #","mask":"causal","algorithm":"openblas""#),
        attention("L512 causal", heads: 12, 512, 64, #","mask":"causal","algorithm":"openblas""#),
      ]),
    Sweep(
      name: "depthLimit", field: \.depthLimit, values: [128, 256, 512, 1024],
      problems: [
        product("2048³", 2048, 2048, 2048), product("512 × 2304 × 768", 512, 2304, 768),
        product("1024 × 64 × 1024", 1024, 64, 1024),
      ]),
    Sweep(
      name: "unpackedRowLimit", field: \.unpackedRowLimit, values: [0, 8, 16, 32, 64],
      problems: [
        product("16 × 64 × 64", 16, 64, 64, count: 500), product("32 × 1024 × 1024", 32, 1024, 1024),
        product("48 × 512 × 512", 48, 512, 512, count: 8),
      ]),
  ]

  private static func attention(
    _ name: String, heads: Int, _ length: Int, _ width: Int, _ more: String = ""
  ) -> (String, String) {
    (name, #"{"op":"sdpa","heads":\#(heads),"queries":\#(length),"width":\#(width)\#(more)}"#)
  }

  private static func layer(_ name: String, batch: Int = 1, heads: Int, _ length: Int) -> (String, String) {
    (name, #"{"op":"mha","batch":\#(batch),"heads":\#(heads),"queries":\#(length),"width":64}"#)
  }

  private static func decoding(
    _ name: String, heads: Int, _ keyValueHeads: Int, _ keys: Int
  ) -> (String, String) {
    (name, #"{"op":"sdpa","heads":\#(heads),"kv_heads":\#(keyValueHeads),"queries":1,"keys":\#(keys),"width":128}"#)
  }

  private static func product(
    _ name: String, _ rows: Int, _ columns: Int, _ depth: Int, count: Int = 1
  ) -> (String, String) {
    (
      name,
      #"{"op":"batched_gemm","batch":\#(count),"queries":\#(rows),"keys":\#(depth),"width":\#(columns)}"#
    )
  }

  func run() throws {
    guard rounds >= 1 else { throw ValidationError("--rounds: a number from 1 expected; got \(rounds)") }
    if let threads, threads < 1 { throw ValidationError("--threads: a number from 1 expected; got \(threads)") }
    let known = Self.sweeps.map(\.name)
    let unknown = names.filter { !known.contains($0) }
    guard unknown.isEmpty else {
      throw ValidationError(
        "\(unknown.joined(separator: ", ")): no constant; there are \(known.joined(separator: ", "))")
    }
    for sweep in Self.sweeps where names.isEmpty || names.contains(sweep.name) {
      let chosen = Tuning()[keyPath: sweep.field]
      print(
        "\n" + columns(sweep.name, sweep.values.map { "\($0)\($0 == chosen ? "*" : "")" }))
      for (name, text) in sweep.problems {
        let ratios = try ratios(sweep, chosen, JSONDecoder().decode(Request.self, from: Data(text.utf8)))
        print(columns("  " + name, ratios.map { String(format: "%.3f", $0) }))
      }
    }
    print("\n* chosen")
  }

  private func columns(_ name: String, _ cells: [String]) -> String {
    tableLine([name] + cells, widths: [-20] + cells.map { _ in 7 })
  }

  /// The time with each value, divided by the time with the chosen value.
  private func ratios(_ sweep: Sweep, _ chosen: Int, _ request: Request) throws -> [Double] {
    let workload = try Workload(request)
    func seconds(_ value: Int, iterations: Int) throws -> Double {
      var context = AttentionContext(request)
      context.threadCount = AttentionContext(threadCount: threads).threadCount
      context.tuning[keyPath: sweep.field] = value
      return median(try workload.seconds(request.algorithm, context, iterations: iterations))
    }
    let iterations = max(3, min(500, Int(0.03 / (try seconds(chosen, iterations: 3)))))
    let perRound = try (0..<rounds).map { _ in
      let base = try seconds(chosen, iterations: iterations)
      return try sweep.values.map { try seconds($0, iterations: iterations) / base }
    }
    return sweep.values.indices.map { index in median(perRound.map { $0[index] }) }
  }
}
