/// The properties of characters that BERT's normalisation and its splitting into words use, as in Hugging Face's `tokenizers`.
///
/// The tables of `tokenizers` are older than Swift's: categories are those of Unicode 8, decompositions those of Unicode 9.
/// Characters that were added later are recognised by their age. The few that have changed their category since are listed.
/// All scalars were compared with `tokenizers` 0.23.3.
enum BertCharacters {
  /// True for characters that are dropped first: control characters, most format characters, private use, and the replacement
  /// for undecodable bytes.
  static func isRemoved(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.value {
    case 0x09, 0x0a, 0x0d: return false
    case 0xfffd: return true
    // Format characters that Unicode 8 did not have, or had in another category.
    case 0x0890...0x0891, 0x08e2, 0x110cd, 0x13430...0x1343f: return false
    default: break
    }
    switch scalar.properties.generalCategory {
    case .control, .format, .privateUse: return true
    default: return false
    }
  }

  /// True for characters that become a space.
  static func isSpace(_ scalar: Unicode.Scalar) -> Bool { scalar.properties.isWhitespace }

  /// True for ideographs, each of which is a word of its own. Hugging Face's ranges, too, leave out U+2B820 to U+2B91F.
  static func isIdeograph(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.value {
    case 0x3400...0x4dbf, 0x4e00...0x9fff, 0xf900...0xfaff, 0x20000...0x2a6df, 0x2a700...0x2b81f, 0x2b920...0x2ceaf,
      0x2f800...0x2fa1f:
      true
    default: false
    }
  }

  /// True for accents, which are stripped after decomposition.
  static func isStripped(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.value {
    case 0x1734, 0x1171e: true
    case 0x1885...0x1886, 0xa9bd, 0x111c9: false
    default: scalar.properties.generalCategory == .nonspacingMark && isAssigned(scalar, by: 8)
    }
  }

  /// True for characters that are a word of their own: punctuation, including ASCII's symbols.
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

  /// True for a part of a word, as `\w` in regular expressions: a letter, a mark, a digit, or a joining character.
  static func isOfWord(_ scalar: Unicode.Scalar) -> Bool {
    if scalar.properties.isAlphabetic || scalar.properties.isJoinControl { return true }
    switch scalar.properties.generalCategory {
    case .nonspacingMark, .spacingMark, .enclosingMark, .decimalNumber, .connectorPunctuation: return true
    default: return false
    }
  }

  /// The combining class, which gives the order of the marks after a letter; 0: a letter.
  static func combiningClass(_ scalar: Unicode.Scalar) -> UInt8 {
    scalar.value < 0x300 || !isAssigned(scalar, by: 9) ? 0 : scalar.properties.canonicalCombiningClass.rawValue
  }

  /// True if sorting marks never moves a mark across this scalar.
  static func isLetter(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.value {
    // The combining class of these scalars is 0, but they decompose into marks.
    case 0x0f73, 0x0f75, 0x0f81: false
    default: combiningClass(scalar) == 0
    }
  }

  /// True if the scalar may stand for a letter and its marks.
  static func mayDecompose(_ scalar: Unicode.Scalar) -> Bool { scalar.value >= 0xc0 && isAssigned(scalar, by: 9) }

  private static func isAssigned(_ scalar: Unicode.Scalar, by major: Int) -> Bool {
    guard let age = scalar.properties.age else { return false }
    return age.major < major || (age.major == major && age.minor == 0)
  }
}
