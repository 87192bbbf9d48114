import AttentionFiles
import AttentionTensors
import AttentionTestSupport
import Foundation
import Testing

@Suite("safetensors files round-trip")
struct RoundTripTests {
  private let folder: TemporaryFolder
  init() throws { folder = try TemporaryFolder() }

  @Test("tensors, shapes, strides and metadata", arguments: [SafeTensorsFile.Loading.mapped, .copied])
  func roundTrip(loading: SafeTensorsFile.Loading) throws {
    let x = try Tensor<Float>(uniform: -1..<1, shape: [3, 4, 5], seed: 1)
    var writer = SafeTensorsWriter()
    writer.metadata = ["format": "pt", "quote\"back\\slash": "line\nbreak\u{1}", "日本": "ü"]
    try writer.add("x", x)
    try writer.add("turned", x.transposed())
    try writer.add("empty", Tensor<Double>(repeating: 0, shape: [0, 3]))
    try writer.add("scalar", Tensor<Int64>([-5], shape: []))
    try writer.add("flags", [true, false, true] as Tensor<Bool>)
    try writer.add("bytes", [1, 2, 3] as Tensor<UInt8>)
    try writer.add("bf16", Tensor<BFloat16>(converting: [1, 2.5] as Tensor<Float>))
    try writer.add("name with \"quotes\"", [7] as Tensor<Int32>)
    try writer.write(to: folder("a.safetensors"))

    let file = try SafeTensorsFile(contentsOf: folder("a.safetensors"), loading: loading)
    #expect(file.metadata == writer.metadata)
    #expect(try file.tensor("x") == x)
    #expect(try file.tensor("turned") == x.transposed())
    #expect(try file.tensor("empty", as: Double.self).shape == [0, 3])
    #expect(try file.tensor("scalar", as: Int64.self).scalar == -5)
    #expect(try file.tensor("flags", as: Bool.self) == [true, false, true])
    #expect(try file.tensor("bytes", as: UInt8.self) == [1, 2, 3])
    #expect(try file.tensor("bf16", convertingTo: Float.self) == [1, 2.5])
    #expect(try file.tensor("name with \"quotes\"", as: Int32.self) == [7])
    #expect(file.entries.count == 8)
  }

