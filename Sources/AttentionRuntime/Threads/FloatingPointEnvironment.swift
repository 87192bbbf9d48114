internal import CAttentionKernels

internal import CLibrary

/// How a thread computes: rounding mode, flush-to-zero, enabled exceptions (on x86-64 the registers MXCSR and the x87's
/// control word, on arm64 FPCR).
///
/// It belongs to a thread. So that a result does not depend on which thread computed which task, every task is
/// computed in the environment of the thread that asked for it.
struct FloatingPointEnvironment: Sendable {
  private var environment = fenv_t()

  /// That of this thread. Some 60 ns.
  static var current: FloatingPointEnvironment {
    var result = FloatingPointEnvironment()
    fegetenv(&result.environment)
    return result
  }

  /// Runs `body` in this environment; the thread's own is back afterwards.
  @inline(__always)
  func run(_ body: () -> Void) {
    var before = fenv_t()
    var inside = environment
    fegetenv(&before)
    fesetenv(&inside)
    body()
    fesetenv(&before)
  }

  /// Runs `body` with floating-point exceptions untrapped, and the thread's own environment back afterwards.
  ///
  /// Kernels compute −∞ − −∞ in lanes whose results are not used, where a test for it would cost more than the subtraction. A
  /// program that traps invalid operations, to find those in its own code, must not die of them.
  @inline(__always)
  static func withoutTraps(_ body: () -> Void) {
    guard attn_traps_exceptions() else { return body() }
    var before = fenv_t()
    feholdexcept(&before)
    body()
    fesetenv(&before)
  }
}
