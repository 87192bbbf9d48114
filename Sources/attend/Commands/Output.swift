import AttentionTensors
import Foundation

/// Writes `value` to standard output as JSON.
func printJSON(_ value: some Encodable) throws {
  let encoder = JSONEncoder()
  encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
  encoder.nonConformingFloatEncodingStrategy = .convertToString(
    positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
  print(String(decoding: try encoder.encode(value), as: UTF8.self))
}

/// Writes `value` to standard output as one line of JSON.
func printJSONLine(_ value: some Encodable) throws {
  let encoder = JSONEncoder()
  encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
  encoder.nonConformingFloatEncodingStrategy = .throw
  print(String(decoding: try encoder.encode(value), as: UTF8.self))
}

/// Throws unless all printed output has been written, so that a reader never takes an empty or cut output for the whole
/// output.
func flushOutput() throws {
  guard fflush(nil) == 0 else {
    throw AttentionError(.inputOutput, "standard output", String(cString: strerror(errno)))
  }
}

/// A number in the form `1.20e-07`.
func scientific(_ value: Double) -> String {
  value.isFinite ? String(format: "%.2e", value) : "\(value)"
}

extension String {
  /// The text with U+FFFD in place of characters that control a terminal: text from a file must not control it.
  var printable: String {
    let scalars = unicodeScalars.map { scalar -> Unicode.Scalar in
      switch scalar.properties.generalCategory {
      case .control, .format, .lineSeparator, .paragraphSeparator: "\u{fffd}"
      default: scalar
      }
    }
    return String(String.UnicodeScalarView(scalars))
  }
}
