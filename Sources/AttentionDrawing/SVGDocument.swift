/// A picture of lines, boxes and text for browsers. Its colours are light or dark, as the reader has set the browser.
package struct SVGDocument {
  package enum Anchor: String { case start, middle, end }

  private let width: Double
  private let height: Double
  private let title: String
  private var body = ""

  /// An empty picture; `title` says what it shows, for people who cannot see it.
  package init(width: Double, height: Double, title: String) {
    self.width = width
    self.height = height
    self.title = title
  }

  /// Adds text whose baseline begins, is centred, or ends at a point. The text is turned about this point by `angle`,
  /// in degrees, clockwise.
  package mutating func text(
    _ content: String, x: Double, y: Double, class name: String = "text", anchor: Anchor = .start, angle: Double = 0
  ) {
    let turn = angle == 0 ? "" : " transform=\"rotate(\(number(angle)) \(number(x)) \(number(y)))\""
    body += "<text class=\"\(name)\" x=\"\(number(x))\" y=\"\(number(y))\" text-anchor=\"\(anchor.rawValue)\"\(turn)>"
    body += "\(escaped(content))</text>\n"
  }

  /// A box; `hint` shows while the pointer rests on it.
  package mutating func box(
    x: Double, y: Double, width: Double, height: Double, class name: String, opacity: Double? = nil, radius: Double = 0,
    hint: String? = nil
  ) {
    body += "<rect class=\"\(name)\" x=\"\(number(x))\" y=\"\(number(y))\" width=\"\(number(max(0, width)))\" "
    body += "height=\"\(number(max(0, height)))\""
    if radius > 0 { body += " rx=\"\(number(radius))\"" }
    if let opacity { body += " fill-opacity=\"\(number(opacity))\"" }
    body += hint.map { "><title>\(escaped($0))</title></rect>\n" } ?? "/>\n"
  }

  package mutating func line(x1: Double, y1: Double, x2: Double, y2: Double, class name: String) {
    body +=
      "<line class=\"\(name)\" x1=\"\(number(x1))\" y1=\"\(number(y1))\" x2=\"\(number(x2))\" y2=\"\(number(y2))\"/>\n"
  }

  /// A line through some points.
  package mutating func curve(_ points: [(x: Double, y: Double)], class name: String) {
    let list = points.map { "\(number($0.x)),\(number($0.y))" }.joined(separator: " ")
    body += "<polyline class=\"\(name)\" points=\"\(list)\"/>\n"
  }

  /// The SVG file.
  package var source: String {
    """
    <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 \(number(width)) \(number(height))" \
    width="\(number(width))" height="\(number(height))" role="img" aria-label="\(escaped(title))">
    <title>\(escaped(title))</title>
    <style>\(Self.style)</style>
    <rect class="paper" width="100%" height="100%"/>
    \(body)</svg>

    """
  }

  /// The fonts and colours. Colour-blind readers can tell the colours apart too, on the light and on the dark
  /// background.
  private static let style = """
    text{font:13px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}\
    .title{font-size:17px;font-weight:600}.small{font-size:11px}\
    .paper{fill:#fff}.text,.title{fill:#1c2530}.small{fill:#5b6876}\
    .ink{fill:#0b5fae}.first{fill:#0b6bcb}.second{fill:#e08a1e}.third{fill:#9aa6b2}\
    .fourth{fill:#2f9e6e}.fifth{fill:#b04fb0}.sixth{fill:#8a5a2b}\
    .grid{stroke:#dfe4ea}.mark{stroke:#c2185b;stroke-width:1.5;stroke-dasharray:5 4}.cellframe{fill:#eef2f6}\
    .curve{fill:none;stroke:#0b6bcb;stroke-width:2}.faint{fill:none;stroke:#9aa6b2;stroke-width:1}\
    @media(prefers-color-scheme:dark){\
    .paper{fill:#12161b}.text,.title{fill:#e8edf2}.small{fill:#9aa7b4}\
    .ink{fill:#6cb8ff}.first{fill:#4aa3ff}.second{fill:#f0a848}.third{fill:#66727e}\
    .fourth{fill:#4fc38f}.fifth{fill:#d583d5}.sixth{fill:#c08a58}\
    .grid{stroke:#2b333c}.mark{stroke:#ff6fa3}.cellframe{fill:#1b2128}.curve{stroke:#4aa3ff}.faint{stroke:#66727e}}
    """
}

/// The number with at most two digits after the point.
private func number(_ value: Double) -> String {
  guard value.isFinite else { return "0" }
  let hundredths = (value * 100).rounded()
  return hundredths.truncatingRemainder(dividingBy: 100) == 0
    ? "\(Int(hundredths / 100))" : "\(hundredths / 100)"
}

/// Text that may stand in an SVG document. Markup characters are escaped. Control characters below U+0020, and U+FFFE
/// and U+FFFF, are replaced by U+FFFD, because XML forbids most of them.
package func escaped(_ text: String) -> String {
  var result = ""
  for scalar in text.unicodeScalars {
    switch scalar {
    case "&": result += "&amp;"
    case "<": result += "&lt;"
    case ">": result += "&gt;"
    case "\"": result += "&quot;"
    case "'": result += "&#39;"
    case "\u{0}"..<"\u{20}", "\u{fffe}", "\u{ffff}": result.unicodeScalars.append("\u{fffd}")
    default: result.unicodeScalars.append(scalar)
    }
  }
  return result
}

/// The approximate width of a text, in pixels, at a font size of 13 px. It is an estimate, because there is no font to
/// measure the text with.
package func estimatedWidth(_ text: String) -> Double {
  text.reduce(0) { $0 + ($1.isASCII ? ("iljtf.,:;'|![] ".contains($1) ? 4.2 : 7.4) : 13) }
}
