import AttentionFiles
import AttentionTestSupport
import Foundation
import Testing

@Suite("attend finetune")
struct FineTuneCommandTests {
  private static let model = "\(packageFolder)/Tests/Fixtures/bert/tiny"
  private let folder: TemporaryFolder
  init() throws { folder = try TemporaryFolder() }

  /// Pairs of a query and a text that share a word.
  private func pairs(_ count: Int = 40) throws -> String {
    let words = ["rain", "house", "man", "sister", "letter", "fortune", "good", "happy"]
    let lines = (0..<count).map { index in
      let (word, other) = (words[index % 8], words[(index * 3 + index / 8) % 8])
      let (query, text) = ("the \(word) of the \(other)", "a \(other) and her \(word)")
      return index % 2 == 0
        ? "\(query)\t\(text)" : #"{"anchor":"\#(query)","positive":"\#(text)","negative":"he walks"}"#
    }
    return try folder.write(Array((lines.joined(separator: "\n") + "\n").utf8), to: "pairs.txt")
  }

  private func finetune(_ pairs: String, _ output: String, _ arguments: String...) throws -> Command {
    try Command(
      "attend",
      ["finetune", pairs, "--model", Self.model, "-o", folder(output), "--batch", "8", "--learning-rate", "1e-3"]
        + arguments)
  }

  private func weights(_ output: String) throws -> Data {
    try Data(contentsOf: URL(fileURLWithPath: folder("\(output)/model.safetensors")))
  }

  private struct Figures: Decodable {
    struct Retrieval: Decodable {
      let accuracy: Double
      let meanReciprocalRank: Double
    }
    let losses: [Double]
    let before: Retrieval?
    let after: Retrieval?
    let heldOutCount: Int
  }

