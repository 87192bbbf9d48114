internal import CLibrary

/// A thread that, when it sleeps, is woken on another CPU than the one of the thread that wakes it.
///
/// In a virtual machine, Linux was seen to queue a woken thread on the CPU of the thread that woke it, for 16 ms and
/// more, while another CPU was idle. Linux probably mistakes a CPU that has halted for one that the host has given away
/// (Benchmarks/NOTES.md). On other systems, and if the C library cannot set the CPUs of a thread, this class does
/// nothing.
final class WokenThread {
  #if os(Linux)
    private let thread = pthread_self()
    /// The CPUs on which this thread may run again later, while it is kept off one of them; else nil. While this thread
    /// sleeps, the thread that wakes it accesses this property, under the lock of ``ThreadTeam``. Otherwise only this
    /// thread does.
    private var allowed: cpu_set_t?
  #endif

  /// Represents the thread that calls this initializer.
  init() {}

  /// Called by the waking thread before it wakes this thread: moves this thread off the caller's CPU, if this thread
  /// may run on another one.
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

  /// Called by this thread itself after it was woken: lets it run again where it might run before.
  func settle() {
    #if os(Linux)
      guard let before = allowed, let affinity = Affinity.shared else { return }
      allowed = nil
      // First allow every CPU. If the system grants only the CPUs from before, leave it at that: so this thread also
      // gets CPUs that its control group is given later. If the system grants more, this thread had been limited to
      // some CPUs, so restore the old set.
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
  /// Functions of the C library that are not in POSIX. Swift's module of the library does not declare them.
  private struct Affinity: Sendable {
    typealias Access = @convention(c) (pthread_t, Int, UnsafeMutablePointer<cpu_set_t>) -> Int32

    let currentCPU: @convention(c) () -> Int32
    private let getter: Access
    private let setter: Access

    /// The functions; nil if the C library does not have them.
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
