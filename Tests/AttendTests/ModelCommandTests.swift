import AttentionFiles
import AttentionTensors
import AttentionTestSupport
import Foundation
import Testing

@Suite("Commands of attend that use a model")
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
    // Standard error is not a terminal here, so no progress is printed.
    #expect(byArguments.errors.isEmpty)
    #expect(try attend("embed", "--json", "--file", folder.write([], to: "none.txt")).output.isEmpty)
  }

  @Test("embed writes a file of vectors; search writes a file of an index, and reads it")
  func search() throws {
    let texts = ["the rain", "", "a single man of large fortune", "her sister", "a letter to the house"]
    let written = try attend("embed", "--file", lines(texts), "--output", folder("vectors.safetensors"))
    #expect(written.status == 0 && written.output.contains("5 vectors of 48 written"))
    let file = try SafeTensorsFile(contentsOf: folder("vectors.safetensors"))
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
    // Queries from standard input. The answers are printed as text for people, not as JSON.
    let drawn = try attend("search", folder("lines.index"), "--top", "1", input: "her sister\nthe rain\n")
    #expect(drawn.lines.filter { $0.hasPrefix("  1.000") }.count == 2, "\(drawn.output)")
  }

  @Test("tokens are shown with their ids; --json-lines reads each line as a JSON string")
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

  @Test("wrong input gives an error that names the input, and no file is written")
  func errors() throws {
    let bytes = try folder.write([0x61, 0x0a, 0xff, 0xfe, 0x0a], to: "bytes.txt")
    _ = try lines([String](repeating: "the house", count: 1), "long.txt")
    let cases: [(arguments: [String], status: Int32, says: String)] = [
      (["embed", "--model", Self.model, "a", "--json", "--output", folder("x")], 64, "--json and --output"),
      (["embed", "--model", Self.model, "--jsn", "a"], 64, "Unknown option '--jsn'"),
      (["embed", "--model", Self.model, "--prompt", "nosuch", "a"], 1, "nosuch"),
      (["search", "--model", Self.model, "-", "--json"], 64, "a query expected"),
      (["search", "--model", Self.model, bytes, "a", "--overlap", "3"], 64, "--chunks"),
      (["search", "--model", Self.model, "--chunks", "--overlap", "15", folder("long.txt"), "a"], 1, "overlap"),
      (["map", "a text of some words"], 1, "--model"),
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

  private func shell(_ line: String, _ arguments: String..., input: String = "") throws -> Command {
    try Command.shell("cd '\(folder.path)'; \(line)", "attend", arguments, input: input)
  }

  @Test("without options, embed shows the first numbers of each vector")
  func shown() throws {
    let shown = try attend("embed", "a good man", "-5 degrees", "- an item", "--- a rule", "-o dear", "-7")
    #expect(shown.status == 0, "\(shown.errors)")
    #expect(
      shown.lines.filter { $0.hasPrefix("\"") } == [
        "\"a good man\"", "\"-5 degrees\"", "\"- an item\"", "\"--- a rule\"", "\"-o dear\"", "\"-7\"",
      ])
    #expect(shown.lines.filter { $0.contains("48 numbers, length 1.000: ") }.count == 6)
    // After `--`, a text may look like an option.
    let certain = try attend("embed", "a", "--", "--json", "-o", "--")
    #expect(
      certain.lines.filter { $0.hasPrefix("\"") } == ["\"a\"", "\"--json\"", "\"-o\"", "\"--\""], "\(certain.errors)")
  }

  @Test("values and texts may begin with a special character; the lines before a wrong line are answered")
  func signs() throws {
    #expect(try attend("tokenize", "\u{f8ff} man").output == attend("tokenize", "--", "\u{f8ff} man").output)
    #expect(try attend("tokenize", "\u{f8ff} man").output.contains("man 94"))
    #expect(try attend("map", "a man", "--token=a\nb").status == 64)
    #expect(try attend("search", lines(["a"]), "a", "--top=-1").errors.contains("--top"))
    let file = try lines(["her sister"], "-a file")
    let found = try shell("\"$0\" search --model '\(Self.model)' '-a file' sister --json")
    #expect(found.output.contains("her sister"), "\(found.errors) \(file)")
    let bytes = try folder.write([0x61, 0x0a, 0x62, 0x0a, 0xff, 0x0a, 0x63], to: "mixed.txt")
    let mixed = try attend("embed", "--json", "--file", bytes)
    #expect(mixed.status == 1 && mixed.lines.count == 2 && mixed.errors.contains("line 3 is not"), "\(mixed.errors)")
  }

  @Test("standard input (-) and pipes can take the place of files")
  func pipes() throws {
    let text = "her sister\nthe rain\n"
    let expected = try attend("embed", "--json", "her sister", "the rain").output
    #expect(try attend("embed", "--json", "-", input: text).output == expected)
    #expect(try attend("embed", "--json", "--file", "-", input: text).output == expected)
    #expect(try attend("embed", "--json", "--file", "/dev/stdin", input: text).output == expected)
    #expect(try attend("tokenize", "-", input: text).output == attend("tokenize", "her sister", "the rain").output)
    #expect(try attend("map", "-", "--sentence", "1", input: text).output.contains("rain"))
    let found = try attend("search", "-", "the rain", "--top", "1", "--json", input: text)
    #expect(try objects(found).count == 1 && found.output.contains("\"line\":2"), "\(found.errors)")
    let named = try shell(
      "mkfifo pipe; exec 3<&0; cat <&3 > pipe & \"$0\" search --model '\(Self.model)' pipe 'the rain' --top 1",
      input: text)
    #expect(named.output.contains("1.000  2  the rain"), "\(named.errors)")
    // A pipe that no program writes to gives an error, not an endless wait.
    let silent = try shell("mkfifo silent; timeout 60 \"$0\" search --model '\(Self.model)' silent x")
    #expect(silent.status == 1 && silent.errors.contains("silent: a pipe that a program writes to"), "\(silent.errors)")
    let layer = "\(packageFolder)/Examples/Data/minilm-layer0.safetensors"
    let stored = try shell("\"$0\" map - --json < '\(layer)'")
    #expect(stored.status == 0 && stored.output.contains("\"weights\""), "\(stored.errors)")
  }

  @Test("each text is answered as soon as it arrives")
  func streams() throws {
    // The second text is written only after the answer to the first text has been read.
    let command = try shell(
      """
      mkfifo in out; "$0" embed --json --model '\(Self.model)' < in > out & exec 3> in 4< out
      echo 'her sister' >&3; read -r first <&4; echo 'the rain' >&3; exec 3>&-; read -r second <&4
      printf '%s\\n%s\\n' "$first" "$second"
      """)
    #expect(try command.output == attend("embed", "--json", "her sister", "the rain").output, "\(command.errors)")
  }

  @Test("several single words are one query; if an argument contains a space, each argument is a query")
  func queries() throws {
    let file = try lines(["the rain", "a letter to the house"])
    let one = try objects(attend("search", file, "a", "letter", "to", "the", "house", "--json"))
    #expect(one.map { $0["query"] as? String } == ["a letter to the house"])
    let two = try objects(attend("search", file, "--json", "a letter", "rain"))
    #expect(two.map { $0["query"] as? String } == ["a letter", "rain"])
  }

  @Test("text beyond the model's limit gives a warning; with --chunks, search finds it")
  func chunks() throws {
    let filler = String(repeating: "the of and to in that ", count: 12)
    let file = try lines(["her sister", filler + "a single man of large fortune"])
    let cut = try attend("search", file, "a single man", "--json")
    #expect(
      cut.errors.contains("1 of 2 lines are longer than the model's 32 tokens") && cut.errors.contains("--chunks"))
    let whole = try attend("search", file, "a single man of large fortune", "--chunks", "--overlap", "8", "--json")
    let matches = try #require(objects(whole)[0]["matches"] as? [[String: Any]])
    #expect(whole.errors.isEmpty && matches.map { $0["line"] as? Int }.sorted { $0! < $1! } == [1, 2])
    #expect(try attend("embed", "--json", filler + filler).errors.contains("1 of 1 texts are longer"))
  }

  @Test("a closed standard error, or a limit on the size of files, does not kill the command")
  func closedStreams() throws {
    for command in ["embed --json --model nosuch hi", "search nosuch x", "map nosuch"] {
      let closed = try shell("\"$0\" \(command) 2>&-; echo $?")
      #expect(closed.output == "1\n", "\(command): \(closed.output)")
    }
    let limited = try shell(
      "ulimit -f 1; \"$0\" embed --model '\(Self.model)' a b c d e f g h --output out 2>&1 | cat; ls -A")
    #expect(limited.output.contains("out: cannot be written"), "\(limited.output)")
    #expect(!limited.output.contains("partial") && limited.lines.count == 1, "\(limited.output)")
  }

  @Test(
    "colours are used only on terminals that show them, and only without NO_COLOR",
    .enabled(if: FileManager.default.fileExists(atPath: "/usr/bin/script")))
  func colour() throws {
    func drawn(_ environment: String) throws -> String {
      try shell("\(environment) script -qc \"$0 map --model '\(Self.model)' man\" /dev/null").output
    }
    #expect(try drawn("env -u NO_COLOR TERM=xterm").contains("\u{1b}[48;5;"))
    #expect(try !drawn("NO_COLOR=1 TERM=xterm").contains("\u{1b}["))
    #expect(try !drawn("env -u NO_COLOR TERM=dumb").contains("\u{1b}["))
  }

  /// Copies the model's folder to the path `name` in the temporary folder.
  private func copyModel(to name: String) throws {
    let target = folder(name)
    try FileManager.default.createDirectory(
      atPath: URL(fileURLWithPath: target).deletingLastPathComponent().path, withIntermediateDirectories: true)
    try FileManager.default.copyItem(atPath: Self.model, toPath: target)
  }

  @Test("the columns of a map stay aligned if tokens have wide characters")
  func wideCharacters() throws {
    try copyModel(to: "wide")
    for name in ["tokenizer.json", "vocab.txt"] {
      let path = folder("wide/\(name)")
      let text = try String(contentsOfFile: path, encoding: .utf8)
      try text.replacingOccurrences(
        of: name == "vocab.txt" ? "\nwife\n" : "\"wife\"", with: name == "vocab.txt" ? "\n愛\n" : "\"愛\""
      )
      .write(toFile: path, atomically: true, encoding: .utf8)
    }
    let map = try Command("attend", ["map", "--model", folder("wide"), "--no-color", "愛 man 愛"])
    #expect(map.status == 0, "\(map.errors)")
    func width(_ text: some StringProtocol) -> Int { text.reduce(0) { $0 + ($1 == "愛" ? 2 : 1) } }
    // The labels of the columns stand below the title, written downwards. Each letter takes two terminal columns,
    // whether it is one or two columns wide.
    let head = map.lines.dropFirst().prefix { !$0.contains("→") && !$0.contains("[CLS]") }
    #expect(head.count == 5 && Set(head.map(width)) == [7 + 2 * 5], "\(map.output)")
    let rows = map.lines.filter { $0.hasPrefix("   愛  ") }
    #expect(rows.count == 2, "\(map.output)")
  }

  @Test("a model may be a folder of the Hugging Face cache; its snapshot is used")
  func snapshots() throws {
    try copyModel(to: "hub/models--owner--tiny/snapshots/0123abcd")
    let (cached, revision) = (folder("hub/models--owner--tiny"), "0123abcd")
    let expected = try attend("embed", "--json", "a man").output
    func embed(_ model: String, _ environment: [String: String] = [:]) throws -> Command {
      try Command("attend", ["embed", "--json", "--model", model, "a man"], environment: environment)
    }
    #expect(try embed(cached).output == expected)
    #expect(try embed("owner/tiny", ["HF_HUB_CACHE": folder("hub")]).output == expected)
    // Of two snapshots, the one that `refs/main` names is used.
    try copyModel(to: "hub/models--owner--tiny/snapshots/other")
    #expect(try embed(cached).errors.contains("there are 2"))
    try FileManager.default.createDirectory(atPath: "\(cached)/refs", withIntermediateDirectories: true)
    try revision.write(toFile: "\(cached)/refs/main", atomically: true, encoding: .utf8)
    #expect(try embed(cached).output == expected)
  }

  @Test("map writes a page for a text that reaches the model's limit")
  func longPage() throws {
    let text = String(repeating: "the man and his sister walk in the rain ", count: 30)
    let page = try attend("map", text, "--html", folder("long.html"))
    #expect(page.status == 0, "\(page.errors)")
  }

  @Test("if no model is installed, the error names the command that installs one; a failed download installs nothing")
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
