import Foundation

/// A line on standard error that shows the progress of long work, if standard error is a terminal.
struct ProgressLine {
  private let what: String
  private let start = ContinuousClock.now
  private let isShown = Terminal.hasProgress

  /// How much was done before this line began.
  private let doneBefore: Int

  init(_ what: String, after doneBefore: Int = 0) {
    self.what = what
    self.doneBefore = doneBefore
  }

  func report(_ done: Int, of count: Int, note: String = "") {
    guard isShown, count > 0 else { return }
    let seconds = (ContinuousClock.now - start) / .seconds(1)
    var line = "\r\(done) of \(count) \(what)"
    if !note.isEmpty { line += ", \(note)" }
    if done > doneBefore, seconds >= 1 {
      let rate = Double(done - doneBefore) / seconds
      line += String(
        format: rate < 10 ? ", %.1f/s, %.0f s left" : ", %.0f/s, %.0f s left", rate, Double(count - done) / rate)
    }
    // "\u{1b}[K" wipes the rest of an older, longer line; the last report wipes the whole line.
    Terminal.tell((done == count ? "\r" : line) + "\u{1b}[K")
  }
}
