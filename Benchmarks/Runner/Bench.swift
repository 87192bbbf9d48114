import ArgumentParser
import Attention
import AttentionDrawing
import AttentionTensors
import Foundation

struct Bench: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Measure the workloads, beside unfused attention and the plain formula.",
    discussion: """
      Unfused attention keeps the whole matrix of scores: the same products, softmax kernels and threads, without the \
      fusion. It alternates with the library round by round; medians count. The plain formula runs on a part of the problem, \
      and its time is scaled up. Percent is of the FMA peak of all threads, measured in this run; for rows that \
      decode, of the rate at which threads read the same memory and do nothing else.
      """)

  @Argument(help: ArgumentHelp("Workloads by name (default: all).", valueName: "workload"))
  var names: [String] = []

  @Option(help: ArgumentHelp("Threads at most (default: CPUs that this process may use).", valueName: "count"))
  var threads: Int?

  @Option(help: ArgumentHelp("Rounds.", valueName: "count"))
  var rounds = 7

  @Flag(help: "Print JSON instead of a table.")
  var json = false

  @Option(help: ArgumentHelp("Also draw the rates as a bar chart.", valueName: "out"))
  var svg: String?

  private struct Entry: Decodable {
    let name: String
    let about: String
    let request: Request?
    /// The reason why the runner cannot measure the workload; nil if it can.
    let refusal: String?
    /// True if the workload compares this library with itself on a changed request; such workloads are left out here.
    let isOwn: Bool

    private enum CodingKeys: String, CodingKey { case name, about, request, peer }

    init(from decoder: any Decoder) throws {
      let fields = try decoder.container(keyedBy: CodingKeys.self)
      name = try fields.decode(String.self, forKey: .name)
      about = try fields.decode(String.self, forKey: .about)
      isOwn = fields.contains(.peer)
      do {
        request = try fields.decode(Request.self, forKey: .request)
        refusal = nil
      } catch let error as AttentionError {
        request = nil
        refusal = error.message
      }
    }
  }

  private struct Row: Encodable {
    let name: String
    let about: String
    var milliseconds: Double?
    var gflops: Double?
    var shareOfPeak: Double?
    var readGBps: Double?
    var shareOfBandwidth: Double?
    var unfusedMilliseconds: Double?
    var naiveMilliseconds: Double?
    var note: String?
  }

  private struct Report: Encodable {
    let machine: Machine
    let threads: Int
    let rows: [Row]
  }

  func run() throws {
    guard rounds >= 1 else { throw ValidationError("--rounds: a number from 1 expected; got \(rounds)") }
    if let threads, threads < 1 { throw ValidationError("--threads: a number from 1 expected; got \(threads)") }
    let all = try JSONDecoder().decode([Entry].self, from: Data(PackageResources.workloads_json))
      .filter { !$0.isOwn }
    let unknown = names.filter { name in !all.contains { $0.name == name } }
    guard unknown.isEmpty else {
      throw ValidationError(
        "\(unknown.joined(separator: ", ")): not a workload; there are \(all.map(\.name).joined(separator: ", "))")
    }
    let entries = all.filter { names.isEmpty || names.contains($0.name) }
    progress("the machine")
    let machine = try Machine.measure(threads: threads)
    let context = AttentionContext(threadCount: threads)
    if !json { printHead(machine, context) }
    let rows = try entries.map { entry in
      progress(entry.name)
      let row = try measure(entry, machine, context)
      if !json { print(line(row)) }
      return row
    }
    progress(nil)
    if json {
      let encoder = JSONEncoder()
      encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
      print(
        String(
          decoding: try encoder.encode(Report(machine: machine, threads: context.threadCount, rows: rows)),
          as: UTF8.self))
    }
    if let svg {
      try write(chart(rows, machine, context).svg, to: svg)
      if !json { print("\nchart written to \(svg)") }
    }
  }

  /// Shows what is being measured, in a line that is overwritten, if standard error is a terminal.
  private func progress(_ what: String?) {
    guard isatty(STDERR_FILENO) == 1 else { return }
    FileHandle.standardError.write(Data("\r\u{1b}[K\(what.map { "measuring \($0) …\r" } ?? "")".utf8))
  }

  // MARK: Measuring

  private func measure(_ entry: Entry, _ machine: Machine, _ context: AttentionContext) throws -> Row {
    var row = Row(name: entry.name, about: entry.about)
    guard var request = entry.request else {
      row.note = "not yet: \(entry.refusal!)"
      return row
    }
    request.threads = context.threadCount
    let isDecoding = request.op == .sdpa && request.queries == 1
    if isDecoding { request.rotation = request.rotationBeyond(machine.lastLevelCacheByteCount) }
    let workload = try Workload(request)
    let scoreCount = request.batch * request.heads * request.queries * request.keys
    let hasBaselines = request.op == .sdpa && request.pass == .forward
    let hasUnfused = hasBaselines && scoreCount <= UnfusedAttention<Float>.scoreLimit

    // The first call of each implementation allocates memory that its later calls reuse.
    if hasUnfused { _ = try workload.seconds(.unfused, context, iterations: 1) }
    // A round is long enough to be timed, and short enough for the implementations to take turns often.
    let once = median(try workload.seconds(.library(nil), context, iterations: 3))
    let iterations = max(request.rotation, 3, min(200, Int(0.05 / once)))
    var ours: [Double] = []
    var unfused: [Double] = []
    var readRates: [Double] = []
    /// The median time of several calls. The first call is left out, because the CPU's cache may then still hold the
    /// data of the other implementation.
    func round(_ algorithm: Request.Algorithm) throws -> Double {
      Thread.sleep(forTimeInterval: 0.02)
      return median(Array(try workload.seconds(algorithm, context, iterations: iterations + 1).dropFirst()))
    }
    for _ in 0..<rounds {
      ours.append(try round(.library(nil)))
      if hasUnfused { unfused.append(try round(.unfused)) }
      if isDecoding { readRates.append(workload.readRate(context)) }
    }
    let seconds = median(ours)
    row.milliseconds = seconds * 1e3
    row.gflops = workload.operationCount / seconds * 1e-9
    // A vector holds half as many Doubles as Floats, so the peak for Double is half as high.
    row.shareOfPeak = row.gflops! / (machine.fmaPeakAllGflops / (request.dtype == .f64 ? 2 : 1))
    if isDecoding {
      row.readGBps = Double(workload.keyValueByteCount) / seconds * 1e-9
      row.shareOfBandwidth = row.readGBps! / median(readRates)
    }
    if hasUnfused { row.unfusedMilliseconds = median(unfused) * 1e3 }
    if hasBaselines { row.naiveMilliseconds = try naiveSeconds(request, workload) * 1e3 }
    return row
  }

  /// The time of the plain formula, scaled up from a part of the problem that takes about a tenth of a second.
  private func naiveSeconds(_ request: Request, _ workload: Workload) throws -> Double {
    let part = request.part(operationLimit: 1e8)
    let small = try Workload(part)
    let context = AttentionContext(threadCount: 1)
    let seconds = median(try small.seconds(.naive, context, iterations: 3))
    return seconds * workload.operationCount / small.operationCount
  }

  // MARK: Showing

  private func printHead(_ machine: Machine, _ context: AttentionContext) {
    print(
      "\(machine.cpu), OpenBLAS \(machine.openblasVersion) \(machine.openblasCore), \(machine.isa), "
        + "\(context.threadCount) threads; FMA peak \(whole(machine.fmaPeakGflops)) GFLOP/s on one thread, "
        + "\(whole(machine.fmaPeakAllGflops)) on all, "
        + "sgemm 2048³ \(whole(100 * machine.sgemmShareOfPeak)) % of it, memory read at \(whole(machine.readRamGBps)) GB/s\n"
    )
    print(
      columns("workload", "ms", "GFLOP/s", "% of peak", "unfused ms", "slower by", "plain formula ms", "slower by", ""))
  }

  private func columns(_ cells: String...) -> String {
    tableLine(cells, widths: [-15, 10, 9, 11, 12, 10, 18, 10, 0])
  }

  private func line(_ row: Row) -> String {
    guard let milliseconds = row.milliseconds else { return columns(row.name, "–") + "  \(row.note ?? "")" }
    func times(_ other: Double?) -> String { other.map { "\(shortened($0 / milliseconds)) ×" } ?? "–" }
    let share = row.shareOfBandwidth.map { "\(whole(100 * $0)) read" } ?? whole(100 * row.shareOfPeak!)
    return columns(
      row.name, shortened(milliseconds), whole(row.gflops!), share, row.unfusedMilliseconds.map(shortened) ?? "–",
      times(row.unfusedMilliseconds), row.naiveMilliseconds.map { "~\(shortened($0))" } ?? "–",
      times(row.naiveMilliseconds), "  \(row.about)")
  }

  private func whole(_ value: Double) -> String { String(format: "%.0f", value) }
  private func shortened(_ value: Double) -> String { String(format: value < 10 ? "%.3f" : "%.1f", value) }

  private func chart(_ rows: [Row], _ machine: Machine, _ context: AttentionContext) -> BarChart {
    let drawn = rows.filter { $0.unfusedMilliseconds != nil || $0.milliseconds == nil }
    return BarChart(
      title: "Attention, GFLOP/s",
      subtitle: "\(machine.cpu), \(context.threadCount) threads, \(machine.isa), OpenBLAS \(machine.openblasVersion)",
      series: ["fused", "unfused: the whole matrix of scores through GEMM"],
      mark: BarChart.Mark(value: machine.fmaPeakAllGflops, label: "FMA peak \(whole(machine.fmaPeakAllGflops))"),
      groups: drawn.map { row in
        let unfused = row.unfusedMilliseconds.map { row.gflops! * row.milliseconds! / $0 }
        return BarChart.Group(
          label: row.name, values: [row.gflops, unfused],
          notes: row.gflops == nil ? ["not yet", ""] : [whole(row.gflops!), unfused.map(whole) ?? ""])
      })
  }
}

extension Request {
  /// The number of pairs of a key and a value tensor that together exceed a cache of `byteCount` bytes.
  func rotationBeyond(_ byteCount: Int) -> Int {
    let pair = 4 * batch * keyValueHeads * keys * (width + valueWidth)
    return byteCount / max(pair, 1) + 2
  }

  /// The same request with a smaller batch and fewer heads, queries and keys, so that it takes at most `operationLimit`
  /// operations.
  func part(operationLimit: Double) -> Request {
    var part = self
    func operations() -> Double {
      2 * Double(part.batch * part.heads) * Double(part.queries) * Double(part.keys)
        * Double(part.width + part.valueWidth)
    }
    part.rotation = 1
    let group = heads / keyValueHeads
    while operations() > operationLimit {
      if part.batch > 1 {
        part.batch = 1
      } else if part.keyValueHeads > 1 {
        (part.heads, part.keyValueHeads) = (group, 1)
      } else if part.queries == part.keys {
        part.queries = max(1, part.queries / 2)
        part.keys = part.queries
        part.window = part.window.map { max(1, $0 / 2) }
      } else {
        part.keys = max(1, part.keys / 2)
      }
    }
    return part
  }
}
