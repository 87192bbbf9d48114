import AttentionDrawing
import AttentionTestSupport
import Foundation
import Testing

#if canImport(FoundationXML)
  import FoundationXML
#endif

@Suite("Pictures")
struct PictureTests {
  private let folder: TemporaryFolder
  private let example = "\(packageFolder)/Examples/Data/minilm-layer0.safetensors"
  init() throws { folder = try TemporaryFolder() }

  /// Counts the elements of a document by name, and collects its text.
  private final class Elements: NSObject, XMLParserDelegate {
    var counts: [String: Int] = [:]
    var text = ""

    func parser(
      _: XMLParser, didStartElement name: String, namespaceURI _: String?, qualifiedName _: String?,
      attributes _: [String: String]
    ) { counts[name, default: 0] += 1 }

    func parser(_: XMLParser, foundCharacters characters: String) { text += characters }
  }

  private func elements(_ svg: String) throws -> Elements {
    let parser = XMLParser(data: Data(svg.utf8))
    let elements = Elements()
    parser.delegate = elements
    let isWellFormed = parser.parse()
    #expect(isWellFormed, "\(parser.parserError.map { "\($0)" } ?? "")")
    return elements
  }

  @Test("attend map --svg draws a cell for each pair of words, with its weight")
  func heatMap() throws {
    let command = try Command(
      "attend", ["map", example, "--head", "2", "--sentence", "2", "--svg", folder("map.svg")])
    #expect(command.status == 0, "\(command.errors)")
    #expect(command.output.contains("written to \(folder("map.svg"))"))
    let elements = try elements(String(contentsOfFile: folder("map.svg"), encoding: .utf8))
    // The rectangles are a frame and a weight for each of 8 × 8 pairs of tokens, 40 steps of the legend, and the
    // background.
    #expect(elements.counts["rect"] == 2 * 64 + 40 + 1)
    #expect(elements.text.contains("attention → "))
    #expect(elements.text.contains("Head 2 of 0 to 11"))
  }

  @Test("attend map --html writes one page, which has every sentence and loads no other file")
  func page() throws {
    let command = try Command(
      "attend", ["map", example, "--token", "it", "--svg", folder("m.svg"), "--html", folder("m.html")])
    #expect(command.status == 0, "\(command.errors)")
    let page = try String(contentsOfFile: folder("m.html"), encoding: .utf8)
    let data = try #require(
      page.components(separatedBy: "application/json\">").last?.components(separatedBy: "</script>")[0])
    let content = try #require(try JSONSerialization.jsonObject(with: Data(data.utf8)) as? [String: Any])
    let sentences = try #require(content["sentences"] as? [[String: Any]])
    #expect(sentences.count == 4)
    #expect((sentences[0]["layers"] as? [[[[Double]]]])?[0].count == 12)
    #expect(content["token"] as? Int == 10)
    for outside in ["src=", "href=", "url(", "@import", "fetch("] { #expect(!page.contains(outside), "\(outside)") }
    #expect(!page.contains("/*DATA*/"))
  }

  @Test("words that look like markup are shown as text")
  func hostileWords() throws {
    let word = "</script><b>&\"'\u{1}"
    let svg = HeatMapPicture(title: word, rows: [word], columns: [word], weights: [[.nan]]).svg
    #expect(try elements(svg).counts["b"] == nil)
    #expect(!svg.contains("<b>"))
    var layer = try Data(contentsOf: URL(fileURLWithPath: example))
    // The new text is as long as the text that it replaces, so that the header of the file stays valid.
    let range = try #require(layer.range(of: Data("attention is all you need".utf8)))
    layer.replaceSubrange(range, with: Data("a </script> b c ddddddddd".utf8))
    let path = try folder.write(Array(layer), to: "hostile.safetensors")
    #expect(try Command("attend", ["map", path, "--html", folder("hostile.html")]).status == 0)
    let page = try String(contentsOfFile: folder("hostile.html"), encoding: .utf8)
    #expect(page.components(separatedBy: "</script>").count == 3)
    #expect(page.contains("\\u003c"))
  }

