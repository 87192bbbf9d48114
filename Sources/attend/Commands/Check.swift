import ArgumentParser
import Attention
import AttentionCases
import AttentionFiles
import Foundation

struct Check: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Run conformance cases and compare with their expected results.",
    discussion: """
      Each case is one safetensors file; its form is told by its tensors' names. A case that is not supported \
      counts as failed, with the reason. The last line counts: N passed, M failed.
      """)

  @Argument(help: ArgumentHelp("Case files, or folders of them.", valueName: "path"))
  var paths: [String]

  @Flag(help: "Leave gradients out.")
  var forward = false

  @Flag(help: "Print JSON instead of lines.")
  var json = false

  @OptionGroup var options: ContextOptions

  private struct Report: Encodable {
    let path: String
    let passed: Bool
    var comparisons: [Comparison] = []
    var reason: String?
  }

  private struct Summary: Encodable {
    let cases: [Report]
    let passed: Int
    let failed: Int
  }

  func run() throws {
    let context = try options.context()
    let files = try paths.flatMap(caseFiles)
    let width = files.map { name($0).count }.max() ?? 0
    var reports: [Report] = []
    for file in files {
      let report = check(file, context)
      reports.append(report)
      if !json { print(line(report, width: width)) }
    }
    let passed = reports.count(where: \.passed)
    if json {
      try printJSON(Summary(cases: reports, passed: passed, failed: reports.count - passed))
    } else {
      print("\(passed) passed, \(reports.count - passed) failed")
    }
    if passed < reports.count { throw ExitCode.failure }
  }

  private func check(_ path: String, _ context: AttentionContext) -> Report {
    do {
      let file = try SafeTensorsFile(contentsOf: path)
      let testCase = try openCase(file)
      let comparisons = try testCase.compare(with: file, includingGradients: !forward, context: context)
      guard !comparisons.isEmpty else { throw AttentionError(.invalidFile, path, "it holds no expected result") }
      return Report(path: path, passed: comparisons.allSatisfy(\.passes), comparisons: comparisons)
    } catch {
      // The report already names the path, so an error about that path is shown without it.
      let known = error as? AttentionError
      return Report(path: path, passed: false, reason: known?.subject == path ? known?.message : "\(error)")
    }
  }

  private func line(_ report: Report, width: Int) -> String {
    let head = "\(report.passed ? "PASS" : "FAIL")  \(name(report.path).padded(to: width))  "
    if let reason = report.reason { return head + reason.printable }
    // The error as a share of its tolerance; the result with the largest share is shown.
    func share(_ comparison: Comparison) -> Double {
      comparison.error / max(comparison.tolerance, .leastNormalMagnitude)
    }
    let worst = report.comparisons.max { share($0) < share($1) }!
    return head
      + "\(worst.name.padded(to: 16)) error \(scientific(worst.error)), tolerance \(scientific(worst.tolerance))"
  }

  private func name(_ path: String) -> String {
    URL(fileURLWithPath: path).deletingPathExtension().lastPathComponent.printable
  }
}

/// The path itself if it is a file; for a folder, the safetensors files at any depth in it, in order.
private func caseFiles(_ path: String) throws -> [String] {
  var isFolder: ObjCBool = false
  guard FileManager.default.fileExists(atPath: path, isDirectory: &isFolder) else {
    throw AttentionError(.notFound, path, "no such file or folder")
  }
  if !isFolder.boolValue { return [path] }
  let names = FileManager.default.enumerator(atPath: path)?.compactMap { $0 as? String } ?? []
  let files = names.filter { $0.hasSuffix(".safetensors") }.sorted().map { "\(path)/\($0)" }
  if files.isEmpty { throw AttentionError(.notFound, path, "no safetensors file in this folder") }
  return files
}
