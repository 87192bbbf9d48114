import AttentionFiles
import AttentionTensors
import Foundation

/// The lines of a file, a pipe or standard input, given out as they arrive.
final class LineReader {
  private let name: String
  private let descriptor: CInt
  private var buffer: [UInt8] = []
  /// The number of line ends in the buffer.
  private var endCount = 0
  private var lineCount = 0
  private var byteCount = 0
  private var isAtEnd = false

  /// The largest number of bytes that are read but not given out yet.
  private static let byteLimit = 1 << 32
  private static let readLength = 1 << 16
  /// The longest wait for input on a non-blocking stream before it is read again, in milliseconds.
  private static let patience: CInt = 1000
  /// How long a pipe may have no program that writes to it.
  private static let writerDelay = Duration.seconds(2)

  /// Opens a file, a pipe or standard input.
  /// - Parameter path: A file or a pipe; "-" is standard input.
  /// - Throws: `AttentionError` if it cannot be opened, is something else, or is a pipe that no program writes to.
  init(path: String) throws(AttentionError) {
    name = path == "-" ? "standard input" : path
    if path == "-" {
      descriptor = STDIN_FILENO
      return
    }
    try requireArgument(
      !path.isEmpty && !path.utf8.contains(0), "path", "a path that is not empty and holds no NUL expected")
    // Without O_NONBLOCK, opening a pipe would wait until a program opens its other end.
    descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard descriptor >= 0 else { throw Self.systemError(path, "cannot be opened") }
    var status = stat()
    guard fstat(descriptor, &status) == 0 else { throw Self.systemError(path, "cannot be examined") }
    let kind = status.st_mode & S_IFMT
    guard [S_IFREG, S_IFIFO, S_IFCHR].contains(kind) else {
      throw AttentionError(.inputOutput, path, "a regular file or a pipe expected")
    }
    if kind == S_IFIFO {
      // If a pipe has no writer, reading reports the end of the pipe. If it has a writer that has written nothing yet,
      // reading reports that no data are ready. A writer that the same shell command has started may be a moment late.
      let deadline = ContinuousClock.now + Self.writerDelay
      try fill()
      while isAtEnd, ContinuousClock.now < deadline {
        usleep(10_000)
        isAtEnd = false
        try fill()
      }
      if isAtEnd { throw AttentionError(.inputOutput, path, "a pipe that a program writes to expected; nothing came") }
    }
    _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) & ~O_NONBLOCK)
  }

  deinit { if descriptor != STDIN_FILENO { close(descriptor) } }

  /// At most `limit` lines: waits for the first one, and takes further ones only if they have already arrived. Nil at the end.
  /// - Throws: `AttentionError` if reading fails, or a line is not UTF-8.
  func next(limit: Int) throws(AttentionError) -> [String]? {
    while !isAtEnd, endCount == 0 || (endCount < limit && isReadable) { try fill() }
    if buffer.isEmpty { return nil }
    var end = buffer.count
    if endCount >= limit {
      var rest = limit
      end =
        buffer.firstIndex { byte in
          if byte == UInt8(ascii: "\n") { rest -= 1 }
          return rest == 0
        }! + 1
    } else if !isAtEnd {
      end = buffer.lastIndex(of: UInt8(ascii: "\n"))! + 1
    }
    let lines: [String]
    do {
      lines = try splitLines(Array(buffer[..<end]), name: name, firstLine: lineCount + 1)
    } catch {
      // The lines before a wrong one are returned first.
      end = validLength(of: buffer[..<end])
      if end == 0 { throw error }
      lines = try splitLines(Array(buffer[..<end]), name: name, firstLine: lineCount + 1)
    }
    lineCount += lines.count
    endCount -= buffer[..<end].count { $0 == UInt8(ascii: "\n") }
    byteCount -= end
    buffer.removeFirst(end)
    return lines
  }

  /// The number of bytes of the lines before the first one that is not UTF-8.
  private func validLength(of bytes: ArraySlice<UInt8>) -> Int {
    var start = bytes.startIndex
    while let end = bytes[start...].firstIndex(of: UInt8(ascii: "\n")),
      String(validating: bytes[start..<end], as: UTF8.self) != nil
    { start = end + 1 }
    return start - bytes.startIndex
  }

  /// All remaining lines.
  func rest() throws(AttentionError) -> [String] {
    while !isAtEnd { try fill() }
    var lines: [String] = []
    while let next = try next(limit: .max) { lines += next }
    return lines
  }

  /// All remaining bytes.
  func restOfBytes() throws(AttentionError) -> [UInt8] {
    while !isAtEnd { try fill() }
    return buffer
  }

  private var isReadable: Bool {
    var request = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
    return poll(&request, 1, 0) == 1
  }

  private func fill() throws(AttentionError) {
    var part = [UInt8](repeating: 0, count: Self.readLength)
    let count = read(descriptor, &part, part.count)
    if count < 0 {
      if errno == EINTR { return }
      if errno == EAGAIN {
        // The stream is non-blocking: `init` reads a pipe before it makes it blocking, or another program has changed
        // it.
        var request = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        _ = poll(&request, 1, Self.patience)
        return
      }
      throw Self.systemError(name, "cannot be read")
    }
    if count == 0 { isAtEnd = true }
    byteCount += count
    guard byteCount <= Self.byteLimit else {
      throw AttentionError(.invalidFile, name, "at most \(Self.byteLimit) bytes expected; there are more")
    }
    endCount += part[..<count].count { $0 == UInt8(ascii: "\n") }
    buffer += part[..<count]
  }

  private static func systemError(_ name: String, _ what: String) -> AttentionError {
    AttentionError(.inputOutput, name, "\(what): \(String(cString: strerror(errno)))")
  }
}

/// The lines of a text file, a pipe, or standard input ("-").
/// - Throws: `AttentionError` if it cannot be read or is not UTF-8.
func lines(of path: String) throws(AttentionError) -> [String] { try LineReader(path: path).rest() }

/// A safetensors file; "-" is one on standard input.
func openTensors(_ path: String, loading: SafeTensorsFile.Loading = .mapped) throws -> SafeTensorsFile {
  path == "-"
    ? try SafeTensorsFile(bytes: LineReader(path: path).restOfBytes(), name: "standard input")
    : try SafeTensorsFile(contentsOf: path, loading: loading)
}
