/// A chart of horizontal bars that begin at a common line. There is a group of bars for each thing that is measured
/// and, in each group, a bar for each way to do that thing.
package struct BarChart: Decodable {
  package struct Group: Decodable {
    package let label: String
    /// One value for each series; nil: there is no bar.
    package let values: [Double?]
    /// The texts after the bars, one for each series. Where there is no bar, the text gives the reason.
    package let notes: [String]

    package init(label: String, values: [Double?], notes: [String]) {
      self.label = label
      self.values = values
      self.notes = notes
    }
  }

  package struct Mark: Decodable {
    package let value: Double
    package let label: String

    package init(value: Double, label: String) {
      self.value = value
      self.label = label
    }
  }

  package let title: String
  /// What was measured, where and when.
  package let subtitle: String
  /// The names of the series, which say what each bar of a group stands for. There are at most ``seriesLimit`` of them.
  package let series: [String]
  /// A value to compare with, drawn as a line across all bars.
  package let mark: Mark?
  package let groups: [Group]

  package init(title: String, subtitle: String, series: [String], mark: Mark?, groups: [Group]) {
    self.title = title
    self.subtitle = subtitle
    self.series = series
    self.mark = mark
    self.groups = groups
  }

  private static let classes = ["first", "second", "third", "fourth", "fifth", "sixth"]

  package static let seriesLimit = classes.count

  package var svg: String {
    let margin = 16.0
    let bar = series.count > 1 ? 11.0 : 16.0
    let gap = series.count > 1 ? 12.0 : 9.0
    let left = margin + 10 + (groups.map { estimatedWidth($0.label) }.max() ?? 0)
    let plot = 520.0
    let noteWidth = 12 + (groups.flatMap(\.notes).map { estimatedWidth($0) * 0.86 }.max() ?? 0)
    let groupHeight = bar * Double(max(series.count, 1)) + gap
    let top = margin + (series.count > 1 ? 84 : 62)
    let bottom = top + groupHeight * Double(groups.count)
    let width =
      max(left + plot + noteWidth, margin + estimatedWidth(subtitle) * 0.88, margin + estimatedWidth(title) * 1.35)
      + margin
    let most = max(
      groups.flatMap(\.values).compactMap { $0 }.filter(\.isFinite).max() ?? 0, mark?.value ?? 0,
      .leastNormalMagnitude)
    func position(_ value: Double) -> Double { left + plot * max(0, min(value / most, 1)) }

    var document = SVGDocument(width: width, height: bottom + margin, title: title)
    document.text(title, x: margin, y: margin + 14, class: "title")
    document.text(subtitle, x: margin, y: margin + 34, class: "small")
    if series.count > 1 {
      var x = margin
      for (name, style) in zip(series, Self.classes) {
        document.box(x: x, y: margin + 45, width: 11, height: 11, class: style, radius: 2)
        document.text(name, x: x + 16, y: margin + 55, class: "small")
        x += 36 + estimatedWidth(name)
      }
    }
    document.line(x1: left, y1: top - 6, x2: left, y2: bottom, class: "grid")
    for (index, group) in groups.enumerated() {
      let y = top + groupHeight * Double(index)
      document.text(
        group.label, x: left - 10, y: y + bar * Double(max(series.count, 1)) / 2 + 4.5, anchor: .end)
      for (number, (value, note)) in zip(group.values, group.notes).enumerated() {
        let end = value.map(position) ?? left
        let barTop = y + bar * Double(number)
        if let value {
          document.box(
            x: left, y: barTop, width: max(1, end - left), height: bar - 1, class: Self.classes[number], radius: 2,
            hint: "\(group.label), \(series[number]): \(value)")
        }
        document.text(note, x: end + 6, y: barTop + bar / 2 + 3.5, class: "small")
      }
    }
    if let mark {
      document.line(x1: position(mark.value), y1: top - 6, x2: position(mark.value), y2: bottom, class: "mark")
      document.text(mark.label, x: position(mark.value), y: top - 11, class: "small", anchor: .middle)
    }
    return document.source
  }
}
