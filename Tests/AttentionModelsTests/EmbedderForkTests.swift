#if os(Linux)
  import AttentionModels
  import AttentionTensors
  import AttentionTestSupport
  import Foundation
  import Glibc
  import Synchronization
  import Testing

  // Swift hides fork(): a program in C or Python that links the library does not.
  private let fork = unsafeBitCast(dlsym(nil, "fork"), to: (@convention(c) () -> pid_t).self)

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
        let embedder = try await TextEmbedder(directory: URL(fileURLWithPath: Fixture.tiny))
        let expected = try await embedder.embed("the house")
        let child = fork()
        if child == 0 {
          let isRight = Mutex(false)
          Task(executorPreference: CallerExecutor()) {
            do { _ = try await embedder.embed("the house") } catch {
              let error = error as? AttentionError
              isRight.withLock { $0 = error?.code == .unsupported && error?.message.contains("fork") == true }
            }
          }
          _exit(isRight.withLock { $0 } ? 0 : 1)
        }
        var status: Int32 = -1
        for _ in 0..<3000 {
          if waitpid(child, &status, WNOHANG) == child { break }
          usleep(10_000)
        }
        precondition(status == 0, "\(status)")
        let again = try await embedder.embed("the house")
        precondition(again == expected)
      }
    }
  }
#endif
