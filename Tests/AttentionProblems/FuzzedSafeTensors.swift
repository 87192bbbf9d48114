import AttentionFiles
import AttentionTensors

/// Reads a fuzzer's bytes as a safetensors file. The file must be refused with an error, or be valid and survive a
/// round trip.
///
/// If the first byte is even, the other bytes are the file. If it is odd, the bytes from the third on are only a
/// header. Its length is put before it, and as many bytes of data as the second byte says are put after it. This second
/// form exists because a fuzzer rarely finds the right length of a header.
/// - Returns: What is wrong; nil if nothing is.
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

/// Reads the elements of a tensor in a way that its type allows.
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
