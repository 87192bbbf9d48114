#if os(Linux)
  import AttentionFiles
  import AttentionTensors
  import AttentionTestSupport
  import CFileCalls
  import Foundation
  import Glibc
  import Testing

  /// Writes a file of 2 MiB in which every element is `value`. The write takes long enough to be interrupted.
  private func writeFile(of value: Float, to path: String) throws {
    var writer = SafeTensorsWriter()
    try writer.add("x", Tensor<Float>(repeating: value, shape: [1 << 19]))
    try writer.write(to: path)
  }

  /// The value that every element of the file has; nil if elements differ or are missing.
  private func content(of path: String) throws -> Float? {
    let x = try SafeTensorsFile(contentsOf: path, loading: .copied).tensor("x", as: Float.self).array
    return x.count == 1 << 19 && x.allSatisfy { $0 == x[0] } ? x[0] : nil
  }

  @Suite("A file has either its old content or the whole new content")
  struct DurabilityTests {
    private let folder: TemporaryFolder

    init() throws { folder = try TemporaryFolder() }

    @Test("a file is synced before it gets its name, and its folder is synced afterwards")
    func order() throws {
      file_calls_begin()
      try writeFile(of: 1, to: folder("x.safetensors"))
      #expect(String(cString: file_calls()) == "srd")
    }

    @Test("a process that is killed while it writes leaves no incomplete file under the name")
    func killed() async {
      await #expect(processExitsWith: .success) {
        let folder = try TemporaryFolder()
        let path = folder("x.safetensors")
        try writeFile(of: 1, to: path)
        for _ in 0..<60 {
          let child = fork()
          if child == 0 {
            while true { for value in [2, 3] as [Float] { try? writeFile(of: value, to: path) } }
          }
          usleep(UInt32.random(in: 500...20_000))
          kill(child, SIGKILL)
          var status: Int32 = 0
          waitpid(child, &status, 0)
          let found = try content(of: path)
          precondition(found.map { [1, 2, 3].contains($0) } == true, "an incomplete file is under the name")
        }
        // If no temporary file was left, no process was killed in the middle of a write, and this test shows nothing.
        let partCount = try folder.fileNames.count { $0.hasSuffix(".partial") }
        print("\(partCount) of 60 kills left a temporary file")
        precondition(partCount > 0)
      }
    }

    @Test("a file that is larger than the process's limit is an error, and the old file stays")
    func fileSizeLimit() async {
      await #expect(processExitsWith: .success) {
        let folder = try TemporaryFolder()
        let path = folder("x.safetensors")
        try writeFile(of: 1, to: path)
        var limit = rlimit(rlim_cur: 1 << 20, rlim_max: 1 << 20)
        precondition(setrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &limit) == 0)
        var message = ""
        do { try writeFile(of: 2, to: path) } catch { message = "\(error)" }
        precondition(message.contains("cannot be written"), message)
        let found = try content(of: path)
        let names = try folder.fileNames
        precondition(found == 1 && names == ["x.safetensors"], "\(names)")
      }
    }

    @Test("a full disk is an error, and the old file stays")
    func fullDisk() throws {
      // A disk of 3 MiB, if this process may mount one.
      guard mount("none", folder.path, "tmpfs", 0, "size=3m") == 0 else {
        return print("skipped, because this process may not mount a small disk: a full disk")
      }
      defer { umount(folder.path) }
      let path = folder("x.safetensors")
      try writeFile(of: 1, to: path)
      let error = #expect(throws: AttentionError.self) { try writeFile(of: 2, to: path) }
      #expect(error?.message.contains("cannot be written") == true)
      #expect(try content(of: path) == 1)
      #expect(try folder.fileNames == ["x.safetensors"])
    }

    @Test("a reader finds a complete file while another thread writes it")
    func concurrentReader() throws {
      let path = folder("x.safetensors")
      try writeFile(of: 0, to: path)
      let writer = Thread { for value in 1...60 { try? writeFile(of: Float(value), to: path) } }
      writer.start()
      var seen: Set<Float> = []
      while !writer.isFinished { seen.insert(try #require(try content(of: path))) }
      seen.insert(try #require(try content(of: path)))
      #expect(seen.contains(60))
    }
  }
#endif
