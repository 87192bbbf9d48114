import AttentionTensors
import Foundation

/// A query, the text that belongs to it, and perhaps texts that do not belong to it.
struct TrainingPair: Sendable, Hashable {
  let query: String
  let positive: String
  let negatives: [String]

  /// The pairs in a file, or those of standard input if the path is `-`.
  ///
  /// Each line is a JSON object, or texts that are separated by tabs: query, positive and perhaps negatives. Empty lines are
  /// left out, and so is a first line that names the columns.
  /// - Throws: `AttentionError` that names the line and what is wrong with it.
  static func read(_ path: String) throws -> [TrainingPair] {
    let reader = try LineReader(path: path)
    var pairs: [TrainingPair] = []
    var number = 0
    while let lines = try reader.next(limit: 1024) {
      for var line in lines {
        number += 1
        // A byte order mark.
        if number == 1 && line.first == "\u{feff}" { line.removeFirst() }
        if number == 1 && headers.contains(where: line.lowercased().hasPrefix) { continue }
        if line.allSatisfy(\.isWhitespace) { continue }
        pairs.append(try parse(line, place: "\(path == "-" ? "standard input" : path), line \(number)"))
      }
    }
    return pairs
  }

  /// Beginnings of a first line that names the columns.
  private static let headers = ["query\tpositive", "anchor\tpositive"]

  private struct Object: Decodable {
    let query: String?
    let anchor: String?
    let positive: String?
    let negative: String?
    let negatives: [String]?
  }

  private static func parse(_ line: String, place: String) throws(AttentionError) -> TrainingPair {
    let pair: TrainingPair
    if line.first(where: { !$0.isWhitespace }) == "{" {
      guard let object = try? JSONDecoder().decode(Object.self, from: Data(line.utf8)),
        let query = object.query ?? object.anchor, let positive = object.positive
      else {
        throw AttentionError(
          .invalidFile, place,
          "an object with the strings \"query\" (or \"anchor\") and \"positive\", and perhaps a list of strings \"negatives\" "
            + "or a string \"negative\", expected")
      }
      pair = TrainingPair(
        query: query, positive: positive,
        negatives: (object.negatives ?? []) + (object.negative.map { [$0] } ?? []))
    } else {
      let columns = line.split(separator: "\t", omittingEmptySubsequences: false).map(String.init)
      guard columns.count >= 2 else {
        throw AttentionError(
          .invalidFile, place, "a query, a tab and a positive expected, or a JSON object; got a line without a tab")
      }
      pair = TrainingPair(query: columns[0], positive: columns[1], negatives: columns[2...].filter { !$0.isEmpty })
    }
    if ([pair.query, pair.positive] + pair.negatives).contains(where: { $0.allSatisfy(\.isWhitespace) }) {
      throw AttentionError(.invalidFile, place, "texts expected; one is empty")
    }
    return pair
  }
}
