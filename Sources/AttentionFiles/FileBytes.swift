package import AttentionTensors

internal import CLibrary

/// The bytes of a file, mapped into memory or copied into memory that this object allocates.
final class FileBytes: @unchecked Sendable {
  // Sendable: nothing changes after init.
  let bytes: UnsafeRawBufferPointer
  private let isMapped: Bool

  /// - Throws: `AttentionError` if the file cannot be read or has more than `byteLimit` bytes.
  init(path: String, isMapped: Bool, byteLimit: Int = .max) throws(AttentionError) {
    let (descriptor, count) = try openRegularFile(path)
    defer { close(descriptor) }
    guard count <= byteLimit else {
      throw AttentionError(.invalidFile, path, "at most \(byteLimit) bytes expected; it has \(count)")
    }
    self.isMapped = isMapped && count > 0
    if self.isMapped {
      guard let base = mmap(nil, count, PROT_READ, MAP_PRIVATE, descriptor, 0), base != MAP_FAILED else {
        throw systemError(path, "cannot be mapped")
      }
      bytes = UnsafeRawBufferPointer(start: base, count: count)
      return
    }
    let base = try Self.allocate(count, path)
    let filled = readBytes(descriptor, count, into: base)
    guard filled == count else {
      free(base)
      throw filled < 0
        ? systemError(path, "cannot be read")
        : AttentionError(.invalidFile, path, "the file ended after \(filled) of \(count) bytes")
    }
    bytes = UnsafeRawBufferPointer(start: base, count: count)
  }

  /// A copy of `source` at an address that is a multiple of `TensorStorage.alignment`.
  init(copying source: UnsafeRawBufferPointer, name: String) throws(AttentionError) {
    let base = try Self.allocate(source.count, name)
    UnsafeMutableRawBufferPointer(start: base, count: source.count).copyMemory(from: source)
    bytes = UnsafeRawBufferPointer(start: base, count: source.count)
    isMapped = false
  }

  private static func allocate(_ count: Int, _ name: String) throws(AttentionError) -> UnsafeMutableRawPointer {
    var pointer: UnsafeMutableRawPointer?
    guard posix_memalign(&pointer, TensorStorage.alignment, max(count, 1)) == 0, let pointer else {
      throw AttentionError(.outOfMemory, name, "\(count) bytes could not be allocated")
    }
    return pointer
  }

  deinit {
    let base = UnsafeMutableRawPointer(mutating: bytes.baseAddress!)
    if isMapped { munmap(base, bytes.count) } else { free(base) }
  }
}

/// The largest number of bytes in one call of `read` or `write`: 1 GiB. On macOS, a call for 2 GiB or more fails.
let transferLimit = 1 << 30

/// Opens a file for reading. Returns its descriptor and the number of its bytes.
/// - Throws: `AttentionError` if `path` is not a regular file or cannot be opened.
private func openRegularFile(_ path: String) throws(AttentionError) -> (descriptor: Int32, byteCount: Int) {
  try requirePath(path)
  let unexpected = AttentionError(.inputOutput, path, "a regular file expected")
  var status = stat()
  // The kind of file is checked before the file is opened. If this process opened a pipe, the pipe's writer would take
  // this process for its reader. SIGPIPE would then kill the writer when this process closes the pipe.
  guard stat(path, &status) == 0 else { throw systemError(path, "cannot be opened") }
  guard status.st_mode & S_IFMT == S_IFREG else { throw unexpected }
  // The path may have become a pipe since. O_NONBLOCK prevents `open` from waiting for a writer.
  let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
  guard descriptor >= 0 else { throw systemError(path, "cannot be opened") }
  guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
    close(descriptor)
    throw unexpected
  }
  return (descriptor, Int(status.st_size))
}

/// Reads up to `count` bytes. Returns how many there were before the end of the file; or −1 if reading failed, with the
/// reason in `errno`.
private func readBytes(_ descriptor: Int32, _ count: Int, into target: UnsafeMutableRawPointer) -> Int {
  var filled = 0
  while filled < count {
    let got = read(descriptor, target + filled, min(count - filled, transferLimit))
    if got == 0 { break }
    if got > 0 { filled += got } else if errno != EINTR { return -1 }
  }
  return filled
}

/// Throws if `path` is empty or contains a NUL, because the operating system ends a path at its first NUL.
func requirePath(_ path: String) throws(AttentionError) {
  try requireArgument(
    !path.isEmpty && !path.utf8.contains(0), "path",
    "a path that is not empty and holds no NUL expected; got \"\(path)\"")
}

/// An error about the file at `path`: `what`, followed by the text of the operating system's last error (`errno`).
func systemError(_ path: String, _ what: String) -> AttentionError {
  AttentionError(.inputOutput, path, "\(what): \(String(cString: strerror(errno)))")
}

/// Describes what a failed download often leaves in place of the file: a git-lfs pointer or a page of HTML. Returns nil
/// if `bytes` are neither.
package func whatElse(_ bytes: UnsafeRawBufferPointer) -> String? {
  let start = String(decoding: bytes.prefix(64).drop { $0 <= 0x20 }, as: UTF8.self).lowercased()
  if start.hasPrefix("version https://git-lfs") { return "a git-lfs pointer to it: fetch it with git lfs pull" }
  if start.hasPrefix("<!doctype html") || start.hasPrefix("<html") { return "a page of HTML: the download went wrong" }
  return nil
}

/// The lines of a text, without their line breaks (LF or CR LF).
/// - Throws: `AttentionError` where a line is not UTF-8.
package func splitLines(_ bytes: [UInt8], name: String, firstLine: Int = 1) throws(AttentionError) -> [String] {
  var lines: [String] = []
  for part in bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false) {
    let line = part.last == UInt8(ascii: "\r") ? part.dropLast() : part
    guard let text = String(validating: line, as: UTF8.self) else {
      throw AttentionError(.invalidFile, name, "UTF-8 expected; line \(firstLine + lines.count) is not")
    }
    lines.append(text)
  }
  // A text that ends with a line break has no further line after it.
  if bytes.isEmpty || bytes.last == UInt8(ascii: "\n") { lines.removeLast() }
  return lines
}

/// The first bytes of a regular file, at most `count`. Nil if `path` is not a regular file or cannot be read.
package func firstBytes(of path: String, count: Int) -> [UInt8]? {
  guard let file = try? openRegularFile(path) else { return nil }
  defer { close(file.descriptor) }
  var bytes = [UInt8](repeating: 0, count: count)
  let got = bytes.withUnsafeMutableBytes { readBytes(file.descriptor, count, into: $0.baseAddress!) }
  return got < 0 ? nil : Array(bytes.prefix(got))
}

/// The bytes of the regular file at `path`.
/// - Throws: `AttentionError` if the file cannot be read or has more than `byteLimit` bytes.
package func readFile(_ path: String, byteLimit: Int) throws(AttentionError) -> [UInt8] {
  // The file is read rather than mapped, because if a mapped file is cut short, the process that reads it is killed.
  let file = try FileBytes(path: path, isMapped: false, byteLimit: byteLimit)
  return withExtendedLifetime(file) { Array(file.bytes) }
}