  @Test("the loss falls, the held-out pairs are found more often, and the folder can be embedded with")
  func improves() throws {
    let run = try finetune(pairs(), "new", "--epochs", "12", "--held-out", "0.2", "--json")
    #expect(run.status == 0, "\(run.errors)")
    let figures = try JSONDecoder().decode(Figures.self, from: Data(run.output.utf8))
    #expect(figures.losses.count == 48 && figures.heldOutCount == 8)
    let (first, last) = (figures.losses.prefix(4).reduce(0, +), figures.losses.suffix(4).reduce(0, +))
    #expect(last < 0.8 * first)
    let (before, after) = (try #require(figures.before), try #require(figures.after))
    #expect(after.meanReciprocalRank > before.meanReciprocalRank)
    let names = try FileManager.default.contentsOfDirectory(atPath: folder("new"))
    #expect(names.contains("loss.svg") && names.contains("training.json") && names.contains("config.json"))
    let picture = try String(contentsOfFile: folder("new/loss.svg"), encoding: .utf8)
    #expect(picture.hasPrefix("<svg") && picture.contains("<polyline class=\"curve\""))
    #expect(try Command("attend", ["embed", "--model", folder("new"), "a good man"]).status == 0)
    #expect(!FileManager.default.fileExists(atPath: folder("new.unfinished")))
    #expect(!names.contains { $0.contains("checkpoint") || $0 == "lock" })
  }

  @Test("a killed run goes on from its last checkpoint, and gives the same bits as a run that was not killed")
  func resumed() throws {
    let pairs = try pairs()
    let options = ["--epochs", "40", "--checkpoint-every", "1"]
    let whole = try finetune(pairs, "whole", options[0], options[1], options[2], options[3], "--threads", "1")
    #expect(whole.status == 0, "\(whole.errors)")
    let arguments =
      ["finetune", pairs, "--model", Self.model, "-o", folder("killed"), "--batch", "8", "--learning-rate", "1e-3"]
      + options
    // Runs are killed again and again, until one of them ends before its kill. The last checkpoint must be a complete
    // file, whenever the kill comes.
    var killCount = 0
    var isDone = false
    while !isDone {
      let hasCheckpoint = FileManager.default.fileExists(atPath: folder("killed.unfinished/checkpoint.safetensors"))
      let delay = killCount < 6 ? 0.25 + 0.05 * Double(killCount) : 60
      let run = try Command.shell(
        "timeout -s KILL \(delay) \"$0\" \"$@\"", "attend", arguments + (hasCheckpoint ? ["--resume"] : []))
      isDone = run.status == 0
      if !isDone {
        #expect(run.status == 137 || run.status == 9, "\(run.status) \(run.errors)")
        killCount += 1
      }
      try #require(killCount < 8)
    }
    #expect(killCount >= 2)
    #expect(try weights("killed") == weights("whole"))
    // A kill in the middle of a write leaves a temporary file behind, which the next run removes.
    let names = ["killed", "whole"].map { try? FileManager.default.subpathsOfDirectory(atPath: folder($0)).sorted() }
    #expect(names[0] == names[1])
    #expect(!FileManager.default.fileExists(atPath: folder("killed.unfinished")))
  }

  @Test("threads, recomputation and the number of checkpoints do not change the bits")
  func sameBits() throws {
    let pairs = try pairs()
    let variants = [
      ["--threads", "1"], ["--threads", "2", "--recompute"], ["--threads", "2", "--checkpoint-every", "2"],
    ]
    for (index, variant) in variants.enumerated() {
      let run = try Command(
        "attend",
        [
          "finetune", pairs, "--model", Self.model, "-o", folder("run\(index)"), "--batch", "8", "--steps", "6",
          "--epochs", "2",
        ]
          + variant)
      #expect(run.status == 0, "\(run.errors)")
      #expect(try weights("run\(index)") == weights("run0"))
    }
  }

  @Test("wrong pairs, places and settings are refused with a message, and nothing is written")
  func refusals() throws {
    func write(_ text: String, _ name: String) throws -> String { try folder.write(Array(text.utf8), to: name) }
    func expect(_ status: Int32, _ text: String, _ run: Command) {
      #expect(run.status == status && run.errors.contains(text), "\(run.status): \(run.errors)")
    }
    let pairs = try pairs()
    expect(1, "No such file", try finetune(folder("nothing"), "out"))
    expect(1, "line 2: a query, a tab and a positive expected", try finetune(write("a\tb\nc\n", "a.tsv"), "out"))
    expect(1, "line 1: an object with the strings", try finetune(write("{\"query\":1}\n", "a.json"), "out"))
    expect(1, "line 1: texts expected; one is empty", try finetune(write("a\t \n", "b.tsv"), "out"))
    expect(1, "at least 2 pairs to train on expected; got 1", try finetune(write("a\tb\n", "c.tsv"), "out"))
    expect(64, "--learning-rate: a number above 0 expected; got -1", try finetune(pairs, "out", "--learning-rate=-1"))
    expect(
      64, "Please provide one of 'constant', 'linear' or 'cosine'", try finetune(pairs, "out", "--schedule", "steep"))
    expect(64, "there is no checkpoint", try finetune(pairs, "out", "--resume"))
    expect(1, "a finite loss expected", try finetune(pairs, "out", "--learning-rate", "1e30", "--clip", "1e30"))
    try FileManager.default.createDirectory(atPath: folder("there"), withIntermediateDirectories: true)
    expect(64, "the path of a new folder expected", try finetune(pairs, "there"))
    try FileManager.default.createDirectory(atPath: folder("garbage.unfinished"), withIntermediateDirectories: true)
    _ = try write("no checkpoint", "garbage.unfinished/checkpoint.safetensors")
    expect(1, "checkpoint.safetensors", try finetune(pairs, "garbage", "--resume"))
    expect(64, "--resume goes on with it", try finetune(pairs, "garbage"))
    expect(64, "there is something at", try finetune(pairs, "there/"))
    expect(64, "there is no folder", try finetune(pairs, "nowhere/out"))
    expect(64, "--epochs: a number from 1 to 1000000", try finetune(pairs, "out", "--epochs", "9223372036854775807"))
    expect(64, "--clip: a finite number above 0", try finetune(pairs, "out", "--clip", "inf"))
    expect(64, "got both", try finetune(pairs, "out", "--held-out", "0.5", "--evaluation", pairs))
    expect(1, "pairs to measure on expected", try finetune(pairs, "out", "--evaluation", write("", "empty.tsv")))
    // After the only step of this run, the weights are finite, but the vectors that they give are not.
    expect(
      1, "a smaller --learning-rate",
      try finetune(pairs, "out", "--learning-rate", "1e12", "--steps", "1", "--warm-up", "0", "--held-out", "0"))
    let names = try FileManager.default.contentsOfDirectory(atPath: folder.path).filter { $0.hasPrefix("out") }
    #expect(names.isEmpty, "\(names)")
  }

  @Test("a run is resumed only with its own pairs and settings")
  func otherSettings() throws {
    let pairs = try pairs()
    _ = try Command.shell(
      "timeout -s KILL 20 \"$0\" \"$@\" & for i in $(seq 1000); do [ -f \"$CHECK\" ] && break; sleep 0.02; done; kill -9 $(pgrep -f \"$MARK\") ; wait",
      "attend",
      ["finetune", pairs, "--model", Self.model, "-o", folder("run"), "--epochs", "100000", "--checkpoint-every", "1"],
      environment: ["CHECK": folder("run.unfinished/checkpoint.safetensors"), "MARK": "finetune \(pairs)"])
    func resume(_ arguments: String...) throws -> Command {
      try Command("attend", ["finetune"] + arguments + ["-o", folder("run"), "--resume", "--checkpoint-every", "1"])
    }
    let other = try resume(pairs, "--model", Self.model, "--epochs", "3", "--batch", "8")
    #expect(other.status == 1 && other.errors.contains("--batch (32 in the checkpoint, 8 given)"), "\(other.errors)")
    #expect(other.errors.contains("--epochs (100000 in the checkpoint, 3 given)"))
    let fewer = try resume(try self.pairs(30), "--model", Self.model, "--epochs", "100000")
    #expect(fewer.status == 1 && fewer.errors.contains("the pairs (the file, or --held-out)"), "\(fewer.errors)")
  }
}
