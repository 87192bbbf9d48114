import Dispatch

/// Runs the tasks of one call on several threads. Whatever this package computes on several threads, it computes
/// through this protocol.
public protocol ParallelExecutor: Sendable {
  /// Calls `body` once for every task in `0..<taskCount`, on at most `threadCount` threads including the caller's, and
  /// returns when all calls have returned.
  ///
  /// `worker` is in `0..<threadCount`. Two calls with the same worker never overlap, so each worker can have its own
  /// scratch memory. Tasks may run in any order. There is no promise of concurrency, so tasks must not wait for one
  /// another. A body must not fork and go on in the child, because the child does not run the other tasks. If results
  /// must not depend on which thread ran a task, threads must run tasks with the caller's rounding mode and
  /// flush-to-zero, as both executors of this package do.
  func execute(taskCount: Int, threadCount: Int, _ body: (_ task: Int, _ worker: Int) -> Void)
}

/// Runs tasks by `DispatchQueue.concurrentPerform`, so it shares the process's threads with other Dispatch work. Do not
/// use it in the child of a fork: Dispatch does not work there.
public struct DispatchExecutor: ParallelExecutor {
  /// An executor. All of them are alike.
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

/// The body of one `execute`, which several threads share during the call.
///
/// This type holds a pointer to the closure instead of the closure. A thread may release its last copy of this value
/// after the call has returned. At that time nothing may hold the closure, because it does not escape.
struct SharedBody: @unchecked Sendable {
  fileprivate let body: UnsafePointer<(Int, Int) -> Void>
  fileprivate let environment = FloatingPointEnvironment.current

  // Never inlined, so that its references to the closure are released when it returns, not later.
  @inline(never)
  func run(_ tasks: TaskQueue, worker: Int) {
    // The closure is loaded once and not for each task, because a load changes its reference count, for which all
    // threads would contend.
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

/// A value that threads share during one `execute`. Its user guarantees that this is safe.
package struct UncheckedSendable<Value>: @unchecked Sendable {
  package let value: Value
  package init(_ value: Value) { self.value = value }
}
