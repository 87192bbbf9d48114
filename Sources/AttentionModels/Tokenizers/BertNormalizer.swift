internal import Foundation

/// The options of BERT's normalisation, as in `tokenizer.json`.
struct BertNormalizer: Sendable, Hashable {
  /// Whether control characters are removed, and every kind of white space becomes a space.
  var cleansText = true
  /// Whether ideographs become separate words.
  var separatesIdeographs = true
  /// Whether accents are removed.
  var stripsAccents = true
  /// Whether letters become small letters.
  var lowercases = true

  /// A text in normal form.
  func normalized(_ text: String) -> String {
    String(String.UnicodeScalarView(normalize(text.unicodeScalars.compactMap(cleaned))))
  }

  /// The normal form of scalars that `cleaned` has already cleaned: a whole text, or a run of scalars beyond ASCII.
  ///
  /// Steps, in Hugging Face's order: separate ideographs, decompose (NFD) and strip accents, lowercase.
  func normalize(_ scalars: [Unicode.Scalar]) -> [Unicode.Scalar] {
    var scalars = scalars
    if separatesIdeographs, scalars.contains(where: BertCharacters.isIdeograph) {
      scalars = scalars.flatMap { BertCharacters.isIdeograph($0) ? [" ", $0, " "] : [$0] }
    }
    if stripsAccents { scalars = decomposed(scalars).filter { !BertCharacters.isStripped($0) } }
    if lowercases {
      scalars = scalars.flatMap { scalar in
        scalar.properties.changesWhenLowercased ? Array(scalar.properties.lowercaseMapping.unicodeScalars) : [scalar]
      }
    }
    return scalars
  }

  /// The scalar that replaces `scalar` in clean text: none, a space, or the same.
  @inline(__always)
  func cleaned(_ scalar: Unicode.Scalar) -> Unicode.Scalar? {
    if !cleansText { return scalar }
    if BertCharacters.isRemoved(scalar) { return nil }
    // Accents are stripped here, earlier than in Hugging Face's order. The result is the same: accents do not change
    // the order of other marks.
    if stripsAccents && BertCharacters.isStripped(scalar) { return nil }
    return BertCharacters.isSpace(scalar) ? " " : scalar
  }

  /// The canonical decomposition, with the marks after a letter in the order of their combining classes.
  private func decomposed(_ scalars: [Unicode.Scalar]) -> [Unicode.Scalar] {
    var result: [Unicode.Scalar] = []
    result.reserveCapacity(scalars.count)
    var classes: [UInt8] = []
    /// Where the marks after the last letter begin.
    var first = 0
    func sortMarks() {
      if result.count - first > 1 {
        let marks = zip(classes, result[first...]).enumerated()
          .sorted { ($0.element.0, $0.offset) < ($1.element.0, $1.offset) }
        for (i, mark) in marks.enumerated() { result[first + i] = mark.element.1 }
      }
      classes.removeAll(keepingCapacity: true)
    }
    func append(_ scalar: Unicode.Scalar) {
      let order = BertCharacters.combiningClass(scalar)
      if order == 0 {
        sortMarks()
        result.append(scalar)
        first = result.count
      } else {
        result.append(scalar)
        classes.append(order)
      }
    }
    for scalar in scalars {
      guard BertCharacters.mayDecompose(scalar) else {
        append(scalar)
        continue
      }
      for part in Decompositions.shared.parts(scalar) { append(part) }
    }
    sortMarks()
    return result
  }
}

/// The canonical decompositions of scalars, as Foundation gives them. They are computed once and kept, because
/// Foundation is slow. No scalar above U+2FFFF decomposes.
private struct Decompositions: Sendable {
  static let shared = Decompositions()

  private let parts: [Unicode.Scalar: [Unicode.Scalar]]

  private init() {
    var parts: [Unicode.Scalar: [Unicode.Scalar]] = [:]
    // Hangul syllables are left out: they are many, and `parts(_:)` decomposes them by a rule.
    for value in UInt32(0xc0)..<0x30000 where !Self.hangul.contains(value) {
      guard let scalar = Unicode.Scalar(value), BertCharacters.mayDecompose(scalar) else { continue }
      let decomposed = Array(String(Character(scalar)).decomposedStringWithCanonicalMapping.unicodeScalars)
      if decomposed != [scalar] { parts[scalar] = decomposed }
    }
    self.parts = parts
  }

  private static let hangul: ClosedRange<UInt32> = 0xac00...0xd7a3

  func parts(_ scalar: Unicode.Scalar) -> [Unicode.Scalar] {
    guard Self.hangul.contains(scalar.value) else { return parts[scalar] ?? [scalar] }
    // The index of a syllable counts leading, vowel and trailing jamo (L × V × T); the trailing one changes fastest.
    // Source: The Unicode Standard, section 3.12.
    let index = scalar.value - Self.hangul.lowerBound
    let (rest, trailing) = index.quotientAndRemainder(dividingBy: 28)
    let (leading, vowel) = rest.quotientAndRemainder(dividingBy: 21)
    var jamo = [0x1100 + leading, 0x1161 + vowel]
    if trailing > 0 { jamo.append(0x11a7 + trailing) }
    return jamo.map { Unicode.Scalar($0)! }
  }
}
