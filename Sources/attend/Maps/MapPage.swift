import Foundation

/// A self-contained page in which a reader picks sentence, layer, head and word; it loads nothing from elsewhere.
struct MapPage {
  private struct Content: Encodable {
    let origin: String
    let sentences: [AttentionMap.Sentence]
    let sentence: Int
    let layer: Int
    /// −1: the mean over all heads.
    let head: Int
    /// −1: no word.
    let token: Int
  }

  /// The text under the title of the page.
  let origin: String
  let map: AttentionMap
  /// The sentence, layer, head and word that are shown first.
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
      // A word must not end the script element that holds it, so each "<" is escaped. It is replaced as a byte, because
      // a `Character` may hold "<" together with a combining mark after it.
      let json = try encoder.encode(content).flatMap { $0 == UInt8(ascii: "<") ? Array("\\u003c".utf8) : [$0] }
      let parts = String(decoding: PackageResources.map_html, as: UTF8.self).components(separatedBy: "/*DATA*/")
      return Array(parts[0].utf8) + json + Array(parts[1].utf8)
    }
  }
}
