package import AttentionTensors

internal import CLibrary

/// The bytes of a file, mapped into memory or copied into memory that this object allocates.
final class FileBytes: @unchecked Sendable {
  // Sendable: nothing changes after init.
  let bytes: UnsafeRawBufferPointer
  private let isMapped: Bool

  init(path: String, isMapped: Bool) throws(AttentionError) {
    try requirePath(path)
    // O_NONBLOCK: if the path is a pipe, do not wait for a writer.
    let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard descriptor >= 0 else { throw systemError(path, "cannot be opened") }
    defer { close(descriptor) }
    var status = stat()
    guard fstat(descriptor, &status) == 0 else { throw systemError(path, "cannot be examined") }
    guard status.st_mode & S_IFMT == S_IFREG else {
      throw AttentionError(.inputOutput, path, "a regular file expected")
    }
    let count = Int(status.st_size)
    self.isMapped = isMapped && count > 0
    if self.isMapped {
      guard let base = mmap(nil, count, PROT_READ, MAP_PRIVATE, descriptor, 0), base != MAP_FAILED else {
        throw systemError(path, "cannot be mapped")
      }
      bytes = UnsafeRawBufferPointer(start: base, count: count)
      return
    }
    let base = try Self.allocate(count, path)
    var filled = 0
    while filled < count {
      let got = read(descriptor, base + filled, min(count - filled, transferLimit))
      if got > 0 {
        filled += got
      } else if got == 0 || errno != EINTR {
        free(base)
        throw got == 0
          ? AttentionError(.invalidFile, path, "the file ended after \(filled) of \(count) bytes")
          : systemError(path, "cannot be read")
      }
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

/// The largest number of bytes that one call reads or writes. On macOS, a call for 2 GiB or more fails.
let transferLimit = 1 << 30

/// Throws if `path` is empty or contains a NUL, at which it would end for the operating system.
func requirePath(_ path: String) throws(AttentionError) {
  try requireArgument(
    !path.isEmpty && !path.utf8.contains(0), "path",
    "a path that is not empty and holds no NUL expected; got \"\(path)\"")
}

/// An error about the file at `path`: `what`, followed by the text of the operating system's last error (`errno`).
func systemError(_ path: String, _ what: String) -> AttentionError {
  AttentionError(.inputOutput, path, "\(what): \(String(cString: strerror(errno)))")
}

/// Describes what a download has often left instead of the file: a git-lfs pointer or a page of HTML. Nil: neither.
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
  // The text after the last line end is a line only if it is not empty.
  if bytes.isEmpty || bytes.last == UInt8(ascii: "\n") { lines.removeLast() }
  return lines
}

/// The first bytes of a regular file, at most `count`. Nil if `path` is not a regular file or cannot be read.
package func firstBytes(of path: String, count: Int) -> [UInt8]? {
  // The kind of file is checked before the file is opened. If this process opened a pipe, the pipe's writer would take
  // it for the reader, and would die when the pipe is closed.
  var status = stat()
  guard stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFREG else { return nil }
  let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
  guard descriptor >= 0 else { return nil }
  defer { close(descriptor) }
  var bytes = [UInt8](repeating: 0, count: count)
  let got = read(descriptor, &bytes, count)
  return got < 0 ? nil : Array(bytes.prefix(got))
}

/// The bytes of a regular file of at most `byteLimit` bytes.
package func readFile(_ path: String, byteLimit: Int) throws(AttentionError) -> [UInt8] {
  // Read, not mapped: if a mapped file were cut short meanwhile, the process would be killed.
  let file = try FileBytes(path: path, isMapped: false)
  guard file.bytes.count <= byteLimit else {
    throw AttentionError(.invalidFile, path, "at most \(byteLimit) bytes expected; it has \(file.bytes.count)")
  }
  return withExtendedLifetime(file) { Array(file.bytes) }
}
