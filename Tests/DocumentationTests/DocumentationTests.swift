import AttentionTestSupport
import Foundation
import Testing

/// Checks that the examples in the articles are compiled and run: a file of this folder must contain every block of
/// Swift code, line for line. ``ReadmeTests`` compiles the README's blocks without changes.
@Suite("Documentation")
struct DocumentationTests {
  private static let documents: [String] = {
    let names = FileManager.default.enumerator(atPath: "\(packageFolder)/Sources")?.compactMap { $0 as? String } ?? []
    return names.filter { $0.contains(".docc/") && $0.hasSuffix(".md") }.sorted().map { "Sources/\($0)" }
  }()

  /// The lines of `text` without indentation. Blank lines are left out, and so are imports, because a test file has its
  /// imports at the top.
  private static func lines(_ text: some StringProtocol) -> [String] {
    text.split(separator: "\n").map { $0.trimmingCharacters(in: .whitespaces) }
      .filter { !$0.isEmpty && !$0.hasPrefix("import ") }
  }

  private static let compiled: String = {
    let folder = "\(packageFolder)/Tests/DocumentationTests"
    let names = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
    let sources = names.compactMap { try? String(contentsOfFile: "\(folder)/\($0)", encoding: .utf8) }
    return "\n" + sources.flatMap(lines).joined(separator: "\n") + "\n"
  }()

  @Test("every example in an article is compiled", arguments: documents)
  func examples(path: String) throws {
    let text = try String(contentsOfFile: "\(packageFolder)/\(path)", encoding: .utf8)
    for block in text.components(separatedBy: "```swift\n").dropFirst() {
      let code = Self.lines(block.components(separatedBy: "```")[0])
      let isCompiled = Self.compiled.contains("\n" + code.joined(separator: "\n") + "\n")
      #expect(isCompiled, "\(path) has an example that no test compiles:\n\(code.joined(separator: "\n"))")
    }
  }

  @Test("there are articles, and they have examples")
  func present() throws {
    #expect(Self.documents.count >= 7)
    let texts = try Self.documents.map { try String(contentsOfFile: "\(packageFolder)/\($0)", encoding: .utf8) }
    #expect(texts.reduce(0) { $0 + $1.components(separatedBy: "```swift\n").count - 1 } >= 20)
  }
}
