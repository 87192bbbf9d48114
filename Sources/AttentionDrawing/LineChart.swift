/// A curve over the steps of a run, and a smoother curve that shows the trend.
package struct LineChart {
  private let title: String
  private let subtitle: String
  private let axisLabel: String
  private let values: [Double]

  /// - Parameters:
  ///   - title: What the curve shows.
  ///   - subtitle: What the run computed, and with which settings.
  ///   - axisLabel: What is counted along the horizontal axis.
  ///   - values: One value for each step, finite.
  package init(title: String, subtitle: String, axisLabel: String, values: [Double]) {
    self.title = title
    self.subtitle = subtitle
    self.axisLabel = axisLabel
    self.values = values
  }

  /// For each step, the mean of its value and of up to four values on either side.
  private var smoothed: [Double] {
    values.indices.map { index in
      let near = values[max(0, index - 4)..<min(values.count, index + 5)]
      return near.reduce(0, +) / Double(near.count)
    }
  }

  package var svg: String {
    let (left, top, plotWidth, plotHeight) = (64.0, 76.0, 560.0, 240.0)
    let (bottom, right) = (top + plotHeight, left + plotWidth)
    var document = SVGDocument(
      width: max(right + 24, 24 + estimatedWidth(subtitle) * 0.9), height: bottom + 52, title: title)
    document.text(title, x: 16, y: 30, class: "title")
    document.text(subtitle, x: 16, y: 50, class: "small")
    let most = max(values.max() ?? 0, .leastNormalMagnitude)
    func y(_ value: Double) -> Double { bottom - plotHeight * max(0, value) / most }
    func x(_ index: Int) -> Double { left + plotWidth * Double(index) / Double(max(values.count - 1, 1)) }
    for part in 0...4 {
      let value = most * Double(part) / 4
      document.line(x1: left, y1: y(value), x2: right, y2: y(value), class: "grid")
      document.text(shortNumber(value), x: left - 8, y: y(value) + 4, class: "small", anchor: .end)
    }
    for index in Set([0, values.count / 2, max(values.count - 1, 0)]).sorted() {
      document.text("\(index + 1)", x: x(index), y: bottom + 18, class: "small", anchor: .middle)
    }
    document.text(axisLabel, x: (left + right) / 2, y: bottom + 38, class: "small", anchor: .middle)
    document.curve(values.enumerated().map { (x($0), y($1)) }, class: "faint")
    document.curve(smoothed.enumerated().map { (x($0), y($1)) }, class: "curve")
    return document.source
  }

  private func shortNumber(_ value: Double) -> String {
    let scale = value >= 100 ? 1.0 : value >= 1 ? 100 : 10_000
    let rounded = (value * scale).rounded() / scale
    return rounded == rounded.rounded() ? "\(Int(rounded))" : "\(rounded)"
  }
}
