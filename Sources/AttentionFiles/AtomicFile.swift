internal import AttentionTensors

internal import CLibrary

/// Replaces a file as a whole: `path` holds either the old content or the whole new content, never a part of it.
///
/// `body` calls `append` with the bytes, which go to a temporary file in the same folder. That file is synced and then
/// renamed to `path`. If `path` is a symbolic link, the file to which it leads is replaced. The permissions of an old
/// file are kept.
/// - Throws: Any error of `body`; `AttentionError` if the file cannot be written, if something other than a regular
///   file is at `path`, or if `path` is a symbolic link to nothing. The temporary file is then removed.
package func writeAtomically(
  to path: String, _ body: (_ append: (UnsafeRawBufferPointer) throws -> Void) throws -> Void
) throws {
  try requirePath(path)
  var target = path
  var mode: mode_t?
  var status = stat()
  if stat(path, &status) == 0 {
    guard status.st_mode & S_IFMT == S_IFREG else {
      throw AttentionError(.inputOutput, path, "a regular file, or nothing, expected in this place")
    }
    mode = status.st_mode & 0o7777
    guard let resolved = realpath(path, nil) else { throw systemError(path, "cannot be resolved") }
    target = String(cString: resolved)
    free(resolved)
  } else if lstat(path, &status) == 0 {
    throw AttentionError(.inputOutput, path, "a symbolic link to something that is there expected")
  }
  let slash = target.lastIndex(of: "/")
  let folder = slash.map { $0 == target.startIndex ? "/" : String(target[..<$0]) } ?? "."
  let temporary = "\(folder)/.\(getpid())-\(UInt32.random(in: 0 ... .max)).partial"
  let descriptor = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode == nil ? 0o666 : 0o600)
  guard descriptor >= 0 else { throw systemError(path, "cannot be created in \(folder)") }
  var isOpen = true
  do {
    try body { bytes throws(AttentionError) in try writeAll(bytes, to: descriptor, path) }
    if let mode, fchmod(descriptor, mode) != 0 { throw systemError(path, "cannot be given its permissions") }
    guard fsync(descriptor) == 0 else { throw systemError(path, "cannot be synced") }
    isOpen = false
    guard close(descriptor) == 0 else { throw systemError(path, "cannot be closed") }
    guard rename(temporary, target) == 0 else { throw systemError(path, "cannot be replaced") }
  } catch {
    if isOpen { close(descriptor) }
    unlink(temporary)
    throw error
  }
  // Syncing the folder makes the rename durable. Errors are ignored: on a file system that cannot sync folders, only
  // this durability is lost.
  let folderDescriptor = open(folder, O_RDONLY | O_CLOEXEC)
  if folderDescriptor >= 0 {
    fsync(folderDescriptor)
    close(folderDescriptor)
  }
}

private func writeAll(_ bytes: UnsafeRawBufferPointer, to descriptor: CInt, _ path: String) throws(AttentionError) {
  var written = 0
  while written < bytes.count {
    let count = writeWithoutSignal(
      descriptor, bytes.baseAddress! + written, min(bytes.count - written, transferLimit))
    if count >= 0 {
      written += count
    } else if errno != EINTR {
      throw systemError(path, "cannot be written")
    }
  }
}

/// Calls `write` without letting a signal end the process: a write beyond the process's limit of file size fails with
/// EFBIG, and SIGXFSZ is not delivered.
private func writeWithoutSignal(_ descriptor: CInt, _ bytes: UnsafeRawPointer, _ byteCount: Int) -> Int {
  var signals = sigset_t()
  var before = sigset_t()
  sigemptyset(&signals)
  sigaddset(&signals, SIGXFSZ)
  pthread_sigmask(SIG_BLOCK, &signals, &before)
  let count = write(descriptor, bytes, byteCount)
  let error = errno
  if count < 0 && error == EFBIG {
    // If `write` has left SIGXFSZ pending, `sigwait` removes that signal here. Otherwise it would be delivered when the
    // old mask is restored.
    var pending = sigset_t()
    sigpending(&pending)
    var signal: CInt = 0
    if sigismember(&pending, SIGXFSZ) == 1 { sigwait(&signals, &signal) }
  }
  pthread_sigmask(SIG_SETMASK, &before, nil)
  errno = error
  return count
}
