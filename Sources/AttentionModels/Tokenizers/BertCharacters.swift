/// What BERT's normalisation and splitting into words know of a character, as Hugging Face's `tokenizers` does it.
///
/// Its tables are older than Swift's: categories are those of Unicode 8, decompositions those of Unicode 9, so characters
/// that came later are told by their age. The few that have changed their category since are listed. All scalars were
/// compared with `tokenizers` 0.23.3.
enum BertCharacters {
  /// Dropped before all else: control characters, most formats, private use, and what stands for undecodable bytes.
  static func isRemoved(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.value {
    case 0x09, 0x0a, 0x0d: return false
    case 0xfffd: return true
    // Formats of which Unicode 8 had not heard, or had otherwise.
    case 0x0890...0x0891, 0x08e2, 0x110cd, 0x13430...0x1343f: return false
    default: break
    }
    switch scalar.properties.generalCategory {
    case .control, .format, .privateUse: return true
    default: return false
    }
  }

  /// Becomes a space.
  static func isSpace(_ scalar: Unicode.Scalar) -> Bool { scalar.properties.isWhitespace }

  /// Stands as a word of its own. The gap before U+2B920 is Hugging Face's.
  static func isIdeograph(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.value {
    case 0x3400...0x4dbf, 0x4e00...0x9fff, 0xf900...0xfaff, 0x20000...0x2a6df, 0x2a700...0x2b81f, 0x2b920...0x2ceaf,
      0x2f800...0x2fa1f:
      true
    default: false
    }
  }

  /// An accent that is stripped after decomposition.
  static func isStripped(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.value {
    case 0x1734, 0x1171e: true
    case 0x1885...0x1886, 0xa9bd, 0x111c9: false
    default: scalar.properties.generalCategory == .nonspacingMark && isAssigned(scalar, by: 8)
    }
  }

  /// Stands as a word of its own: punctuation, and ASCII's symbols with it.
  static func isPunctuation(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.value {
    case 33...47, 58...64, 91...96, 123...126: return true
    case 0..<128: return false
    case 0x166d, 0x111c9: return true
    default: break
    }
    switch scalar.properties.generalCategory {
    case .connectorPunctuation, .dashPunctuation, .openPunctuation, .closePunctuation, .initialPunctuation,
      .finalPunctuation, .otherPunctuation:
      return isAssigned(scalar, by: 8)
    default: return false
    }
  }

  /// Part of a word, `\w` of regular expressions: a letter, a mark, a digit, or what joins them.
  static func isOfWord(_ scalar: Unicode.Scalar) -> Bool {
    if scalar.properties.isAlphabetic || scalar.properties.isJoinControl { return true }
    switch scalar.properties.generalCategory {
    case .nonspacingMark, .spacingMark, .enclosingMark, .decimalNumber, .connectorPunctuation: return true
    default: return false
    }
  }

  /// The order of a mark behind its letter; 0: a letter.
  static func combiningClass(_ scalar: Unicode.Scalar) -> UInt8 {
    scalar.value < 0x300 || !isAssigned(scalar, by: 9) ? 0 : scalar.properties.canonicalCombiningClass.rawValue
  }

  /// True if no mark before the scalar can come behind it.
  static func isLetter(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.value {
    // Letters by their class, but marks when they are decomposed.
    case 0x0f73, 0x0f75, 0x0f81: false
    default: combiningClass(scalar) == 0
    }
  }

  /// True if the scalar may be a letter and marks in one.
  static func mayDecompose(_ scalar: Unicode.Scalar) -> Bool { scalar.value >= 0xc0 && isAssigned(scalar, by: 9) }

  private static func isAssigned(_ scalar: Unicode.Scalar, by major: Int) -> Bool {
    guard let age = scalar.properties.age else { return false }
    return age.major < major || (age.major == major && age.minor == 0)
  }
}
