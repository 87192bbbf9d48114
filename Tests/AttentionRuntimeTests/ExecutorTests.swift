import AttentionTensors
import Foundation
import Synchronization
import Testing

@Suite("Parallel execution")
struct ExecutorTests {
  static let executors: [any ParallelExecutor] = [ThreadTeam.shared, DispatchExecutor()]

  /// Counters that several threads may change at the same time.
  final class Counters: Sendable {
    private let storage: [Counter]
    final class Counter: Sendable { let value = Atomic<Int>(0) }
    init(_ count: Int) { storage = (0..<count).map { _ in Counter() } }
    func add(_ index: Int, _ amount: Int = 1) -> Int {
      storage[index].value.add(amount, ordering: .sequentiallyConsistent).newValue
    }
    var values: [Int] { storage.map { $0.value.load(ordering: .sequentiallyConsistent) } }
  }

  @Test("every task runs once", arguments: [0, 1], [0, 1, 2, 3, 7, 100, 10_000])
  func everyPieceOnce(executor: Int, taskCount: Int) throws {
    for threadCount in [1, 2, 5, 64] {
      let counters = Counters(taskCount)
      Self.executors[executor].execute(taskCount: taskCount, threadCount: threadCount) { task, worker in
        #expect((0..<threadCount).contains(worker))
        _ = counters.add(task)
      }
      #expect(counters.values.allSatisfy { $0 == 1 })
    }
  }

  @Test("no two tasks have the same worker at the same time", arguments: [0, 1])
  func workersAreExclusive(executor: Int) {
    let inside = Counters(4)
    let collisions = Counters(1)
    Self.executors[executor].execute(taskCount: 2_000, threadCount: 4) { _, worker in
      if inside.add(worker) != 1 { _ = collisions.add(0) }
      for _ in 0..<100 { _ = Double.random(in: 0...1).squareRoot() }
      _ = inside.add(worker, -1)
    }
    #expect(collisions.values == [0])
  }

  @Test("calls from several threads and nested calls finish", arguments: [0, 1])
  func nestedAndConcurrent(executor: Int) {
    let total = Counters(1)
    let executor = Self.executors[executor]
    DispatchQueue.concurrentPerform(iterations: 8) { _ in
      executor.execute(taskCount: 20, threadCount: 3) { _, _ in
        executor.execute(taskCount: 10, threadCount: 3) { _, _ in _ = total.add(0) }
      }
    }
    #expect(total.values == [8 * 20 * 10])
  }

  #if os(Linux)
    @Test("a worker that was woken may run on every CPU again")
    func affinity() throws {
      // The affinity list of a thread that was never moved may also contain CPUs that are not online.
      let whole = min(processorCountByAffinity(), Int(sysconf(Int32(_SC_NPROCESSORS_ONLN))))
      for _ in 0..<20 {
        ThreadTeam.shared.execute(taskCount: 3, threadCount: 3) { _, _ in usleep(100) }
        // Workers sleep after some 30 µs without work.
        usleep(2_000)
      }
      var restricted: [String] = []
      let end = Date() + 10
      repeat {
        usleep(1_000)
        // The file of a thread that has just ended cannot be read. Such a thread does not count as restricted.
        restricted = try FileManager.default.contentsOfDirectory(atPath: "/proc/self/task").filter { thread in
          processorCountByAffinity { _ in contents(ofFile: "/proc/self/task/\(thread)/status") } < whole
        }
      } while !restricted.isEmpty && Date() < end
      #expect(restricted == [])
    }
  #endif

  @Test("many short calls, one after another: no call returns while a worker still works on it", arguments: [0, 1])
  func shortCalls(executor: Int) {
    let total = Counters(1)
    for _ in 0..<50_000 { Self.executors[executor].execute(taskCount: 3, threadCount: 3) { _, _ in _ = total.add(0) } }
    #expect(total.values == [150_000])
  }

  @Test("a team whose threads slept works again")
  func wakes() {
    for pause in [0.0, 0.002, 0.05] {
      let total = Counters(1)
      Thread.sleep(forTimeInterval: pause)
      ThreadTeam.shared.execute(taskCount: 50, threadCount: 2) { _, _ in _ = total.add(0) }
      #expect(total.values == [50])
    }
  }
}

@Suite("The number of threads")
struct WidthTests {
  @Test("the CPUs in an affinity list are counted")
  func affinity() {
    func count(_ list: String) -> Int {
      processorCountByAffinity { $0 == "/proc/self/status" ? "Name:\tx\nCpus_allowed_list:\t\(list)\nMore:\t1\n" : nil }
    }
    #expect(count("0-3") == 4)
    #expect(count("0-3,8,10-11") == 7)
    #expect(count("5") == 1)
    #expect(processorCountByAffinity { _ in nil } >= 1)
  }

  @Test("the smallest quota of a control group and its ancestors counts, in versions 1 and 2")
  func quotas() {
    func quota(_ files: [String: String]) -> Double? { CPUQuota.read { files[$0] } }
    let v2 = ["/proc/self/cgroup": "0::/a/b\n"]
    #expect(quota(v2) == nil)
    #expect(quota(v2.merging(["/sys/fs/cgroup/a/b/cpu.max": "max 100000"]) { $1 }) == nil)
    #expect(quota(v2.merging(["/sys/fs/cgroup/a/b/cpu.max": "50000 100000\n"]) { $1 }) == 0.5)
    #expect(
      quota(
        v2.merging(["/sys/fs/cgroup/a/b/cpu.max": "400000 100000", "/sys/fs/cgroup/a/cpu.max": "150000 100000"]) { $1 })
        == 1.5)
    // Inside a container, the group's own path is often not mounted. Its files are at the root instead.
    #expect(quota(v2.merging(["/sys/fs/cgroup/cpu.max": "200000 100000"]) { $1 }) == 2)
    let v1 = ["/proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/x\n"]
    #expect(
      quota(
        v1.merging([
          "/sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "300000",
          "/sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000",
        ]) { $1 }) == 3)
    #expect(
      quota(
        v1.merging([
          "/sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "-1",
          "/sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000",
        ]) { $1 }) == nil)
  }

  @Test("environment variables set the defaults, and a wrong value is reported")
  func environment() {
    let context = AttentionContext { ["ATTENTION_NUM_THREADS": "3", "ATTENTION_ISA": "portable"][$0] }
    #expect(context.threadCount == 3)
    #expect(context.instructionSet == .portable)
    #expect(context.environmentError == nil)
    #expect(ThreadChoice { $0 == "ATTENTION_NUM_THREADS" ? "3" : nil }.source == "ATTENTION_NUM_THREADS")
    let wrong = AttentionContext { ["ATTENTION_ISA": "sse9"][$0] }
    #expect(
      wrong.environmentError?.description
        == "ATTENTION_ISA: one of portable, neon, avx2, avx512, avx512-bf16, amx expected; got \"sse9\""
    )
    #expect(AttentionContext { ["ATTENTION_NUM_THREADS": "none"][$0] }.environmentError != nil)
    #expect(AttentionContext { ["ATTENTION_NUM_THREADS": "", "ATTENTION_ISA": ""][$0] }.environmentError == nil)
  }

  @Test(
    "thread counts are limited to the possible range",
    arguments: [(-1, 1), (0, 1), (1, 1), (7, 7), (.max, 256), (.min, 1)])
  func threadCounts(asked: Int, got: Int) {
    #expect(AttentionContext(threadCount: asked).threadCount == got)
    var context = AttentionContext.default
    context.threadCount = asked
    #expect(context.threadCount == got)
  }
}
