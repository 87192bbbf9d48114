import AttentionFiles
import AttentionTensors
import AttentionTestSupport
import Foundation
import Testing

@Suite("Invalid safetensors files throw errors")
struct HostileFileTests {
  private let folder: TemporaryFolder
  init() throws { folder = try TemporaryFolder() }

  /// The error that opening a file of these parts throws; nil if the file opens.
  private func openError(_ header: [UInt8], data: Int = 0, length: UInt64? = nil) throws -> AttentionError? {
    let length = (length ?? UInt64(header.count)).littleEndian
    let bytes = withUnsafeBytes(of: length, Array.init) + header + [UInt8](repeating: 0, count: data)
    let path = try folder.write(bytes, to: "hostile.safetensors")
    var errors: [AttentionError?] = []
    for loading in [SafeTensorsFile.Loading.mapped, .copied] {
      do {
        _ = try SafeTensorsFile(contentsOf: path, loading: loading)
        errors.append(nil)
      } catch {
        errors.append(error)
      }
    }
    #expect(errors[0] == errors[1])
    return errors[0]
  }

  private func openError(_ header: String, data: Int = 0) throws -> AttentionError? {
    try openError(Array(header.utf8), data: data)
  }

  private func tensor(
    _ name: String, _ type: String = "U8", _ shape: String = "[4]", _ begin: String = "0", _ end: String = "4"
  ) -> String {
    "\"\(name)\":{\"dtype\":\"\(type)\",\"shape\":\(shape),\"data_offsets\":[\(begin),\(end)]}"
  }

  @Test("valid files open")
  func right() throws {
    #expect(try openError("{}") == nil)
    #expect(try openError("{\(tensor("x"))}", data: 4) == nil)
    #expect(try openError("{ \(tensor("x")) , \(tensor("y", "U8", "[2,0]", "4", "4")) }  \n", data: 4) == nil)
    #expect(try openError("{\"__metadata__\":{\"a\":\"\\u00fc\\ud83d\\ude00\\/\"},\(tensor("x"))}", data: 4) == nil)
  }

  static let lies: [(String, Int, String)] = [
    (
      "\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[2,6]}",
      6, "overlaps"
    ),
    (
      "\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}",
      4, "overlaps"
    ),
    (
      "\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[5,9]}",
      9, "belong to no tensor"
    ),
    ("\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[1,5]}", 5, "belong to no tensor"),
    ("\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}", 5, "the file has 5"),
    ("\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}", 3, "the file has 3 bytes of data"),
    ("\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,0]}", 4, "ends before it begins"),
    ("\"a\":{\"dtype\":\"U8\",\"shape\":[5],\"data_offsets\":[0,4]}", 4, "has 5 bytes; the range has 4"),
    ("\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,4]}", 4, "overflows"),
    ("\"a\":{\"dtype\":\"F32\",\"shape\":[9223372036854775807],\"data_offsets\":[0,4]}", 4, "overflows"),
    ("\"a\":{\"dtype\":\"U8\",\"shape\":[99999999999999999999],\"data_offsets\":[0,4]}", 4, "whole number"),
    ("\"a\":{\"dtype\":\"U8\",\"shape\":[-4],\"data_offsets\":[0,4]}", 4, "whole number"),
    ("\"a\":{\"dtype\":\"U8\",\"shape\":[4.0],\"data_offsets\":[0,4]}", 4, "expected"),
    ("\"a\":{\"dtype\":\"U8\",\"shape\":[04],\"data_offsets\":[0,4]}", 4, "whole number"),
    ("\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}", 2, "no whole number of bytes"),
    ("\"a\":{\"dtype\":\"Q9\",\"shape\":[4],\"data_offsets\":[0,4]}", 4, "unknown type \"Q9\""),
    ("\"a\":{\"dtype\":\"U8\",\"shape\":[4]}", 4, "expected"),
    ("\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4,4]}", 4, "two data_offsets"),
    ("\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"shape\":[4],\"data_offsets\":[0,4]}", 4, "appears twice"),
    ("\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4],\"more\":1}", 4, "unknown field"),
    (
      "\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}",
      4, "\"a\" appears twice"
    ),
    ("\"__metadata__\":{\"k\":\"v\",\"k\":\"w\"}", 0, "appears twice"),
    ("\"__metadata__\":{},\"__metadata__\":{}", 0, "appears twice"),
    ("\"__metadata__\":{\"k\":1}", 0, "expected"),
    ("\"a\":[1,2]", 0, "expected"),
    ("\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},", 4, "expected"),
    ("\"a\u{1}\":{}", 0, "control character"),
    ("\"\\ud800\":{}", 0, "surrogate"),
    ("\"\\udc00\":{}", 0, "surrogate"),
    ("\"\\u+123\":{}", 0, "hexadecimal"),
    ("\"\\x\":{}", 0, "escape"),
  ]

  @Test("wrong ranges, shapes, types and names throw", arguments: lies)
  func lie(body: String, data: Int, message: String) throws {
    let error = try #require(try openError("{\(body)}", data: data))
    #expect(error.code == .invalidFile)
    #expect(error.message.contains(message), "\(error)")
  }

