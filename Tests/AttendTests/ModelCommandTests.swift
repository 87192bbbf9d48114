import AttentionFiles
import AttentionTensors
import AttentionTestSupport
import Foundation
import Testing

@Suite("attend with a model")
struct ModelCommandTests {
  static let model = "\(packageFolder)/Tests/Fixtures/bert/tiny"
  private let folder: TemporaryFolder
  init() throws { folder = try TemporaryFolder() }

  private func attend(_ command: String, _ arguments: String..., input: String = "") throws -> Command {
    try Command("attend", [command, "--model", Self.model] + arguments, input: input)
  }

  private func objects(_ command: Command) throws -> [[String: Any]] {
    try command.lines.map { line in
      try #require(try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any])
    }
  }

  private func lines(_ texts: [String], _ name: String = "texts.txt") throws -> String {
    try folder.write(Array((texts.joined(separator: "\n") + "\n").utf8), to: name)
  }

  @Test("texts come from arguments, files and standard input, and give the same vectors")
  func embed() throws {
    let texts = ["a good man", "", "she walks in the rain, and he is happy!"]
    let byArguments = try attend("embed", "--json", texts[0], texts[1], texts[2])
    #expect(byArguments.status == 0, "\(byArguments.errors)")
    #expect(try attend("embed", "--json", "--file", lines(texts)).output == byArguments.output)
    #expect(try attend("embed", "--json", input: texts.joined(separator: "\r\n")).output == byArguments.output)
    let answers = try objects(byArguments)
    #expect(answers.map { $0["text"] as? String } == texts)
    for answer in answers {
      let vector = try #require(answer["embedding"] as? [Double])
      #expect(vector.count == 48 && abs(vector.reduce(0) { $0 + $1 * $1 } - 1) < 1e-5)
    }
    // Nothing on standard error, which is no terminal here.
    #expect(byArguments.errors.isEmpty)
    #expect(try attend("embed", "--json", "--file", folder.write([], to: "none.txt")).output.isEmpty)
  }