  @Test("a path that cannot be written is an error, and leaves nothing behind")
  func unwritable() throws {
    let command = try Command("attend", ["map", example, "--svg", folder("no/such/folder.svg")])
    #expect(command.status == 1)
    #expect(command.errors.contains("no/such/folder.svg"))
    for same in [["--svg", folder("x"), "--html", folder("x")], ["--svg", example], ["--html", example]] {
      #expect(try Command("attend", ["map", example] + same).status == 64)
    }
    #expect(try Command("attend", ["map", example, "--head", "12", "--html", folder("x.html")]).status == 64)
    #expect(try folder.fileNames.isEmpty)
  }

  @Test("files without words get numbers; a number of words other than the number of keys is an error")
  func words() throws {
    func rows(_ name: String) throws -> [String: Any] {
      let command = try Command("attend", ["map", "\(packageFolder)/Tests/Fixtures/mha/\(name).safetensors", "--json"])
      #expect(command.status == 0, "\(command.errors)")
      return try #require(try JSONSerialization.jsonObject(with: Data(command.output.utf8)) as? [String: Any])
    }
    let own = try rows("mha_self")
    #expect((own["rows"] as? [String])?.prefix(3) == ["0", "1", "2"])
    #expect(own["rows"] as? [String] == own["columns"] as? [String])
    let cross = try rows("mha_cross")
    #expect((cross["rows"] as? [String])?.count != (cross["columns"] as? [String])?.count)
    let added = try rows("mha_zero_attn")
    #expect((added["columns"] as? [String])?.last == "(added)")
    for file in [own, cross, added] {
      let weights = try #require(file["weights"] as? [[Double]])
      #expect(weights.count == (file["rows"] as? [String])?.count)
      // Each row sums to 1, so no column is missing.
      for row in weights { #expect(abs(row.reduce(0, +) - 1) < 1e-4) }
    }

    var layer = try Data(contentsOf: URL(fileURLWithPath: example))
    // The new text is as long as the text that it replaces, but has one word fewer.
    let range = try #require(layer.range(of: Data("attention is all".utf8)))
    layer.replaceSubrange(range, with: Data("attention_is all".utf8))
    let command = try Command("attend", ["map", folder.write(Array(layer), to: "few.safetensors")])
    #expect(command.status == 1)
    #expect(command.errors.contains("16 words in line 2 expected"), "\(command.errors)")
  }

  #if os(Linux)
    @Test("output that cannot be written is an error", arguments: [["attend", "map"], ["attention-runner"]])
    func fullDisk(command: [String]) throws {
      let arguments = Array(command.dropFirst()) + (command.count > 1 ? [example] : [])
      let full = try Command.shell(
        "exec \"$0\" \"$@\" > /dev/full", command[0], arguments, input: #"{"op":"sdpa","queries":4}"# + "\n")
      #expect(full.status == 1)
      #expect(full.errors.contains("standard output"), "\(full.errors)")
    }
  #endif

  @Test("empty and unusual charts are well-formed documents")
  func charts() throws {
    for (values, notes) in [([nil], ["not yet"]), ([0], ["0"]), ([.nan], [""]), ([1e300], ["much"])]
      as [([Double?], [String])]
    {
      let chart = BarChart(
        title: "<t>", subtitle: "s & s", series: ["one"], mark: BarChart.Mark(value: 1, label: "<"),
        groups: [BarChart.Group(label: "a", values: values, notes: notes)])
      #expect(try elements(chart.svg).counts["svg"] == 1)
    }
    _ = try elements(BarChart(title: "", subtitle: "", series: [], mark: nil, groups: []).svg)
    _ = try elements(HeatMapPicture(title: "", rows: [], columns: [], weights: []).svg)
  }
}
