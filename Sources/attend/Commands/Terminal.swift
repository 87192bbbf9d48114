import Foundation

/// Properties of the terminal: whether output goes to one, and how many columns text takes there.
enum Terminal {
  /// Whether standard output is coloured by default: if it is a terminal, `TERM` is not "dumb", and `NO_COLOR` is empty
  /// or not set.
  static var isColoured: Bool {
    isatty(STDOUT_FILENO) == 1 && (variable("NO_COLOR") ?? "").isEmpty && !isDumb
  }

  /// Whether standard error is a terminal on which a line can be overwritten.
  static var hasProgress: Bool { isatty(STDERR_FILENO) == 1 && !isDumb }

  private static var isDumb: Bool { variable("TERM") == "dumb" }

  private static func variable(_ name: String) -> String? { ProcessInfo.processInfo.environment[name] }

  /// Writes to standard error. If that is closed or full, the text is lost: there is no other place to report it.
  static func tell(_ text: String) {
    let bytes = Array(text.utf8)
    var written = 0
    while written < bytes.count {
      let count = bytes[written...].withUnsafeBytes { write(STDERR_FILENO, $0.baseAddress, $0.count) }
      if count < 0 && errno == EINTR { continue }
      if count <= 0 { return }
      written += count
    }
  }

  /// Opens the standard streams that are closed. Otherwise a file that is opened later would get one of their numbers, and
  /// messages would be written to it.
  static func openClosedStreams() {
    // Standard input is opened for writing and standard output for reading, so that using them fails as before.
    // Standard error is opened for writing, so messages are lost.
    for (descriptor, mode) in [(STDIN_FILENO, O_WRONLY), (STDOUT_FILENO, O_RDONLY), (STDERR_FILENO, O_WRONLY)]
    where fcntl(descriptor, F_GETFD) < 0 {
      _ = open("/dev/null", mode)
    }
  }
}

extension String {
  /// The number of columns of the text on a terminal: two for a wide character, none for a mark on another character.
  var columnCount: Int { reduce(0) { $0 + $1.columnCount } }

  func padded(to width: Int) -> String { self + String(repeating: " ", count: Swift.max(0, width - columnCount)) }
  func leftPadded(to width: Int) -> String { String(repeating: " ", count: Swift.max(0, width - columnCount)) + self }
}

extension Character {
  /// The number of columns of the character on a terminal. Source: Unicode Standard Annex #11, "wide" and "full-width".
  var columnCount: Int {
    guard let scalar = unicodeScalars.first else { return 0 }
    switch scalar.properties.generalCategory {
    case .nonspacingMark, .enclosingMark, .format, .control: return 0
    default: break
    }
    let isEmoji = scalar.properties.isEmojiPresentation || unicodeScalars.contains("\u{fe0f}")
    return isEmoji || Self.wide.contains { $0.contains(scalar.value) } ? 2 : 1
  }

  /// Hangul; the signs and letters of Chinese, Japanese, Korean, Yi and Tangut; full-width forms.
  private static let wide: [ClosedRange<UInt32>] = [
    0x1100...0x115f, 0x2e80...0x303e, 0x3041...0xa4cf, 0xa960...0xa97c, 0xac00...0xd7a3, 0xf900...0xfaff,
    0xfe10...0xfe19, 0xfe30...0xfe6f, 0xff00...0xff60, 0xffe0...0xffe6, 0x16fe0...0x18cff, 0x1aff0...0x1b2ff,
    0x20000...0x3fffd,
  ]
}
