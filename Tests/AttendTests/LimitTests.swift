#if os(Linux)
  import AttentionTestSupport
  import Foundation
  import Testing

  /// A new control group. The initializer returns nil if this process may not make or join one.
  private final class ControlGroup {
    let folder: String

    /// Makes a group of `controller`, which is "cpu" or "memory". The files to write differ between the two versions of
    /// control groups: `version1` and `version2` hold their names and contents.
    init?(_ controller: String, version1: [(String, String)], version2: [(String, String)]) {
      let isVersion1 = FileManager.default.fileExists(atPath: "/sys/fs/cgroup/\(controller)/cgroup.procs")
      folder = "/sys/fs/cgroup/\(isVersion1 ? "\(controller)/" : "")attention-\(UUID().uuidString)"
      guard mkdir(folder, 0o755) == 0 else { return nil }
      for (file, value) in isVersion1 ? version1 : version2 {
        guard (try? value.write(toFile: "\(folder)/\(file)", atomically: false, encoding: .utf8)) != nil else {
          rmdir(folder)
          return nil
        }
      }
      // This process may be allowed to make a group, but not to join it.
      guard let joined = try? run("attend", ["--version"]), joined.status == 0 else { return nil }
    }

    deinit { rmdir(folder) }

    static func halfCPU() -> ControlGroup? {
      ControlGroup("cpu", version1: quota(50_000), version2: [("cpu.max", "50000 100000")])
    }
    static func oneAndAHalfCPUs() -> ControlGroup? {
      ControlGroup("cpu", version1: quota(150_000), version2: [("cpu.max", "150000 100000")])
    }
    static func gigabyte() -> ControlGroup? {
      ControlGroup(
        "memory", version1: [("memory.limit_in_bytes", "1000000000")], version2: [("memory.max", "1000000000")])
    }

    private static func quota(_ microseconds: Int) -> [(String, String)] {
      [("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "\(microseconds)")]
    }

    /// Runs a command that first moves itself into the group.
    func run(_ name: String, _ arguments: [String], input: String = "") throws -> Command {
      try Command.shell("echo $$ > \(folder)/cgroup.procs && exec \"$0\" \"$@\"", name, arguments, input: input)
    }
  }

  @Suite("Containers' limits", .serialized)
  struct LimitTests {
    private func facts(_ command: Command) throws -> [String: Any] {
      try #require(JSONSerialization.jsonObject(with: Data(command.output.utf8)) as? [String: Any])
    }

    @Test(
      "a quota of half a CPU gives one thread, and a quota of one and a half CPUs gives two",
      .enabled(if: ControlGroup.halfCPU() != nil, "this process may not make a control group for CPUs"))
    func quota() throws {
      let processorCount = ProcessInfo.processInfo.activeProcessorCount
      for (make, threads) in [(ControlGroup.halfCPU, 1), (ControlGroup.oneAndAHalfCPUs, 2)] {
        let group = try #require(make())
        let info = try facts(group.run("attend", ["info", "--json"]))
        #expect(info["threads"] as? Int == min(threads, processorCount))
        if threads == 1, processorCount > 1 {
          #expect(info["threadsReason"] as? String == "the control group's quota of 0.5 CPUs")
        }
        let check = try group.run("attend", ["check", "--forward", "\(packageFolder)/Tests/Fixtures/mha"])
        #expect(check.status == 0, "\(check.output)")
      }
    }

    // 8 heads of 16384 × 16384 scores would take 8 GiB; operands and output take 128 MiB.
    private let long =
      #"{"op":"sdpa","heads":8,"queries":16384,"width":64,"mask":"causal","iterations":1,"threads":2}"#

    @Test(
      "long sequences are computed in a control group with 1 GB of memory",
      .enabled(if: ControlGroup.gigabyte() != nil, "this process may not make a control group for memory"))
    func memory() throws {
      let group = try #require(ControlGroup.gigabyte())
      let command = try group.run("attention-runner", [], input: long + "\n")
      #expect(command.status == 0)
      let answer = try facts(command)
      #expect(answer["gflops"] != nil, "\(command.output)")
    }

    @Test("in 1 GB of address space, a problem that fits is computed, and one that is too large is only an error")
    func addressSpace() throws {
      // With 128 heads, each operand takes 512 MiB.
      let tooLarge = #"{"op":"sdpa","heads":128,"queries":16384,"width":64,"iterations":1}"#
      let command = try Command.shell(
        "ulimit -v 1000000 && exec \"$0\" \"$@\"", "attention-runner", [], input: "\(tooLarge)\n\(long)\n")
      #expect(command.status == 0)
      let answers = try command.lines.map {
        try #require(JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any])
      }
      #expect(answers.count == 2)
      #expect((answers.first?["error"] as? String)?.contains("could not be allocated") == true, "\(command.output)")
      #expect(answers.last?["gflops"] != nil, "\(command.output)")
    }

    @Test("64 threads work, however few CPUs there are")
    func manyThreads() throws {
      let info = try facts(Command("attend", ["info", "--json", "--threads", "64"]))
      #expect(info["threads"] as? Int == 64)
      let command = try Command(
        "attend", ["check", "--forward", "--threads", "64", "\(packageFolder)/Tests/Fixtures/mha"])
      #expect(command.status == 0, "\(command.output)")
    }
  }
#endif
