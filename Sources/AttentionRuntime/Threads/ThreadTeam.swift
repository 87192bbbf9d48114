import Synchronization

internal import CLibrary

/// A small team of this package's own threads, started on first use and kept.
///
/// The caller works too. A worker without a task polls for some 30 µs, then sleeps. On Linux, a sleeping worker is
/// woken on another CPU than the caller's if there is one, because it may otherwise wait behind the caller.
///
/// Several threads may call `execute` at once, and a task may call it too. Every caller finishes its own tasks with
/// whatever workers are free, and waits only for tasks that have begun. So calls cannot wait for one another in a
/// circle.
public final class ThreadTeam: ParallelExecutor, @unchecked Sendable {
  // Sendable: `jobs`, `workerCount` and `sleepers` are only touched under `lock`.

  /// The process's team.
  public static let shared = ThreadTeam()

  private static let workerLimit = AttentionContext.threadLimit - 1
  /// How long to poll before sleeping: about as long as waking a thread takes.
  private static let spinDuration = Duration.microseconds(30)
  /// The most sleepers that are kept off the caller's CPU. The caller needs 1 µs for each, measured with one sleeper.
  private static let movedSleeperLimit = 8

  /// One call of `execute`.
  private final class Job: @unchecked Sendable {
    // Sendable: `freeWorkerCount` and `nextWorker` are only touched under the team's lock.
    let tasks: TaskQueue
    private let body: SharedBody
    /// Workers that are inside `body`; changed under the lock, read anywhere.
    let activeCount = Atomic<Int>(0)
    var freeWorkerCount: Int
    var nextWorker = 1

    init(taskCount: Int, threadCount: Int, body: SharedBody) {
      tasks = TaskQueue(taskCount: taskCount, workerCount: threadCount)
      self.body = body
      freeWorkerCount = threadCount - 1
    }

    func work(as worker: Int) { body.run(tasks, worker: worker) }
  }

  private let lock = ExclusionLock()
  /// Signals that a job was posted.
  private let wake = Condition()
  /// Signals that the last worker has left a job.
  private let finished = Condition()
  private var jobs: [Job] = []
  private var workerCount = 0
  private var sleepers: [WokenThread] = []
  /// The number of jobs posted so far. An idle worker polls it without the lock.
  private let postedCount = Atomic<Int>(0)

  private init() { lock.atFork { [unowned self] in forgetWorkers() } }

  /// Called under the lock in the child of a fork, where workers and other callers do not exist.
  private func forgetWorkers() {
    jobs = []
    workerCount = 0
    sleepers = []
    wake.forgetWaiters()
    finished.forgetWaiters()
  }

  public func execute(taskCount: Int, threadCount: Int, _ body: (_ task: Int, _ worker: Int) -> Void) {
    let threadCount = min(threadCount, taskCount, Self.workerLimit + 1)
    if threadCount <= 1 {
      for task in 0..<max(taskCount, 0) { body(task, 0) }
      return
    }
    withSharedBody(body) { body in
      let job = Job(taskCount: taskCount, threadCount: threadCount, body: body)
      post(job)
      job.work(as: 0)
      withdraw(job)
    }
  }

  private func post(_ job: Job) {
    lock.lock()
    while workerCount < job.freeWorkerCount, startWorker() { workerCount += 1 }
    jobs.append(job)
    postedCount.add(1, ordering: .releasing)
    if !sleepers.isEmpty {
      for sleeper in sleepers.prefix(min(job.freeWorkerCount, Self.movedSleeperLimit)) { sleeper.leaveCaller() }
      wake.wakeAll()
    }
    lock.unlock()
  }

  /// Lets no more workers join the job, and waits for those that have joined.
  private func withdraw(_ job: Job) {
    lock.lock()
    jobs.removeAll { $0 === job }
    lock.unlock()
    if spin(while: { job.activeCount.load(ordering: .acquiring) > 0 }) { return }
    lock.lock()
    while job.activeCount.load(ordering: .acquiring) > 0 { finished.wait(lock) }
    lock.unlock()
  }

  /// Starts a worker. Returns false if the system grants no more threads. The caller then works with those that it has.
  private func startWorker() -> Bool {
    // A worker blocks most signals, so that the program's own threads handle them. Signals of a crash must be delivered
    // to the thread that crashes, and a profiler's SIGPROF to the thread that it samples.
    var every = sigset_t()
    var before = sigset_t()
    sigfillset(&every)
    for signal in [SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGABRT, SIGPROF] { sigdelset(&every, signal) }
    pthread_sigmask(SIG_SETMASK, &every, &before)
    defer { pthread_sigmask(SIG_SETMASK, &before, nil) }
    #if canImport(Darwin)
      var thread: pthread_t?
    #else
      var thread = pthread_t()
    #endif
    let status = pthread_create(
      &thread, nil,
      { _ in
        ThreadTeam.shared.runWorker()
        return nil
      }, nil)
    guard status == 0 else { return false }
    #if canImport(Darwin)
      if let thread { pthread_detach(thread) }
    #else
      pthread_detach(thread)
    #endif
    return true
  }

  private func runWorker() {
    let worker = WokenThread()
    lock.lock()
    while true {
      guard let (job, number) = joinJob() else {
        waitForJob(worker)
        continue
      }
      lock.unlock()
      worker.settle()
      job.work(as: number)
      lock.lock()
      if job.activeCount.subtract(1, ordering: .acquiringAndReleasing).newValue == 0 {
        finished.wakeAll()
      }
    }
  }

  /// Joins the first job that has tasks left and room for a worker. Returns the job and the worker's number in it; nil
  /// if there is no such job. Called under the lock.
  private func joinJob() -> (Job, Int)? {
    for job in jobs where job.freeWorkerCount > 0 && !job.tasks.isEmpty {
      job.freeWorkerCount -= 1
      job.activeCount.add(1, ordering: .relaxed)
      defer { job.nextWorker += 1 }
      return (job, job.nextWorker)
    }
    return nil
  }

  /// Polls for a short while. Returns true as soon as the condition no longer holds.
  private func spin(while condition: () -> Bool) -> Bool {
    // Reading the clock takes as long as about a hundred polls.
    let end = ContinuousClock.now + Self.spinDuration
    repeat {
      for _ in 0..<100 where !condition() { return true }
    } while ContinuousClock.now < end
    return false
  }

  /// Waits for a job to be posted: polls for a short while, then sleeps. Called under the lock, which it releases
  /// meanwhile.
  private func waitForJob(_ worker: WokenThread) {
    let seen = postedCount.load(ordering: .acquiring)
    lock.unlock()
    worker.settle()
    _ = spin { postedCount.load(ordering: .acquiring) == seen }
    lock.lock()
    if postedCount.load(ordering: .acquiring) == seen {
      sleepers.append(worker)
      wake.wait(lock)
      sleepers.removeAll { $0 === worker }
    }
  }
}