  @Test("shapes without elements throw if their strides overflow")
  func emptyOverflow() throws {
    for shape in ["[0,1099511627776,1099511627776]", "[1099511627776,0,1099511627776]", "[0,9223372036854775807,2]"] {
      let error = try openError("{\(tensor("x", "F32", shape, "0", "0"))}")
      #expect(error?.message.contains("overflows") == true)
    }
  }

  @Test("errors name the tensor and its bytes")
  func namesTensorAndBytes() throws {
    let error = try #require(try openError("{\(tensor("wq", "F32", "[4]", "0", "12"))}", data: 12))
    #expect(error.message == "tensor \"wq\" at bytes 0..<12: [4] of F32 has 16 bytes; the range has 12")
  }

  @Test("headers that are too short, too long, not an object, followed by text, or not UTF-8 throw")
  func header() throws {
    for count in 0..<8 {
      let path = try folder.write([UInt8](repeating: 0, count: count), to: "short.safetensors")
      #expect(throws: AttentionError.self) { try SafeTensorsFile(contentsOf: path) }
      #expect(throws: AttentionError.self) { try SafeTensorsFile(contentsOf: path, loading: .copied) }
    }
    let empty = Array("{}".utf8)
    #expect(try openError([], length: 0)?.message.contains("begin with") == true)
    #expect(try openError(empty, length: 3)?.message.contains("past the end") == true)
    #expect(try openError(empty, length: 100_000_001)?.message.contains("at most") == true)
    #expect(try openError(empty, length: .max)?.message.contains("at most") == true)
    #expect(try openError(" {}")?.message.contains("begin with") == true)
    #expect(try openError("[]")?.message.contains("begin with") == true)
    #expect(try openError("{}x")?.message.contains("text after") == true)
    #expect(try openError("{\"a")?.message.contains("ends inside a string") == true)
    #expect(try openError("{\"a\\")?.message.contains("ends inside a string") == true)
    #expect(try openError("{\"a\\u12")?.message.contains("hexadecimal") == true)
    #expect(try openError(Array("{\"".utf8) + [0xff, 0xfe] + Array("\":{}}".utf8))?.message.contains("UTF-8") == true)
    #expect(try openError(Array("{\"".utf8) + [0xc0, 0x80] + Array("\":{}}".utf8))?.message.contains("UTF-8") == true)
  }

  @Test("a deeply nested header does not exhaust the stack")
  func deepNesting() throws {
    for piece in ["{\"a\":", "[", "{"] {
      let error = try openError("{\"x\":" + String(repeating: piece, count: 1_000_000))
      #expect(error?.code == .invalidFile)
    }
  }

  @Test("a huge header of many tensors opens, and cutting it anywhere does not trap")
  func manyTensors() throws {
    let header =
      "{" + (0..<20_000).map { tensor("t\($0)", "U8", "[1]", "\($0)", "\($0 + 1)") }.joined(separator: ",") + "}"
    #expect(try openError(header, data: 20_000) == nil)
    let small = Array("{\"__metadata__\":{\"a\":\"b\\u00e4\"},\(tensor("x"))}".utf8)
    for count in 0..<small.count { #expect(try openError(Array(small[..<count]), data: 4) != nil) }
  }

  @Test("opening a file with random changes never traps")
  func mutations() throws {
    let good = Array(
      "{\"__metadata__\":{\"a\":\"b\\n\"},\(tensor("x")),\(tensor("y", "F32", "[2,1]", "4", "12"))}".utf8)
    var generator = TestGenerator(seed: 11)
    let letters = Array("{}[]\",:\\u0123456789abcdefU8F32x".utf8) + [0, 0xff, 0x80]
    for _ in 0..<3_000 {
      var bytes = good
      for _ in 0..<Int.random(in: 1...4, using: &generator) {
        bytes[Int.random(in: bytes.indices, using: &generator)] = letters.randomElement(using: &generator)!
      }
      let path = try folder.write(
        withUnsafeBytes(of: UInt64(bytes.count).littleEndian, Array.init) + bytes + [UInt8](repeating: 0, count: 12),
        to: "m.safetensors")
      guard let file = try? SafeTensorsFile(contentsOf: path) else { continue }
      for entry in file.entries {
        try file.withUnsafeBytes(of: entry.name) { #expect($0.count == entry.byteRange.count) }
        if entry.dataType == .uint8 { _ = try file.tensor(entry.name, as: UInt8.self).description }
        if entry.dataType == .float32 { _ = try file.tensor(entry.name, as: Float.self).description }
      }
    }
  }

  @Test("booleans other than 0 and 1, folders and missing files throw")
  func others() throws {
    let header = Array("{\(tensor("b", "BOOL", "[4]"))}".utf8)
    let bytes = withUnsafeBytes(of: UInt64(header.count).littleEndian, Array.init) + header + [0, 1, 2, 0]
    let file = try SafeTensorsFile(contentsOf: folder.write(bytes, to: "b.safetensors"))
    let error = #expect(throws: AttentionError.self) { try file.tensor("b", as: Bool.self) }
    #expect(error?.message.contains("element 2 is 2") == true)
    #expect(throws: AttentionError.self) { try SafeTensorsFile(contentsOf: folder.path) }
    #expect(throws: AttentionError.self) { try SafeTensorsFile(contentsOf: folder("missing")) }
  }
}
