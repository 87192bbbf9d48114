#if os(Linux)
  public import Glibc

  /// The C library's `fork`. Swift hides it, but a program in C or Python that links this library may call it.
  public let fork = unsafeBitCast(dlsym(nil, "fork"), to: (@convention(c) () -> pid_t).self)

  /// Runs `body` in a child that is made by `fork`, and returns the child's status: 0 if `body` returns true; nil if
  /// the child does not end within a minute.
  public func statusOfChild(_ body: () throws -> Bool) -> Int32? {
    let child = fork()
    if child == 0 { _exit((try? body()) == true ? 0 : 1) }
    var status: Int32 = 0
    for _ in 0..<6000 {
      if waitpid(child, &status, WNOHANG) == child { return status }
      usleep(10_000)
    }
    kill(child, SIGKILL)
    return nil
  }
#endif
