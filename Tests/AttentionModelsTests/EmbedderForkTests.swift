#if os(Linux)
  import AttentionModels
  import AttentionTensors
  import AttentionTestSupport
  import Foundation
  import Synchronization
  import Testing

  /// Runs tasks on the thread that starts or resumes them, because a child of a fork has no other thread.
  private final class CallerExecutor: TaskExecutor {
    func enqueue(_ job: consuming ExecutorJob) {
      UnownedJob(job).runSynchronously(on: asUnownedTaskExecutor())
    }
  }

  @Suite("An embedder and forks")
  struct EmbedderForkTests {
    @Test("after a fork, an embedder of the parent throws in the child, and still works in the parent")
    func inheritedEmbedder() async {
      await #expect(processExitsWith: .success) {
        let embedder = try await TextEmbedder(directory: Fixture.tiny)
        let expected = try await embedder.embed("the house")
        let status = statusOfChild {
          let isRight = Mutex(false)
          Task(executorPreference: CallerExecutor()) {
            do { _ = try await embedder.embed("the house") } catch {
              let error = error as? AttentionError
              isRight.withLock { $0 = error?.code == .unsupported && error?.message.contains("fork") == true }
            }
          }
          return isRight.withLock { $0 }
        }
        precondition(status == 0, "\(status as Any)")
        let again = try await embedder.embed("the house")
        precondition(again == expected)
      }
    }
  }
#endif
