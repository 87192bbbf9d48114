import Foundation

/// A page of its own in which a reader picks sentence, head and word: nothing is loaded from elsewhere.
struct MapPage {
  private struct Content: Encodable {
    let origin: String
    let sentences: [AttentionMap.Sentence]
    let sentence: Int
    let layer: Int
    /// −1: the mean over heads.
    let head: Int
    /// −1: none.
    let token: Int
  }

  /// What the page says under its title.
  let origin: String
  let map: AttentionMap
  /// What is shown first.
  let sentence: Int
  let layer: Int
  let head: Int?
  let token: Int?

  var html: [UInt8] {
    get throws {
      let encoder = JSONEncoder()
      encoder.outputFormatting = .sortedKeys
      encoder.nonConformingFloatEncodingStrategy = .convertToString(
        positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
      let content = Content(
        origin: origin, sentences: map.sentences.map(\.rounded), sentence: sentence, layer: layer, head: head ?? -1,
        token: token ?? -1
      )
      // A word of the file must not end the script that holds it.
      // By bytes: some characters join with the "<" behind them.
      let json = try encoder.encode(content).flatMap { $0 == UInt8(ascii: "<") ? Array("\\u003c".utf8) : [$0] }
      let parts = String(decoding: PackageResources.map_html, as: UTF8.self).components(separatedBy: "/*DATA*/")
      return Array(parts[0].utf8) + json + Array(parts[1].utf8)
    }
  }
}
