import Dispatch

/// Runs the tasks of one call on several threads: the seam behind which threads live.
public protocol ParallelExecutor: Sendable {
  /// Calls `body` once for every task in `0..<taskCount`, on at most `threadCount` threads, the caller's
  /// among them, and returns when all are done.
  ///
  /// `worker` is in `0..<threadCount`, and no two calls with the same worker overlap: it names a scratch.
  /// Tasks may run in any order. There is no promise of concurrency, so tasks must not wait for
  /// one another; and a body must not fork and go on in the child, where the other tasks are lost. Where results shall not depend on which thread ran a task, threads must take over the
  /// caller's rounding mode and flush-to-zero, as both executors here do.
  func execute(taskCount: Int, threadCount: Int, _ body: (_ task: Int, _ worker: Int) -> Void)
}

/// Runs tasks by `DispatchQueue.concurrentPerform`: shares the process's threads with other Dispatch
/// work. Not in the child of a fork, in which Dispatch does not work.
public struct DispatchExecutor: ParallelExecutor {
  /// An executor; all are alike.
  public init() {}

  public func execute(taskCount: Int, threadCount: Int, _ body: (_ task: Int, _ worker: Int) -> Void) {
    let threadCount = min(threadCount, taskCount)
    if threadCount <= 1 {
      for task in 0..<max(taskCount, 0) { body(task, 0) }
      return
    }
    let tasks = TaskQueue(taskCount: taskCount, workerCount: threadCount)
    withSharedBody(body) { body in
      DispatchQueue.concurrentPerform(iterations: threadCount) { worker in
        body.run(tasks, worker: worker)
      }
    }
  }
}

/// The body of one `execute`, as several threads share it for the length of the call.
///
/// A pointer to the closure, not the closure: a thread may let go of its last reference after the call has
/// returned, and a closure that does not escape must not be held then.
struct SharedBody: @unchecked Sendable {
  fileprivate let body: UnsafePointer<(Int, Int) -> Void>
  fileprivate let environment = FloatingPointEnvironment.current

  // Never inlined: what it holds of the closure is released when it returns, not later.
  @inline(never)
  func run(_ tasks: TaskQueue, worker: Int) {
    // Once: its references are counted where all threads count them.
    let body = body.pointee
    environment.run {
      var share = worker
      while let task = tasks.take(from: &share) { body(task, worker) }
    }
  }
}

/// Calls `use` with a body that threads may share until `use` returns.
func withSharedBody(_ body: (Int, Int) -> Void, _ use: (SharedBody) -> Void) {
  withoutActuallyEscaping(body) { body in withUnsafePointer(to: body) { use(SharedBody(body: $0)) } }
}

/// A value that its user vouches for: shared among threads for the length of one `execute`.
package struct UncheckedSendable<Value>: @unchecked Sendable {
  package let value: Value
  package init(_ value: Value) { self.value = value }
}
