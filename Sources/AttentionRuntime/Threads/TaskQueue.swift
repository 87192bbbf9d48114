import Synchronization

/// Hands out piece numbers, each once: to worker w of n the pieces w, w + n, w + 2n …, then what others have left of
/// theirs.
///
/// From call to call a worker so has the same pieces, as far as it keeps up, and what they read and write in the caches near
/// its CPU; and pieces that are under way at one time lie side by side, and share what they read.
final class PieceQueue: @unchecked Sendable {
  // Sendable: the numbers are atomic, and their places do not change.

  private let pieceCount: Int
  private let workerCount: Int
  /// How many of each worker's pieces are taken, in a line of the cache of its own, and of the one that is fetched with it.
  private let taken: UnsafeMutablePointer<Atomic<Int>>
  private static let pitch = 16

  init(pieceCount: Int, workerCount: Int) {
    self.pieceCount = pieceCount
    self.workerCount = workerCount
    taken = .allocate(capacity: workerCount * Self.pitch)
    for worker in 0..<workerCount { (taken + worker * Self.pitch).initialize(to: Atomic(0)) }
  }

  deinit {
    for worker in 0..<workerCount { (taken + worker * Self.pitch).deinitialize(count: 1) }
    taken.deallocate()
  }

  private func count(_ share: Int) -> Int { (pieceCount - share + workerCount - 1) / workerCount }

  private func isEmpty(_ share: Int) -> Bool {
    taken[share * Self.pitch].load(ordering: .relaxed) >= count(share)
  }

  /// `share`, at first the worker's own number, is whose pieces it has come to.
  func take(from share: inout Int) -> Int? {
    for _ in 0..<workerCount {
      // Looked at before it is counted up, so as not to be counted up for ever.
      if !isEmpty(share) {
        let index = taken[share * Self.pitch].wrappingAdd(1, ordering: .relaxed).oldValue
        if index < count(share) { return share + index * workerCount }
      }
      share = share + 1 == workerCount ? 0 : share + 1
    }
    return nil
  }

  var isEmpty: Bool { (0..<workerCount).allSatisfy(isEmpty) }
}