  @Test("every type of the format", arguments: DataType.allCases)
  func everyType(dataType: DataType) throws {
    let bytes = (0..<UInt8(dataType.bitCount)).map { $0 % 2 }
    var writer = SafeTensorsWriter()
    try writer.add("x", dataType: dataType, shape: [2, 4], bytes: bytes)
    try writer.write(to: folder("t.safetensors"))
    let file = try SafeTensorsFile(contentsOf: folder("t.safetensors"))
    #expect(file.entry("x")?.dataType == dataType)
    #expect(file.entry("x")?.shape == [2, 4])
    try file.withUnsafeBytes(of: "x") { #expect(Array($0) == bytes) }
  }

  @Test("mapped tensors are views of the file; writing to a tensor copies it first")
  func mappedTensorsAreViews() throws {
    var writer = SafeTensorsWriter()
    try writer.add("x", [1, 2, 3] as Tensor<Float>)
    try writer.write(to: folder("v.safetensors"))
    let file = try SafeTensorsFile(contentsOf: folder("v.safetensors"))
    let first = try file.tensor("x", as: Float.self)
    var second = try file.tensor("x", as: Float.self)
    #expect(first.base == second.base)
    second[0] = 9
    #expect(first[0] == 1 && second[0] == 9)
    #expect(try SafeTensorsFile(contentsOf: folder("v.safetensors")).tensor("x", as: Float.self)[0] == 1)
  }

  @Test("a tensor outlives the file that it came from")
  func outlives() throws {
    var writer = SafeTensorsWriter()
    try writer.add("x", Tensor<Float>(repeating: 4, shape: [10_000]))
    try writer.write(to: folder("o.safetensors"))
    let tensor = try SafeTensorsFile(contentsOf: folder("o.safetensors")).tensor("x", as: Float.self)
    try FileManager.default.removeItem(atPath: folder("o.safetensors"))
    #expect(tensor.array.allSatisfy { $0 == 4 })
  }

  @Test("data that are not aligned are copied")
  func unaligned() throws {
    // A header of odd length: 4-byte elements begin at an odd address.
    let header = "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}"
    let padded = header + (header.utf8.count % 2 == 0 ? " " : "")
    var bytes = withUnsafeBytes(of: UInt64(padded.utf8.count).littleEndian, Array.init) + Array(padded.utf8)
    for value in [Float(1.5), -2] { bytes += withUnsafeBytes(of: value.bitPattern.littleEndian, Array.init) }
    let file = try SafeTensorsFile(contentsOf: folder.write(bytes, to: "u.safetensors"))
    #expect(try file.tensor("x", as: Float.self) == [1.5, -2])
  }

  @Test("writing replaces the whole file or nothing")
  func atomicWriting() throws {
    var writer = SafeTensorsWriter()
    try writer.add("x", [1] as Tensor<Float>)
    try writer.write(to: folder("w.safetensors"))
    try writer.write(to: folder("w.safetensors"))
    #expect(try folder.fileNames == ["w.safetensors"])
    #expect(throws: AttentionError.self) { try writer.write(to: folder("missing/w.safetensors")) }
    // A folder cannot be replaced by a file. No temporary file remains.
    try FileManager.default.createDirectory(atPath: folder("taken"), withIntermediateDirectories: false)
    #expect(throws: AttentionError.self) { try writer.write(to: folder("taken")) }
    #expect(try folder.fileNames == ["taken", "w.safetensors"])
    // A symbolic link is followed, permissions are kept, and long names are possible.
    try FileManager.default.createSymbolicLink(atPath: folder("link"), withDestinationPath: "w.safetensors")
    try FileManager.default.setAttributes([.posixPermissions: 0o640], ofItemAtPath: folder("w.safetensors"))
    try writer.add("y", [2] as Tensor<Float>)
    try writer.write(to: folder("link"))
    #expect(try SafeTensorsFile(contentsOf: folder("w.safetensors")).entries.count == 2)
    try FileManager.default.createSymbolicLink(atPath: folder("dangling"), withDestinationPath: "nowhere")
    #expect(throws: AttentionError.self) { try writer.write(to: folder("dangling")) }
    let attributes = try FileManager.default.attributesOfItem(atPath: folder("w.safetensors"))
    #expect(attributes[.posixPermissions] as? Int == 0o640)
    try writer.write(to: folder(String(repeating: "n", count: 250)))
    #expect(throws: AttentionError.self) { try writer.write(to: "") }
    #expect(throws: AttentionError.self) { try writer.write(to: folder("a\0b")) }
    #expect(throws: AttentionError.self) { try SafeTensorsFile(contentsOf: folder("w.safetensors\0junk")) }
  }

  @Test("a name that is taken or reserved, and bytes that do not fit the shape, are errors")
  func writerErrors() throws {
    var writer = SafeTensorsWriter()
    try writer.add("x", [1] as Tensor<Float>)
    #expect(throws: AttentionError.self) { try writer.add("x", [1] as Tensor<Float>) }
    #expect(throws: AttentionError.self) { try writer.add("__metadata__", [1] as Tensor<Float>) }
    #expect(throws: AttentionError.self) { try writer.add("y", dataType: .float32, shape: [2], bytes: [0]) }
    #expect(throws: AttentionError.self) { try writer.add("y", dataType: .float4, shape: [3], bytes: [0, 0]) }
    #expect(throws: AttentionError.self) { try writer.add("y", dataType: .float32, shape: [-1], bytes: []) }
    let endless = try Tensor<Float>(repeating: 1, shape: [1]).broadcast(to: [.max])
    #expect(throws: AttentionError.self) { try writer.add("y", endless) }
    let vast = try Tensor<Float>(repeating: 1, shape: [1]).broadcast(to: [1 << 60])
    try writer.add("vast", vast)
    #expect(throws: AttentionError.self) { try writer.add("too vast", vast) }
  }

  @Test("a wrong type or an unknown name is an error")
  func wrongTypeOrName() throws {
    var writer = SafeTensorsWriter()
    try writer.add("x", [1] as Tensor<Float>)
    try writer.add("n", [1] as Tensor<Int32>)
    try writer.write(to: folder("n.safetensors"))
    let file = try SafeTensorsFile(contentsOf: folder("n.safetensors"))
    let type = #expect(throws: AttentionError.self) { try file.tensor("x", as: Double.self) }
    #expect(type?.message == "tensor \"x\" of F64 expected; it is F32")
    let name = #expect(throws: AttentionError.self) { try file.tensor("z", as: Float.self) }
    #expect(name?.code == .notFound)
    #expect(throws: AttentionError.self) { try file.tensor("n", convertingTo: Float.self) }
  }
}
