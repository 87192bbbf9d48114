internal import CAttentionKernels

internal import CLibrary

/// How a thread computes: rounding mode, flush-to-zero, enabled exceptions (on x86-64 the registers MXCSR and the x87's
/// control word, on arm64 FPCR).
///
/// Each thread has its own environment. Every task is computed in the environment of the thread that asked for it, so that
/// a result does not depend on which thread computed which task.
struct FloatingPointEnvironment: Sendable {
  private var environment = fenv_t()

  /// The environment of the calling thread. Reading it takes some 60 ns.
  static var current: FloatingPointEnvironment {
    var result = FloatingPointEnvironment()
    fegetenv(&result.environment)
    return result
  }

  /// Calls `body` in this environment, then restores the thread's own environment.
  @inline(__always)
  func run(_ body: () -> Void) {
    var before = fenv_t()
    var inside = environment
    fegetenv(&before)
    fesetenv(&inside)
    body()
    fesetenv(&before)
  }

  /// Calls `body` with floating-point exceptions untrapped, then restores the thread's own environment.
  ///
  /// Kernels compute −∞ − −∞ in lanes whose results are not used, because a test would cost more than the subtraction.
  /// That is an invalid operation. A program that traps invalid operations, to find those of its own code, must not be
  /// stopped by those of the kernels.
  @inline(__always)
  static func withoutTraps(_ body: () -> Void) {
    guard attn_traps_exceptions() else { return body() }
    var before = fenv_t()
    feholdexcept(&before)
    body()
    fesetenv(&before)
  }
}
