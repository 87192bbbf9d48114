internal import AttentionTensors
internal import COpenBLAS
internal import COpenBLASStartup

/// The state of the OpenBLAS that this process runs on.
///
/// **Threads.** OpenBLAS runs one thread per call here and the work is cut outside it: two threads inside
/// OpenBLAS race (concurrent products with different transposes can corrupt results before 0.3.34), and
/// its thread count is one number for the process. So the first product sets that number to 1, once and
/// for all; code of yours that calls OpenBLAS then gets one thread too. Set the environment variable
/// `ATTENTION_OPENBLAS_KEEP_THREADS` to leave the number alone, at the price of that race. Where OpenBLAS
/// is built with OpenMP the number belongs to each thread; it is set around each piece of work and put back.
/// A serial build, without USE_LOCKING as Debian's is, gives wrong results to threads that call it at one
/// time, and does not tell: there, products wait for one another. Prefer a build with threads.
///
/// **Kernels.** Before `main`, an OpenBLAS older than the CPU is made to choose its kernels anew. Not if
/// `OPENBLAS_CORETYPE` is set, nor if `ATTENTION_OPENBLAS_AS_FOUND` is.
public enum OpenBLAS {
  /// How this OpenBLAS was built to use threads.
  public enum Threading: String, Sendable {
    /// Without threads.
    case serial
    /// With threads of its own.
    case pthreads
    /// With OpenMP's.
    case openMP
  }

  /// Version and build options, as OpenBLAS tells them.
  public static var configuration: String { String(cString: openblas_get_config()) }

  /// The version, for instance "0.3.21"; empty where the configuration does not tell.
  public static var version: String {
    let words = configuration.split(separator: " ")
    guard let name = words.firstIndex(of: "OpenBLAS"), name + 1 < words.endIndex else { return "" }
    return String(words[name + 1])
  }

  /// The CPU whose kernels OpenBLAS uses now.
  public static var core: String { String(cString: openblas_get_corename()) }

  /// The CPU whose kernels OpenBLAS had chosen by itself.
  public static var coreAsFound: String { String(cString: openblas_startup_core_as_found()) }

  /// Why the choice of kernels was changed or left alone.
  public static var coreDecision: String { String(cString: openblas_startup_decision()) }

  /// How this OpenBLAS was built.
  public static var threading: Threading {
    switch openblas_get_parallel() {
    case 0: .serial
    case 1: .pthreads
    default: .openMP
    }
  }

  /// Threads that OpenBLAS would use inside a call made by this thread.
  public static var threadCount: Int {
    threading == .openMP ? Int(openblas_startup_openmp_get_max_threads()) : Int(openblas_get_num_threads())
  }

  /// True if the thread count is left to the program.
  public static let keepsThreads = environmentVariable("ATTENTION_OPENBLAS_KEEP_THREADS") != nil

  /// How calls of OpenBLAS must be made here; settled, with its effect on the thread count, at the first one.
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

  /// Runs `body`, in which OpenBLAS uses one thread. Every call of OpenBLAS in this package is inside one.
  package static func withOneThread<R>(_ body: () throws -> R) rethrows -> R {
    guard discipline == .oneThreadByOpenMP else { return try body() }
    let before = openblas_startup_openmp_get_max_threads()
    openblas_startup_openmp_set_num_threads(1)
    defer { openblas_startup_openmp_set_num_threads(before) }
    return try body()
  }

  /// Runs calls of OpenBLAS; in a serial build, while no other thread is in one.
  package static func withCall(_ body: () -> Void) {
    guard discipline == .oneCallAtATime else { return body() }
    exclusion.withLock(body)
  }
}
