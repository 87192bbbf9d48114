internal import AttentionTensors
internal import COpenBLAS
internal import COpenBLASStartup

/// The state of the OpenBLAS that this process uses.
///
/// **Threads.** This package lets OpenBLAS use one thread per call, and itself cuts the work into tasks for several
/// threads. It does so for two reasons. First, before version 0.3.34, calls in which OpenBLAS uses several threads have
/// a race: concurrent products with different transposes can corrupt results. Second, OpenBLAS's thread count is one
/// number for the whole process. So the first product sets this number to 1, once and for all; your own calls of
/// OpenBLAS then get one thread too. To leave the number alone, set the environment variable
/// `ATTENTION_OPENBLAS_KEEP_THREADS`; the race is then possible.
///
/// If OpenBLAS is built with OpenMP, each thread has a thread count of its own. It is set to 1 for each task and
/// restored afterwards.
///
/// A serial build without USE_LOCKING, such as Debian's, gives wrong results, without an error, if several threads call
/// it at the same time. With a serial build, products therefore wait for one another. Prefer a build with threads.
///
/// **Kernels.** If OpenBLAS is older than the CPU, this package makes it choose its kernels again before `main`, unless
/// `OPENBLAS_CORETYPE` or `ATTENTION_OPENBLAS_AS_FOUND` is set.
public enum OpenBLAS {
  /// How this OpenBLAS was built to use threads.
  public enum Threading: String, Sendable {
    /// It uses no threads.
    case serial
    /// It uses threads of its own.
    case pthreads
    /// It uses OpenMP's threads.
    case openMP
  }

  /// The version and build options, as OpenBLAS reports them.
  public static var configuration: String { String(cString: openblas_get_config()) }

  /// The version, for instance "0.3.21"; empty if the configuration does not name it.
  public static var version: String {
    let words = configuration.split(separator: " ")
    guard let name = words.firstIndex(of: "OpenBLAS"), name + 1 < words.endIndex else { return "" }
    return String(words[name + 1])
  }

  /// The CPU whose kernels OpenBLAS uses now.
  public static var core: String { String(cString: openblas_get_corename()) }

  /// The CPU whose kernels OpenBLAS chose by itself, before this package could change the choice; empty if unknown.
  public static var coreAsFound: String { String(cString: openblas_startup_core_as_found()) }

  /// Why the choice of kernels was changed or left alone.
  public static var coreDecision: String { String(cString: openblas_startup_decision()) }

  /// How this OpenBLAS was built to use threads.
  public static var threading: Threading {
    switch openblas_get_parallel() {
    case 0: .serial
    case 1: .pthreads
    default: .openMP
    }
  }

  /// The number of threads that OpenBLAS would use inside a call made by this thread.
  public static var threadCount: Int {
    threading == .openMP ? Int(openblas_startup_openmp_get_max_threads()) : Int(openblas_get_num_threads())
  }

  /// True if this package leaves OpenBLAS's thread count alone, because `ATTENTION_OPENBLAS_KEEP_THREADS` is set.
  public static let keepsThreads = environmentVariable("ATTENTION_OPENBLAS_KEEP_THREADS") != nil

  /// How this process must call OpenBLAS. This is decided at the first call. If OpenBLAS has threads of its own and
  /// ``keepsThreads`` is false, that call also sets the thread count to 1.
  private enum Discipline {
    case plain, oneThreadByOpenMP, oneCallAtATime
  }

  private static let discipline: Discipline = {
    switch threading {
    case .serial: return .oneCallAtATime
    case .openMP: return keepsThreads ? .plain : .oneThreadByOpenMP
    case .pthreads:
      if !keepsThreads { openblas_set_num_threads(1) }
      return .plain
    }
  }()

  private static let exclusion = ExclusionLock()

  /// Calls `body`, in which OpenBLAS uses one thread, unless ``keepsThreads`` is true. Every call of OpenBLAS in this
  /// package is inside such a `body`.
  package static func withOneThread<R>(_ body: () throws -> R) rethrows -> R {
    guard discipline == .oneThreadByOpenMP else { return try body() }
    let before = openblas_startup_openmp_get_max_threads()
    openblas_startup_openmp_set_num_threads(1)
    defer { openblas_startup_openmp_set_num_threads(before) }
    return try body()
  }

  /// Calls `body`, which calls OpenBLAS. With a serial build, only one thread at a time is in such a `body`.
  package static func withCall(_ body: () -> Void) {
    guard discipline == .oneCallAtATime else { return body() }
    exclusion.withLock(body)
  }
}
