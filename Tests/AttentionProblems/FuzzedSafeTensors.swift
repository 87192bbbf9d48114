import AttentionFiles
import AttentionTensors

/// A safetensors file made of a fuzzer's bytes: it must be refused by an error, or be whole and survive a round trip.
///
/// The first byte tells how to read the others: as a file, or, because a fuzzer seldom finds the right
/// length, as a header that gets its length put before it and so many bytes of data behind it as the second byte says.
public func fuzzSafeTensors(_ bytes: UnsafeRawBufferPointer) -> String? {
  let file: SafeTensorsFile
  do throws(AttentionError) {
    file = try SafeTensorsFile(bytes: fileBytes(bytes))
  } catch {
    return error.message.isEmpty ? "an error without a message" : nil
  }
  do {
    var end = 0
    var writer = SafeTensorsWriter()
    writer.metadata = file.metadata
    for entry in file.entries {
      if entry.byteRange.lowerBound != end { return "\(entry.name): a gap before it" }
      end = entry.byteRange.upperBound
      let content = try file.withUnsafeBytes(of: entry.name, Array.init)
      if content.count != entry.byteRange.count { return "\(entry.name): \(content.count) bytes" }
      try read(entry, file)
      try writer.add(entry.name, dataType: entry.dataType, shape: entry.shape, bytes: content)
    }
    let again = try SafeTensorsFile(bytes: writer.bytes())
    if again.metadata != file.metadata { return "the metadata do not survive a round trip" }
    for entry in file.entries {
      guard let other = again.entry(entry.name), other.dataType == entry.dataType, other.shape == entry.shape else {
        return "\(entry.name) does not survive a round trip"
      }
      let before = try file.withUnsafeBytes(of: entry.name, Array.init)
      if try again.withUnsafeBytes(of: entry.name, Array.init) != before { return "\(entry.name) changes its bytes" }
    }
  } catch {
    return "\(error)"
  }
  return nil
}

/// Reads a tensor by every way that its type allows.
private func read(_ entry: SafeTensorsEntry, _ file: SafeTensorsFile) throws {
  switch entry.dataType {
  case .float32, .float64, .float16, .bfloat16:
    let tensor = try file.tensor(entry.name, convertingTo: Double.self)
    if tensor.shape != entry.shape { throw AttentionError(.shapeMismatch, entry.name, "\(tensor.shape)") }
    _ = tensor.array.reduce(0, +)
  case .int64:
    _ = try file.tensor(entry.name, as: Int64.self).array.reduce(0, &+)
  case .bool:
    // A byte that is neither 0 nor 1 is an error.
    _ = try? file.tensor(entry.name, as: Bool.self).array.count
  default:
    break
  }
}

private func fileBytes(_ bytes: UnsafeRawBufferPointer) -> [UInt8] {
  guard bytes.count >= 2, bytes[0] & 1 == 1 else { return Array(bytes.dropFirst()) }
  let header = Array(bytes.dropFirst(2))
  let length = UInt64(header.count).littleEndian
  return withUnsafeBytes(of: length, Array.init) + header + (0..<bytes[1]).map { $0 & 1 }
}
