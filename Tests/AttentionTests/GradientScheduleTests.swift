import Attention
import Testing

@Suite("The order of a backward pass")
struct GradientScheduleTests {
  @Test(
    "every thread has a task, however large the units are",
    arguments: [1, 2, 5, 64], [1 << 10, 4 << 20, 1 << 30])
  func threads(unitCount: Int, unitByteCount: Int) {
    for threadCount in [1, 2, 16, 64] {
      for sharesBiases in [false, true] {
        let schedule = GradientSchedule(
          unitCount: unitCount, regionCount: 128, copyCount: 1, sharesBiases: sharesBiases, threadCount: threadCount,
          unitByteCount: unitByteCount)
        #expect(schedule.taskCount >= min(threadCount, sharesBiases ? 128 : unitCount * 128))
        #expect(schedule.rounds.flatMap { $0 }.sorted() == Array(0..<unitCount))
        // Either all sums take at most 32 MiB, which is the limit of a schedule, or the units are so large that there
        // are only about one sum for each thread and one for each slot.
        let sumCount = schedule.slotCount * (schedule.regionsPerStep + 1)
        if schedule.sharesUnits {
          #expect(sumCount * unitByteCount <= 32 << 20 || sumCount <= threadCount + 2 * schedule.slotCount)
        }
      }
    }
  }
}
