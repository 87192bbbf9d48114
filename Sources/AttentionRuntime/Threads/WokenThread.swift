internal import CLibrary

/// A thread that sleeps, to be woken on another CPU than the one that wakes it.
///
/// In a virtual machine Linux was seen to leave a woken thread waiting behind the one that woke it, on one CPU, for 16 ms and
/// more while another idled; a CPU that has halted probably looks to it like one that its host has given away
/// (Benchmarks/NOTES.md). Where nothing is known of CPUs, nothing is done.
final class WokenThread {
  #if os(Linux)
    private let thread = pthread_self()
    /// The CPUs to go back to, while it is kept off one; nil: it is not. Whoever wakes it touches this while it sleeps, under
    /// the lock of those who wait; the thread itself while it does not.
    private var allowed: cpu_set_t?
  #endif

  /// For the thread that calls it.
  init() {}

  /// Before it is woken: makes it run elsewhere than the caller, if it may.
  func leaveCaller() {
    #if os(Linux)
      guard allowed == nil, let affinity = Affinity.shared, var set = affinity.get(thread) else { return }
      let before = set
      let cpu = Int(affinity.currentCPU())
      let isEmpty = withUnsafeMutableBytes(of: &set) { bytes in
        let words = bytes.assumingMemoryBound(to: UInt.self)
        guard 0..<words.count * UInt.bitWidth ~= cpu else { return true }
        words[cpu / UInt.bitWidth] &= ~(1 << UInt(cpu % UInt.bitWidth))
        return words.allSatisfy { $0 == 0 }
      }
      if !isEmpty, affinity.set(thread, set) { allowed = before }
    #endif
  }

  /// By the thread itself, once it runs: it may run where it might before.
  func settle() {
    #if os(Linux)
      guard let before = allowed, let affinity = Affinity.shared else { return }
      allowed = nil
      // Every CPU, so that it gets those that its control group is given later; else only if it was kept to some.
      var every = cpu_set_t()
      withUnsafeMutableBytes(of: &every) { bytes in for index in bytes.indices { bytes[index] = .max } }
      _ = affinity.set(thread, every)
      guard let now = affinity.get(thread) else { return }
      let isAsBefore = withUnsafeBytes(of: now) { now in
        withUnsafeBytes(of: before) { before in now.elementsEqual(before) }
      }
      if !isAsBefore { _ = affinity.set(thread, before) }
    #endif
  }
}

#if os(Linux)
  /// What the C library has beyond POSIX, which its module does not show to Swift.
  private struct Affinity: Sendable {
    typealias Access = @convention(c) (pthread_t, Int, UnsafeMutablePointer<cpu_set_t>) -> Int32

    let currentCPU: @convention(c) () -> Int32
    private let getter: Access
    private let setter: Access

    /// nil where there is no such library.
    static let shared = Affinity()

    private init?() {
      guard let cpu = dlsym(nil, "sched_getcpu"), let getter = dlsym(nil, "pthread_getaffinity_np"),
        let setter = dlsym(nil, "pthread_setaffinity_np")
      else { return nil }
      currentCPU = unsafeBitCast(cpu, to: (@convention(c) () -> Int32).self)
      self.getter = unsafeBitCast(getter, to: Access.self)
      self.setter = unsafeBitCast(setter, to: Access.self)
    }

    func get(_ thread: pthread_t) -> cpu_set_t? {
      var set = cpu_set_t()
      return getter(thread, MemoryLayout<cpu_set_t>.size, &set) == 0 ? set : nil
    }

    func set(_ thread: pthread_t, _ set: cpu_set_t) -> Bool {
      var set = set
      return setter(thread, MemoryLayout<cpu_set_t>.size, &set) == 0
    }
  }
#endif
