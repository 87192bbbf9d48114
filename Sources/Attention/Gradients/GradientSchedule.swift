/// The order in which a backward pass computes its units. A unit is a key/value head of an element of the batch.
///
/// The bits of the gradients do not depend on this order. For biases that several units share, they depend on the
/// number of copies of the gradients of biases, which follows only from shapes.
package struct GradientSchedule {
  /// True if each task computes one region of keys of a unit. False if each task computes a whole unit.
  package let sharesUnits: Bool
  /// The units of each round. The units of one round are computed at the same time; the rounds follow one another. Used
  /// only if tasks share units.
  package let rounds: [[Int]]
  /// The number of regions of each unit of a round that are computed at the same time.
  package let regionsPerStep: Int
  /// The number of copies of the gradients of biases to which units add.
  package let copyCount: Int
  private let unitCount: Int

  /// How many tasks each thread should get, so that all threads stay busy until the end.
  private static var tasksPerThread: Int { 4 }
  /// The number of tasks that are wanted if units share the gradient of a bias. The bits of that gradient depend on
  /// this number, so it must not depend on the number of threads.
  private static var taskCountOfSharedBias: Int { 16 }
  /// The most bytes for the sums of dQ of the units and regions that are computed at the same time. The sums take more
  /// only if fewer tasks than threads would remain otherwise.
  private static var byteLimit: Int { 32 << 20 }

  /// - Parameters:
  ///   - unitCount: The number of units.
  ///   - regionCount: The most regions of keys that a unit has.
  ///   - copyCount: The number of copies of the gradients of biases.
  ///   - sharesBiases: True if several units add to the gradient of the same bias.
  ///   - threadCount: The number of threads.
  ///   - unitByteCount: The bytes of the sums of dQ of one unit.
  package init(
    unitCount: Int, regionCount: Int, copyCount: Int, sharesBiases: Bool, threadCount: Int, unitByteCount: Int
  ) {
    self.unitCount = unitCount
    self.copyCount = copyCount
    let wanted = Self.tasksPerThread * threadCount
    sharesUnits = sharesBiases || (unitCount < wanted && regionCount > 1 && threadCount > 1)
    // A unit needs memory for its own sums and for those of at least one region.
    let slotLimit = max(1, Self.byteLimit / max(1, 2 * unitByteCount))
    func cut(_ units: [Int]) -> [[Int]] {
      stride(from: 0, to: units.count, by: slotLimit).map { Array(units[$0..<min($0 + slotLimit, units.count)]) }
    }
    if sharesBiases {
      // Each round has at most one unit of each copy, and the regions of one unit hold different keys. So no two tasks
      // of a round add to the same elements.
      let unitsPerCopy = unitCount.dividedRoundingUp(by: copyCount)
      rounds = (0..<unitsPerCopy).flatMap { cut(Array(stride(from: $0, to: unitCount, by: unitsPerCopy))) }
    } else {
      rounds = cut(Array(0..<unitCount))
    }
    let slotCount = max(1, rounds.map(\.count).max() ?? 1)
    let limit = max(
      threadCount.dividedRoundingUp(by: slotCount), Self.byteLimit / max(1, slotCount * unitByteCount) - 1)
    regionsPerStep = max(1, min(regionCount, wanted.dividedRoundingUp(by: slotCount), limit))
  }

  /// The number of copies of the gradients of biases. Units that add to different copies can be computed at the same
  /// time.
  static func copyCount(sharesBiases: Bool, unitCount: Int, regionCount: Int) -> Int {
    sharesBiases ? max(1, min(unitCount, taskCountOfSharedBias / max(1, regionCount))) : 1
  }

  func copy(ofUnit unit: Int) -> Int { unit / unitCount.dividedRoundingUp(by: copyCount) }

  /// The most units that are computed at the same time if tasks share units.
  package var slotCount: Int { rounds.map(\.count).max() ?? 0 }

  /// The number of tasks that can run at the same time.
  package var taskCount: Int { sharesUnits ? slotCount * regionsPerStep : unitCount }
}
