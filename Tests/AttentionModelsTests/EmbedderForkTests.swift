#if os(Linux)
  import AttentionModels
  import AttentionTensors
  import AttentionTestSupport
  import Foundation
  import Synchronization
  import Testing

  /// Runs tasks on the thread that starts or resumes them: a child of a fork has no other.
  private final class CallerExecutor: TaskExecutor {
    func enqueue(_ job: consuming ExecutorJob) {
      UnownedJob(job).runSynchronously(on: asUnownedTaskExecutor())
    }
  }

  @Suite("An embedder and forks")
  struct EmbedderForkTests {
    @Test("in a child an embedder that was made before is an error, and goes on in the parent")
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
