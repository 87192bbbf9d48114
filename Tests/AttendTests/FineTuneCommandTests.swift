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
    #expect(!FileManager.default.fileExists(atPath: folder("new.checkpoint")))
  }

  @Test("a run that is killed goes on from its last checkpoint, and gives the bits of one that was not")
  func resumed() throws {
    let pairs = try pairs()
    let options = ["--epochs", "40", "--checkpoint-every", "1"]
    let whole = try finetune(pairs, "whole", options[0], options[1], options[2], options[3], "--threads", "1")
    #expect(whole.status == 0, "\(whole.errors)")
    let arguments =
      ["finetune", pairs, "--model", Self.model, "-o", folder("killed"), "--batch", "8", "--learning-rate", "1e-3"]
      + options
    // Killed again and again until a run ends. Checkpoints are whole whenever the kill comes.
    var killCount = 0
    var isDone = false
    while !isDone {
      let hasCheckpoint = FileManager.default.fileExists(atPath: folder("killed.checkpoint"))
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
    let leftovers = try FileManager.default.contentsOfDirectory(atPath: folder.path).filter {
      $0.hasPrefix("killed") && $0 != "killed"
    }
    // A kill in the middle of a write leaves the temporary file behind, which never has the checkpoint's name.
    #expect(!leftovers.contains("killed.checkpoint"))
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
    expect(64, "--schedule: linear, cosine or constant expected", try finetune(pairs, "out", "--schedule", "steep"))
    expect(64, "there is no checkpoint", try finetune(pairs, "out", "--resume"))
    expect(1, "a finite loss expected", try finetune(pairs, "out", "--learning-rate", "1e30", "--clip", "1e30"))
    try FileManager.default.createDirectory(atPath: folder("there"), withIntermediateDirectories: true)
    expect(64, "the path of a new folder expected", try finetune(pairs, "there"))
    _ = try write("no checkpoint", "garbage.checkpoint")
    expect(1, "garbage.checkpoint", try finetune(pairs, "garbage", "--resume"))
    expect(64, "--resume goes on with it", try finetune(pairs, "garbage"))
    #expect(!FileManager.default.fileExists(atPath: folder("out")))
  }
}
