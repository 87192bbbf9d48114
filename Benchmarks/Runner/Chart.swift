import ArgumentParser
import AttentionDrawing
import AttentionFiles
import Foundation

struct Chart: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Draw bars as SVG, from JSON on standard input.",
    discussion: """
      {"title":"…","subtitle":"…","series":["ours"],"mark":{"value":1,"label":"PyTorch"},
       "groups":[{"label":"long-4k","values":[0.5],"notes":["0.50"]}]}
      Each group has a value (null: no bar) and a note for each series.
      """)

  @Option(name: .shortAndLong, help: ArgumentHelp("Where the picture goes.", valueName: "out"))
  var output: String

  func run() throws {
    let input = try FileHandle.standardInput.readToEnd() ?? Data()
    let chart: BarChart
    do { chart = try JSONDecoder().decode(BarChart.self, from: input) } catch {
      throw ValidationError("a chart as --help shows it expected on standard input: \(describe(error))")
    }
    guard chart.series.count <= BarChart.seriesLimit else {
      throw ValidationError("\(BarChart.seriesLimit) series at most expected; got \(chart.series.count)")
    }
    for group in chart.groups where group.values.count != chart.series.count || group.notes.count != chart.series.count
    {
      throw ValidationError(
        "a value and a note for each of \(chart.series.count) series expected; \"\(group.label)\" has "
          + "\(group.values.count) and \(group.notes.count)")
    }
    try write(chart.svg, to: output)
  }
}

/// Writes a file completely or not at all.
func write(_ text: String, to path: String) throws {
  try writeAtomically(to: path) { append in try Array(text.utf8).withUnsafeBytes { try append($0) } }
}