  @Test("a file of vectors is one that search reads, and that of an index alike")
  func search() throws {
    let texts = ["the rain", "", "a single man of large fortune", "her sister", "a letter to the house"]
    let written = try attend("embed", "--file", lines(texts), "--output", folder("vectors.safetensors"))
    #expect(written.status == 0 && written.output.contains("5 vectors of 48 written"))
    let file = try SafeTensorsFile(path: folder("vectors.safetensors"))
    #expect(try file.tensor("vectors", as: Float.self).shape == [5, 48])

    let saved = try attend("search", lines(texts), "--save", folder("lines.index"))
    #expect(saved.status == 0 && saved.output.contains("index of 4 lines written"), "\(saved.errors)")
    let found = try attend(
      "search", folder("lines.index"), "a letter to the house", "her sister", "--top", "2", "--json")
    let answers = try objects(found)
    #expect(answers.count == 2)
    for (answer, line) in zip(answers, [5, 4]) {
      let matches = try #require(answer["matches"] as? [[String: Any]])
      #expect(matches.count == 2 && matches[0]["line"] as? Int == line)
      #expect(abs(try #require(matches[0]["score"] as? Double) - 1) < 1e-5)
      #expect(matches[0]["text"] as? String == texts[line - 1])
    }
    #expect(
      try attend("search", lines(texts), "her sister", "a letter to the house", "--json").output.contains("her sister"))
    // Queries from standard input, drawn for people.
    let drawn = try attend("search", folder("lines.index"), "--top", "1", input: "her sister\nthe rain\n")
    #expect(drawn.lines.filter { $0.hasPrefix("  1.000") }.count == 2, "\(drawn.output)")
  }

  @Test("tokens are shown with their ids, of JSON strings too")
  func tokenize() throws {
    let shown = try attend("tokenize", "Walking [SEP] \u{1}zzzq~ café")
    #expect(shown.output.hasPrefix("[CLS] 2, walking"))
    #expect(shown.output.contains("[SEP] 3, ") && shown.output.contains("cafe"))
    let json = try attend("tokenize", "--json", "--json-lines", input: "\"a\\nb\"\n\"\"\n")
    #expect(
      try objects(json).map { $0["tokens"] as? [String] } == [["[CLS]", "a", "b", "[SEP]"], ["[CLS]", "[SEP]"]])
    #expect(try attend("tokenize", "--json-lines", input: "no string\n").status == 1)
  }

  @Test("a map of a whole model has every layer and head, and its rows sum to 1")
  func map() throws {
    let command = try attend("map", "the good man is happy", "a letter", "--html", folder("m.html"), "--layer", "0")
    #expect(command.status == 0, "\(command.errors)")
    let page = try String(contentsOfFile: folder("m.html"), encoding: .utf8)
    let data = try #require(
      page.components(separatedBy: "application/json\">").last?.components(separatedBy: "</script>")[0])
    let content = try #require(try JSONSerialization.jsonObject(with: Data(data.utf8)) as? [String: Any])
    let sentences = try #require(content["sentences"] as? [[String: Any]])
    #expect(sentences.count == 2 && content["layer"] as? Int == 0)
    let layers = try #require(sentences[0]["layers"] as? [[[[Double]]]])
    #expect(layers.count == 2 && layers.allSatisfy { $0.count == 3 })
    for row in layers.joined().joined() { #expect(abs(row.reduce(0, +) - 1) < 1e-4) }

    let json = try attend("map", "the good man", "--json", "--layer", "1", "--head", "2")
    let facts = try #require(try JSONSerialization.jsonObject(with: Data(json.output.utf8)) as? [String: Any])
    #expect(facts["rows"] as? [String] == ["[CLS]", "the", "good", "man", "[SEP]"])
    #expect(facts["layer"] as? Int == 1 && facts["head"] as? Int == 2)
    #expect(try attend("map", "the man", "--token", "man").output.contains("\"man\" looks at"))
    for wrong in [["--layer", "2"], ["--head", "3"], ["--token", "woman"], ["--sentence", "1"]] {
      #expect(try Command("attend", ["map", "--model", Self.model, "the man"] + wrong).status == 64, "\(wrong)")
    }
  }

  @Test("wrong input is an error that names it, and no file is written")
  func errors() throws {
    let bytes = try folder.write([0x61, 0x0a, 0xff, 0xfe, 0x0a], to: "bytes.txt")
    let cases: [(arguments: [String], status: Int32, says: String)] = [
      (["embed", "--model", Self.model, "a"], 64, "--json and --output"),
      (["embed", "--model", Self.model, "--json", "--file", bytes], 1, "line 2 is not"),
      (["embed", "--model", Self.model, "--json", "--file", folder("none")], 1, "none"),
      (["embed", "--model", folder("none"), "--json", "a"], 1, "config.json"),
      (["embed", "--model", Self.model, "a", "--output", folder("no/such/file")], 1, "no/such"),
      (["search", "--model", Self.model, folder("none"), "a"], 1, "none"),
      (["search", "--model", Self.model, bytes, "a"], 1, "line 2 is not"),
      (["search", "--model", Self.model, bytes, "a", "--top", "0"], 64, "--top"),
      (["map", "--model", Self.model], 64, "inputs"),
      (["map", "one", "two"], 64, "one file"),
    ]
    for (arguments, status, says) in cases {
      let command = try Command("attend", arguments)
      #expect(command.status == status && command.errors.contains(says), "\(arguments): \(command.errors)")
    }
    #expect(!FileManager.default.fileExists(atPath: folder("no")))
  }

  @Test("a model that is not installed is asked for by name, and a download that fails leaves nothing installed")
  func fetch() throws {
    let environment = [
      "ATTENTION_MODELS": folder("models"), "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_NO_INDEX": "1",
      "PIP_FIND_LINKS": folder("models"), "PIP_RETRIES": "0", "PIP_CONFIG_FILE": "/dev/null",
    ]
    let missing = try Command("attend", ["embed", "--json", "a"], environment: environment)
    #expect(missing.status == 1 && missing.errors.contains("attend fetch-model"), "\(missing.errors)")
    #expect(try Command("attend", ["fetch-model", "--path"], environment: environment).status == 1)
    let failed = try Command("attend", ["fetch-model"], environment: environment)
    #expect(failed.status == 1 && (failed.errors.contains("Offline?") || failed.errors.contains("pip expected")))
    #expect(try Command("attend", ["fetch-model", "--path"], environment: environment).status == 1)
  }

  @Test("help", arguments: ["embed", "search", "tokenize", "fetch-model"])
  func help(command: String) throws {
    let help = try Command("attend", [command, "--help"])
    #expect(help.status == 0 && help.output.contains("USAGE: attend \(command)") && help.errors.isEmpty)
  }
}
