import Attention

/// A retention and a placement of a cache. Tests of caches run for several of these pairs.
struct CacheKind: Sendable, Equatable, CustomStringConvertible {
  let retention: KeyValueRetention
  let placement: KeyValuePlacement

  static let growing = CacheKind(retention: .all, placement: .contiguous)

  static func paged(_ pageLength: Int) -> CacheKind {
    CacheKind(retention: .all, placement: .paged(pageLength: pageLength))
  }

  static func window(_ length: Int, _ first: Int, pageLength: Int? = nil) -> CacheKind {
    CacheKind(
      retention: .window(length: length, keepingFirst: first),
      placement: pageLength.map { .paged(pageLength: $0) } ?? .contiguous)
  }

  func cache<Element: AttentionStorage>(
    _: Element.Type = Element.self, batchCount: Int, headCount: Int, headDimension: Int, valueDimension: Int? = nil
  ) throws -> KeyValueCache<Element> {
    try KeyValueCache(
      batchCount: batchCount, headCount: headCount, headDimension: headDimension, valueDimension: valueDimension,
      retention: retention, placement: placement)
  }

  /// The mask of one causal prefill that gives the same results as decoding with the cache.
  var mask: AttentionMask {
    guard case .window(let length, let first) = retention else { return .causal }
    return .window(left: length - 1, keepingFirst: first)
  }

  var description: String { "\(retention), \(placement)" }
}
