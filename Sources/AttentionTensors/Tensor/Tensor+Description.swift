internal import CLibrary

extension Tensor: CustomStringConvertible {
  /// The elements as NumPy prints them, with nested brackets and aligned columns. If there are more than 1000 elements,
  /// `...` replaces the middle of axes longer than 6.
  ///
  ///     [[ 1.   2.5]
  ///      [-3.   4. ]]
  public var description: String {
    if count == 0 { return "[]" + (rank > 1 ? " (shape \(shape))" : "") }
    let summarised = count > 1000
    let shown = shape.map { extent in
      summarised && extent > 6
        ? [0, 1, 2, nil, extent - 3, extent - 2, extent - 1] : Array(0..<extent).map(Optional.some)
    }
    var values: [Element] = []
    collect(axis: 0, offset: 0, shown, into: &values)
    var cells = formatCells(values)[...]
    return render(axis: 0, shown, &cells)
  }

  /// Appends to `values`, in row-major order, the elements that are shown.
  private func collect(axis: Int, offset: Int, _ shown: [[Int?]], into values: inout [Element]) {
    if axis == rank { return values.append(base[offset]) }
    for case let index? in shown[axis] {
      collect(axis: axis + 1, offset: offset + index * strides[axis], shown, into: &values)
    }
  }

  private func render(axis: Int, _ shown: [[Int?]], _ cells: inout ArraySlice<String>) -> String {
    if axis == rank { return cells.removeFirst() }
    let separator =
      axis == rank - 1
      ? " " : String(repeating: "\n", count: rank - 1 - axis) + String(repeating: " ", count: axis + 1)
    var parts: [String] = []
    for index in shown[axis] {
      parts.append(index == nil ? "..." : render(axis: axis + 1, shown, &cells))
    }
    return "[" + parts.joined(separator: separator) + "]"
  }
}

/// The text of every value, padded with blanks to one width.
private func formatCells<Element>(_ values: [Element]) -> [String] {
  let texts: [String]
  if let numbers = values as? [any RealTensorElement] {
    // Numbers become Doubles through text, so that each keeps the shortest text that identifies it in its own type: the
    // Float 0.1 becomes the Double 0.1.
    texts = formatReals(numbers.map { Double("\($0)") ?? $0._double })
  } else if let flags = values as? [Bool] {
    texts = flags.map { $0 ? "True" : "False" }
  } else {
    texts = values.map { "\($0)" }
  }
  let width = texts.map(\.count).max() ?? 0
  return texts.map { String(repeating: " ", count: width - $0.count) + $0 }
}

/// The values as text, with at most 8 digits after the point, and no more digits than the values need. Exponents are
/// used if a magnitude is at least 1e8 or less than 1e-4, or if the largest magnitude is more than 1000 times the
/// smallest. Only finite values other than 0 count.
private func formatReals(_ values: [Double]) -> [String] {
  let magnitudes = values.filter { $0.isFinite && $0 != 0 }.map(abs)
  let most = magnitudes.max() ?? 0
  let least = magnitudes.min() ?? 0
  let isScientific = most >= 1e8 || (least > 0 && (least < 1e-4 || most / least > 1e3))
  let finite = values.filter(\.isFinite)
  let longest = finite.map { strtod(formatReal($0, 8, isScientific), nil) }
  let digits = (0..<8).first { digits in finite.map { strtod(formatReal($0, digits, isScientific), nil) } == longest }
  return values.map { value in
    if value.isNaN { return "nan" }
    if value.isInfinite { return value < 0 ? "-inf" : "inf" }
    var text = formatReal(value, digits ?? 8, isScientific)
    // NumPy writes `1.` for 1, and writes blanks in place of zeros at the end.
    if !text.contains(".") { text.insert(".", at: text.firstIndex(of: "e") ?? text.endIndex) }
    if !isScientific {
      let significant = text.reversed().drop { $0 == "0" }.count
      text = String(text.prefix(significant)) + String(repeating: " ", count: text.count - significant)
    }
    return text
  }
}

/// Formats as printf's `%.*e` or `%.*f` do. The buffer holds any Double with 8 digits after the point: the longest
/// text, that of −1.8e308, has 319 characters.
private func formatReal(_ value: Double, _ digits: Int, _ isScientific: Bool) -> String {
  var buffer = [CChar](repeating: 0, count: 400)
  let written = withVaList([Int32(digits), value]) {
    vsnprintf(&buffer, buffer.count, isScientific ? "%.*e" : "%.*f", $0)
  }
  return String(decoding: buffer.prefix(Int(written)).map(UInt8.init(bitPattern:)), as: UTF8.self)
}
